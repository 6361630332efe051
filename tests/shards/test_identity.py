from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.synthetic import make_dataset

from shards.identity import event_hashes, known_hashes, repeated, shared_events

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**53)), max_size=30)


@given(PAIRS, PAIRS)
def test_what_comes_twice_is_counted_wherever_it_lies(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> None:
    hashes = [event_hashes(*np.array(pairs, dtype=np.float64).reshape(-1, 2).T) for pairs in (one, two)]
    assert len(repeated(hashes)) == len(one) + len(two) - len({*one, *two})


def test_events_of_made_up_numbers_are_not_known(tmp_path: Path) -> None:
    """The synthetic datasets name no branch for run and event: their numbers tell nothing apart."""
    data, other = make_dataset(tmp_path / "a", 20), make_dataset(tmp_path / "b", 20, seed=1)
    assert known_hashes(data) is None
    assert shared_events(data, np.arange(20), other, np.arange(20)) == 0
    assert shared_events(data, np.arange(10), data, np.arange(8, 20)) == 2
