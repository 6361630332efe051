from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingest.conversion.boundaries import cut_run, find_boundaries

KEYS = st.one_of(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60),
    st.lists(st.integers(0, 9), min_size=1, max_size=60),  # many ties
    st.integers(1, 60).map(lambda n: list(range(n))),  # unshuffled
)


@given(KEYS, st.integers(1, 25), st.integers(1, 4))
def test_every_row_is_in_the_shard_that_sorting_all_keys_gives(keys: list[int], per_shard: int, pieces: int) -> None:
    parts = [np.sort(part) for part in np.array_split(np.array(keys, dtype=np.uint64), pieces)]
    bounds = find_boundaries(lambda: iter(parts), per_shard)
    whole = np.sort(np.array(keys, dtype=np.uint64))
    assert bounds.events == len(keys)
    assert bounds.shards == -(-len(keys) // per_shard)
    for shard in range(bounds.shards):
        expected = whole[shard * per_shard : (shard + 1) * per_shard]
        assert bounds.rows_of(shard) == len(expected)
        cuts = [part[slice(*cut_run(part, bounds, shard))] for part in parts]
        skip = bounds.skip_of(shard)
        gathered = np.sort(np.concatenate(cuts))[skip : skip + len(expected)]
        assert np.array_equal(gathered, expected)


def test_no_keys_give_no_shards() -> None:
    assert find_boundaries(lambda: iter(()), 10).shards == 0
