"""Whole numbers of 64 bits as two float64: nothing is lost, and the first is the nearest there is."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from shards.columns import Column, canonical_order
from shards.whole import joined, parted, rest_of, whole_places

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INT64, min_size=1, max_size=20))
@example([2**63 - 1, -(2**63), 2**53 + 1, -(2**53) - 1, 0, -1, 2**62 + 1])
def test_two_floats_hold_every_integer(numbers: list[int]) -> None:
    values = np.array(numbers, np.int64)
    nearest, rest = parted(values)
    assert nearest.tolist() == [float(n) for n in numbers]
    assert [int(a) + int(b) for a, b in zip(nearest.tolist(), rest.tolist(), strict=True)] == numbers
    back = joined(nearest, rest)
    assert back.dtype == np.int64
    assert back.tolist() == numbers


def test_the_rest_stands_behind_all_other_columns() -> None:
    stamp, run = Column("a_stamp", "ns", "carried"), Column("run", "", "identity")
    columns = canonical_order([rest_of(stamp), Column("zz", "", "carried"), stamp, run])
    assert [column.name for column in columns] == ["run", "a_stamp", "zz", "a_stamp.rest"]
    assert whole_places(columns) == {"a_stamp": (1, 3)}
