"""The steps of a conversion as one worker does them, and a crew of workers in processes of their own."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.conversion.boundaries import Boundaries
from ingest.conversion.bucket import Bucketer
from ingest.conversion.plan import Plan
from ingest.conversion.prepare import (
    Identities,
    Prepared,
    RunCounts,
    count_invalid,
    read_identities,
    read_prepared,
    selected_keys,
)
from ingest.conversion.sorting import Sorter, boundaries_of
from ingest.conversion.work import UnitResult, WorkFolder
from ingest.processes import Processes
from shards.base import InputError, OutputError, free_cores, keep_freed_memory
from shards.manifest import ShardInfo

logger = logging.getLogger(__name__)


class Engine:
    """Does single pieces of work of a plan; what they need in common is made once, when first needed."""

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan, self.out, self.work = plan, out, WorkFolder(out)

    def count(self, unit: int) -> RunCounts | str:
        """Unusable photon numbers of a unit by run; the reason as text where the source is to be skipped."""
        u = self.plan.units[unit]
        try:
            return count_invalid(self.plan.sources[u.source], u.start, u.stop)
        except InputError as error:
            return self._or_skip(error)

    def keys(self, unit: int, prepared: Prepared) -> npt.NDArray[np.uint64] | str:
        """Keys of a unit's selected events; the reason as text where the source is to be skipped."""
        try:
            return selected_keys(self.plan, self.plan.units[unit], prepared.dead)
        except InputError as error:
            return self._or_skip(error)

    def identities(self, source: int) -> Identities | str:
        """Which events a source holds; the reason as text where it is to be skipped."""
        try:
            return read_identities(self.plan.sources[source])
        except InputError as error:
            return self._or_skip(error)

    def _or_skip(self, error: InputError) -> str:
        if not self.plan.options.skip_bad_files:
            raise error
        return str(error)

    def bucket(self, unit: int) -> UnitResult:
        """Turn a unit into sorted rows."""
        return self._bucketer.convert(self.plan.units[unit])

    def sort(self, split: int, shard: int) -> ShardInfo:
        """Write a shard."""
        return self._sorter.write(split, shard)

    @cached_property
    def prepared(self) -> Prepared:
        """What was found before the first pass."""
        found = read_prepared(self.work)
        if found is None:
            raise OutputError(
                "the preparation step has not been run", file=self.work.path, remedy="run --step prepare first"
            )
        return found

    @cached_property
    def _bucketer(self) -> Bucketer:
        return Bucketer(self.plan, self.work, self.prepared)

    @cached_property
    def results(self) -> dict[int, UnitResult]:
        """The results of all units of sources that are used.

        Raises:
            OutputError: a unit is not done yet.
        """
        return usable(self.plan, self.work)

    @cached_property
    def boundaries(self) -> list[Boundaries]:
        """Where the shards of each split begin and end."""
        return [boundaries_of(self.plan, self.work, self.results, i) for i in range(len(self.plan.options.splits))]

    @cached_property
    def _sorter(self) -> Sorter:
        return Sorter(self.plan, self.work, self.out, self.results, self.boundaries)


def all_results(plan: Plan, work: WorkFolder) -> dict[int, UnitResult]:
    """The results of all units, those of sources that were given up included.

    Raises:
        OutputError: a unit is not done yet.
    """
    results = {unit.number: work.read_result(unit.number, plan.settings.layout.stride) for unit in plan.units}
    missing = [number for number, result in results.items() if result is None]
    if missing:
        raise OutputError(
            f"{len(missing)} of {len(plan.units)} units of the bucket step are not done",
            file=work.path,
            found=f"unit {missing[0]} is missing",
            remedy="run the bucket step for them again",
        )
    return {number: result for number, result in results.items() if result is not None}


def usable(plan: Plan, work: WorkFolder) -> dict[int, UnitResult]:
    """The results of all units whose source could be read as a whole."""
    results = all_results(plan, work)
    bad = {plan.units[number].source for number, result in results.items() if result.failed is not None}
    return {number: result for number, result in results.items() if plan.units[number].source not in bad}


# -- processes ------------------------------------------------------------------------------------------------------

WORTH_A_PROCESS = 8192
"""Events that one process converts in a second or two."""
_engine: Engine | None = None


def default_workers(events: int) -> int:
    """Processes for so many events: one per free core, but none that would work for less time than its start takes."""
    return max(1, min(free_cores(), events // WORTH_A_PROCESS))


class Crew:
    """Runs pieces of work, in this process and, of several workers, the others in processes of their own."""

    def __init__(self, plan: Plan, out: Path, workers: int | None) -> None:
        self.engine = Engine(plan, out)
        self._processes: Processes | None = None
        number = workers or default_workers(plan.entries)
        if number > 1:
            self._processes = Processes(number - 1, _begin, plan, out, logging.getLogger("ingest").getEffectiveLevel())
        keep_freed_memory()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._processes is not None:
            self._processes.close()

    def run(self, method: str, pieces: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Call an `Engine` method with each of `pieces`; yields (index, result) in the order of completion.

        The first failure stops the rest; of simultaneous failures the one with the lowest index is raised.
        """
        own = getattr(self.engine, method)
        if self._processes is None:
            yield from ((i, own(*piece)) for i, piece in enumerate(pieces))
            return
        yield from self._processes.run(_call, [(method, *piece) for piece in pieces], lambda _, *piece: own(*piece))


def _call(method: str, *piece: Any) -> Any:
    assert _engine is not None
    return getattr(_engine, method)(*piece)


def _begin(plan: Plan, out: Path, level: int) -> None:
    """Set up a worker: its engine and its log level."""
    global _engine
    logging.basicConfig(level=level)
    keep_freed_memory()
    gc.freeze()  # imported modules stay, and need not be scanned at every collection
    _engine = Engine(plan, out)
