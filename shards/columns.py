"""Canonical columns: the names, units and roles that shards, selections and predictions share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ROLES = ("identity", "truth", "carried", "rest")


@dataclass(frozen=True)
class Column:
    """One number per event."""

    name: str
    unit: str
    """"" for pure numbers."""
    role: str
    """`identity` (whole numbers naming the event), `truth` (what a network may be trained on), `carried` (all else),
    `rest` (what remains of a 64-bit integer beyond its nearest float64: `shards.whole`)."""
    description: str = ""
    branch: str = ""
    """The branch of the input it came from, in a dataset's manifest; empty in the canonical table."""


def _table(*columns: Column) -> dict[str, Column]:
    return {column.name: column for column in columns}


COLUMNS: dict[str, Column] = _table(
    Column("run", "", "identity", "run number"),
    Column("event", "", "identity", "event number within the run"),
    Column("theta", "degree", "truth", "polar angle of the emission direction, acos(z)"),
    Column("phi", "degree", "truth", "azimuth of the emission direction, atan2(y, -x)"),
    Column("energy", "GeV", "truth", "gamma energy; the schema says whether incident or deposited"),
    Column("energy_dep", "GeV", "truth", "deposited energy"),
    Column("timing", "ns", "truth", "gamma time"),
    Column("time_min_used", "s", "carried", "earliest sensor time, which was subtracted from the sensors' times"),
    Column("u", "cm", "truth", "first interaction along the beam"),
    Column("v", "cm", "truth", "first interaction along the inner face's arc"),
    Column("w", "cm", "truth", "first interaction's depth from the inner face"),
    Column("x", "cm", "truth", "first interaction"),
    Column("y", "cm", "truth", "first interaction"),
    Column("z", "cm", "truth", "first interaction"),
    Column("emi_x", "", "truth", "emission direction, unit vector"),
    Column("emi_y", "", "truth", "emission direction, unit vector"),
    Column("emi_z", "", "truth", "emission direction, unit vector"),
    Column("vtx_x", "cm", "truth", "gamma origin on the target"),
    Column("vtx_y", "cm", "truth", "gamma origin on the target"),
    Column("vtx_z", "cm", "truth", "gamma origin on the target"),
    Column("n_gamma", "", "truth", "number of gammas"),
)
"""Every canonical column by name, in the order shards keep them."""


def canonical_order(columns: Iterable[Column]) -> tuple[Column, ...]:
    """`columns` in the order of the canonical table, followed by the carried ones, by name, with the rests last."""
    place = {name: i for i, name in enumerate(COLUMNS)}
    return tuple(sorted(columns, key=lambda c: (c.role == "rest", place.get(c.name, len(place)), c.name)))
