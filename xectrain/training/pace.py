"""How long a run takes, from its first real steps, and how many steps a budget of minutes allows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shards.base import duration_text
from xectrain.config.tree import TrainConfig

logger = logging.getLogger(__name__)

WARMING, MEASURED = 2, 2
"""Steps that are not measured (they compile, allocate and fill caches), and steps after which the pace is known."""
VALIDATION_SHARE = 0.5
"""Time of a validation event in units of a training event's, until the first validation has been measured."""


class Pace:
    """Measures the steps of a run from where it starts, and predicts how many there will be."""

    def __init__(
        self,
        config: TrainConfig,
        epoch_steps: int,
        validation_steps: float,
        spent_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start measuring.

        Args:
            config: epochs, minutes and `val_every`.
            epoch_steps: optimizer steps of an epoch.
            validation_steps: a validation's events in steps of training.
            spent_s: seconds of the budget that were used before the run was interrupted.
            clock: seconds.
        """
        self._config, self._epoch_steps, self._validation_steps = config, epoch_steps, validation_steps
        self._clock, self._began, self._spent = clock, clock(), spent_s
        self._steps, self._seconds, self._last = 0, 0.0, clock()
        self._validation_s: float | None = None

    @property
    def spent_s(self) -> float:
        """Seconds since the run began, without those in which it was interrupted."""
        return self._spent + self._clock() - self._began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside out of the budget."""
        began = self._clock()
        yield
        self._began += self._clock() - began

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Measure a validation."""
        began = self._clock()
        yield
        self._validation_s = self._clock() - began

    def begin_epoch(self) -> None:
        """Note that steps follow now."""
        self._last = self._clock()

    def step_ended(self) -> None:
        """Account for one optimizer step."""
        now = self._clock()
        if self._steps >= WARMING:
            self._seconds += now - self._last
        self._steps, self._last = self._steps + 1, now

    @property
    def step_s(self) -> float | None:
        """Mean seconds of a step; None while not known."""
        measured = self._steps - WARMING
        return self._seconds / measured if measured >= MEASURED else None

    def last_step(self, done: int) -> int:
        """The number of steps after which the run ends, as far as is known now.

        Args:
            done: steps done in all.
        """
        all_epochs = self._config.epochs * self._epoch_steps
        if self._config.minutes is None:
            return all_epochs
        left_s = self._config.minutes * 60 - self.spent_s
        if self.step_s is None:
            return all_epochs if left_s > 0 else done
        validation_s = self._validation_s or self._validation_steps * VALIDATION_SHARE * self.step_s
        with_validations_s = self.step_s + validation_s / (self._epoch_steps * self._config.val_every)
        return min(all_epochs, done + max(0, int((left_s - validation_s) / with_validations_s)))

    def announce(self, done: int) -> None:
        """Log once, when the pace is known, how long the run will take.

        Args:
            done: steps done in all.
        """
        if self._steps != WARMING + MEASURED or self.step_s is None:
            return
        left = self.last_step(done) - done
        logger.info(
            "expecting %s per epoch, and %s for the remaining %d steps (%.3g epochs), not including validation",
            duration_text(self.step_s * self._epoch_steps),
            duration_text(self.step_s * left),
            left,
            left / self._epoch_steps,
        )
