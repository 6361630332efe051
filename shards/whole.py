"""Whole numbers of 64 bits in vectors of float64: the nearest float64 is one entry, what it leaves another.

So whoever reads the first alone has the number as well as float64 can, and both together are exact. Such a column is
never missing: an integer has no mark for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.columns import Column

EXACT = 2**53
"""Whole numbers up to this are float64 numbers."""
SUFFIX = ".rest"


def rest_of(column: Column) -> Column:
    """The column that holds what the nearest float64 leaves of a whole one."""
    return Column(f"{column.name}{SUFFIX}", column.unit, "rest", f"{column.name} minus its nearest float64")


def whole_places(columns: Sequence[Column]) -> dict[str, tuple[int, int]]:
    """Where the two entries of each whole column are in a vector of `columns`, by its name."""
    place = {column.name: i for i, column in enumerate(columns)}
    rests = [column.name for column in columns if column.role == "rest"]
    return {name.removesuffix(SUFFIX): (place[name.removesuffix(SUFFIX)], place[name]) for name in rests}


def parted(values: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The nearest float64 of each number, and what it leaves; (n,) each."""
    nearest = values.astype(np.float64)
    return nearest, (values - _cut(nearest)).astype(np.float64)


def joined(nearest: npt.NDArray[np.float64], rest: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The inverse of `parted`, exact."""
    return np.asarray(_cut(nearest) + rest.astype(np.int64))


def _cut(nearest: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Whole float64 numbers as integers modulo 2⁶⁴: the largest of 64 bits are nearest to 2⁶³, which is none itself."""
    return np.where(nearest < 2.0**63, nearest, -(2.0**63)).astype(np.int64)


def inexact(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which whole numbers have to be refused where only float64 is kept."""
    return np.asarray((values > EXACT) | (values < -EXACT))
