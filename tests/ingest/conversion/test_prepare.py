from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingest.conversion.prepare import RunCounts, last_key

PIECES = st.lists(st.lists(st.integers(0, 2**64 - 1)), max_size=5).filter(
    lambda pieces: len({k for p in pieces for k in p}) == sum(len(p) for p in pieces)
)


@given(PIECES, st.integers(1, 12))
def test_the_last_key_keeps_as_many_as_asked_for(pieces: list[list[int]], wanted: int) -> None:
    """Each piece may be cut to one more than are wanted, as the workers do."""
    arrays = [np.sort(np.array(piece, dtype=np.uint64)) for piece in pieces]
    everything = sorted(k for piece in pieces for k in piece)
    found = last_key([array[: wanted + 1] for array in arrays], wanted)
    kept = everything if found is None else [k for k in everything if k <= found]
    assert kept == everything[:wanted]


def test_counts_of_runs_add_up() -> None:
    one = RunCounts({1: 3}, {1: np.arange(4760)})
    two = RunCounts({1: 2, 5: 1}, {1: np.ones(4760, int), 5: np.zeros(4760, int)})
    total = one + two
    assert total.events == {1: 5, 5: 1}
    np.testing.assert_array_equal(total.invalid[1], np.arange(4760) + 1)
    assert one.events == {1: 3}
