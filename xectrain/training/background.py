"""Work in a thread beside training: what only one rank does must never make the others wait."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Runs jobs one after the other in a thread of its own. A context manager: leaving it waits for all of them.

    A job that fails ends the queue: `submit` and `close` raise its error, and later jobs are not run.
    """

    def __init__(self, name: str) -> None:
        self._changed = threading.Condition()
        self._jobs: dict[object, Callable[[], None]] = {}
        self._error: BaseException | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None], key: object = None) -> None:
        """Run `job` after those submitted before.

        Args:
            job: what to do.
            key: shared by jobs that supersede one another: one that still waits is dropped for this one. None: none.
        """
        with self._changed:
            self._complain()
            key = object() if key is None else key
            self._jobs.pop(key, None)
            self._jobs[key] = job
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until everything submitted so far is done."""
        done = threading.Event()
        self.submit(done.set)
        while not done.wait(0.1):
            with self._changed:
                self._complain()

    def close(self, patience_s: float | None = None) -> bool:
        """Take no more jobs and wait until all are done.

        Args:
            patience_s: how long to wait [s]; None: without limit.

        Returns:
            Whether everything was done.
        """
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join(patience_s)
        self._complain()
        return not self._thread.is_alive()

    def _complain(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._ending)
                if not self._jobs:
                    return
                job = self._jobs.pop(next(iter(self._jobs)))
            try:
                job()
            except BaseException as error:  # noqa: BLE001  raised in the thread that submitted the job
                self._error = error
                return
