"""A schema applied to one tree: which branch stands for what, and with which factor."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ingest.reading.branches import InputBranch
from ingest.reading.schema import ColumnField, Schema, SensorField
from ingest.reading.units import factor
from shards.base import ConfigError, InputError, nearest
from shards.columns import COLUMNS
from shards.identity import IDENTITY


@dataclass(frozen=True)
class BoundSensors:
    """A per-sensor branch of a tree."""

    branch: str
    factor: float
    """Factor to photons or seconds."""


@dataclass(frozen=True)
class BoundColumn:
    """A column read from one component of a branch."""

    name: str
    branch: str
    """Empty: not read but filled in: the run number of the list file, or the entry number as event."""
    component: int
    width: int
    """Values per event of the branch."""
    factor: float
    """Factor to the column's unit."""
    unit: str
    invalid: tuple[float, ...] = ()
    meaning: str = ""
    carried: bool = False
    bits: int = 0
    """Bits of a carried integer, which is kept exactly, and of run or event numbers that need all 64; 0: a fraction, a
    code, a scaled or any other column."""

    @property
    def exact(self) -> bool:
        """Whether its values are int64, since float64 would not hold them."""
        return self.bits == 64

    @property
    def origin(self) -> str:
        """For the manifest: the branch, with the component where it has several."""
        return self.branch if self.width == 1 else f"{self.branch}[{self.component}]"


@dataclass(frozen=True)
class Binding:
    """Everything that is read from one tree."""

    npho: BoundSensors
    time: BoundSensors | None
    dead: str | None
    relative: bool
    """Whether times are relative to `time_min_used`."""
    columns: tuple[BoundColumn, ...]
    missing: tuple[str, ...]
    """Columns of the schema that no branch of the tree stands for."""


def bind(schema: Schema, branches: Mapping[str, InputBranch], path: Path, tree: str, run_given: bool) -> Binding:
    """Match `schema` with the branches of a tree.

    Raises:
        InputError: a required branch is missing (the nearest names are listed).
        ConfigError: two branches would become the same column.
    """
    npho = _sensors(schema.npho, branches, path, tree, "photons", "npho")
    if npho is None:
        raise InputError("has no branch for npho", file=path, item=tree)  # npho optional in a user's schema, yet absent
    time = _sensors(schema.time, branches, path, tree, "s", "time")
    dead = _first(schema.dead.branches, branches) if schema.dead else None
    if schema.dead is not None and schema.dead.required and dead is None:
        raise _absent("dead", schema.dead.branches, branches, path, tree)
    columns: list[BoundColumn] = []
    missing: list[str] = []
    used = {b for b in (npho.branch, time.branch if time else None, dead) if b}
    for field in schema.columns:
        bound = _columns(field, branches, used, path, tree, run_given)
        columns += bound
        missing += [] if bound else field.names
    used_names = [column.name for column in columns]
    for name in used_names:
        if used_names.count(name) > 1:
            raise ConfigError(f"column {name!r} would come from several branches", file=path, item=tree)
    columns += [_filled(name) for name in IDENTITY if name not in used_names]
    order = {name: i for i, name in enumerate(COLUMNS)}
    return Binding(
        npho=npho,
        time=time,
        dead=dead,
        relative=time is not None and time.branch in schema.time.relative,
        columns=tuple(sorted(columns, key=lambda c: (order.get(c.name, len(order)), c.name))),
        missing=tuple(name for name in missing if name not in IDENTITY),
    )


def _sensors(
    field: SensorField, branches: Mapping[str, InputBranch], path: Path, tree: str, unit: str, what: str
) -> BoundSensors | None:
    name = _first(field.branches, branches)
    if name is None:
        if field.required:
            raise _absent(what, field.branches, branches, path, tree)
        return None
    return BoundSensors(name, factor(field.unit, unit, file=str(path), item=name) * field.scale)


def _columns(
    field: ColumnField, branches: Mapping[str, InputBranch], used: set[str], path: Path, tree: str, run_given: bool
) -> list[BoundColumn]:
    if not field.names:
        return _matching(field, branches, used)
    if field.names == ("run",) and run_given:
        return [_filled("run")]
    branch = _first(field.branches, branches)
    if branch is None:
        if field.required:
            raise _absent(", ".join(field.names), field.branches, branches, path, tree)
        return []
    used.add(branch)
    return [
        BoundColumn(
            name=name,
            branch=branch,
            component=i,
            width=len(field.names),
            factor=factor(field.unit or field.column_unit(name), field.column_unit(name), file=str(path), item=branch)
            * field.scale,
            unit=field.column_unit(name),
            invalid=field.invalid,
            meaning=field.meaning,
            carried=field.carried,
            bits=_bits(field, branches[branch]),
        )
        for i, name in enumerate(field.names)
    ]


def _matching(field: ColumnField, branches: Mapping[str, InputBranch], used: set[str]) -> list[BoundColumn]:
    """Single-valued numeric branches that a carried pattern matches and nothing else has taken."""
    names = sorted({b.name for b in branches.values() if b.numeric and b.length == 1} - used)
    return [
        BoundColumn(
            *(name.replace("/", "."), name, 0, 1, field.scale, field.unit, field.invalid, field.meaning, True),
            bits=_bits(field, branches[name]),
        )
        for name in names
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in field.branches)
    ]


def _bits(field: ColumnField, branch: InputBranch) -> int:
    if not field.carried or field.invalid or field.scale != 1 or not branch.whole or branch.dtype is None:
        return 0
    return 8 * branch.dtype.itemsize


def _filled(name: str) -> BoundColumn:
    return BoundColumn(name, "", 0, 1, 1.0, "")


def _first(candidates: tuple[str, ...], branches: Mapping[str, InputBranch]) -> str | None:
    """The full name of the first candidate that is there."""
    return next((branches[name].name for name in candidates if name in branches), None)


def _absent(
    what: str, candidates: tuple[str, ...], branches: Mapping[str, InputBranch], path: Path, tree: str
) -> InputError:
    return InputError(
        f"has no branch for {what}",
        file=path,
        item=tree,
        expected=" or ".join(repr(c) for c in candidates),
        remedy=f"{nearest(candidates[0], branches)} (choose what branches mean with --schema)" if branches else None,
    )
