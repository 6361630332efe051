"""64-bit integers in vectors of float64: the nearest float64 is one entry, the remainder another.

The first alone is as close as float64 can be; both together are exact. Such a column never has missing values: an
integer has no mark for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.columns import Column

EXACT = 2**53
"""Every integer up to this is a float64 number."""
SUFFIX = ".rest"


def rest_of(column: Column) -> Column:
    """The column that holds the remainders of an integer column."""
    return Column(f"{column.name}{SUFFIX}", column.unit, "rest", f"{column.name} minus its nearest float64")


def whole_places(columns: Sequence[Column]) -> dict[str, tuple[int, int]]:
    """Places of the two entries of each integer column in a vector of `columns`, by its name."""
    place = {column.name: i for i, column in enumerate(columns)}
    rests = [column.name for column in columns if column.role == "rest"]
    return {name.removesuffix(SUFFIX): (place[name.removesuffix(SUFFIX)], place[name]) for name in rests}


def parted(values: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The nearest float64 of each number, and the remainder; (n,) each."""
    nearest = values.astype(np.float64)
    return nearest, (values - _cut(nearest)).astype(np.float64)


def joined(nearest: npt.NDArray[np.float64], rest: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The inverse of `parted`, exact."""
    return np.asarray(_cut(nearest) + rest.astype(np.int64))


def _cut(nearest: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Whole float64 numbers as integers modulo 2⁶⁴: the largest 64-bit ones are nearest to 2⁶³, not one itself."""
    return np.where(nearest < 2.0**63, nearest, -(2.0**63)).astype(np.int64)


def inexact(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which integers are beyond 2⁵³ in magnitude, so that float64 may not hold them; bool, same shape."""
    return np.asarray((values > EXACT) | (values < -EXACT))
