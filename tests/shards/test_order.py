"""The hash: pinned values, no dependence on anything but its arguments, fair splits that do not move."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.base import ConfigError, InputError
from shards.order import assign_splits, balanced_split, event_keys, hash64, mix64, parse_split, sort_events, uniform


def test_the_mixer_is_splitmix64() -> None:
    """First outputs of the reference generator seeded with 0: state i·γ, then the finalizer."""
    states = (np.arange(1, 4, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    assert [f"{v:016x}" for v in mix64(states)] == ["e220a8397b1dcdaf", "6e789e6aa1b965f4", "06c45d188009454f"]


def test_keys_are_pinned_for_ever() -> None:
    """Datasets converted today must merge with those of every later version."""
    assert event_keys(0, "uuid:tree", [0, 1, 2]).tolist() == [
        7914992148948601971,
        13074492221081050546,
        13698144788212998865,
    ]


@given(st.integers(0, 2**63), st.text(max_size=20), st.lists(st.integers(0, 2**40), min_size=1, max_size=30))
def test_a_key_does_not_depend_on_the_other_entries(seed: int, source: str, entries: list[int]) -> None:
    together = event_keys(seed, source, np.array(entries))
    alone = [int(event_keys(seed, source, entry)) for entry in entries]
    assert together.tolist() == alone


def test_keys_differ_by_seed_source_purpose_and_entry() -> None:
    n = np.arange(1000)
    families = [event_keys(0, "a", n), event_keys(1, "a", n), event_keys(0, "b", n), hash64("x", (0, "a"), n)]
    assert len(np.unique(np.concatenate(families))) == 4000
    for i, a in enumerate(families):
        for b in families[:i]:
            assert abs(np.corrcoef(uniform(a), uniform(b))[0, 1]) < 0.12


def test_keys_are_flat() -> None:
    u = uniform(event_keys(3, "source", np.arange(100_000)))
    counts = np.histogram(u, 50, (0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 95, "chi-square of 49 degrees of freedom"
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.012


def test_ties_are_broken_by_source_and_entry() -> None:
    keys = np.array([5, 5, 5, 1], np.uint64)
    assert sort_events(keys, np.array([1, 0, 0, 1]), np.array([0, 7, 3, 9])).tolist() == [3, 2, 1, 0]


def test_splits_have_their_fractions_and_do_not_move() -> None:
    fractions = parse_split("train=0.8, val=0.15,test=0.05")
    n = np.arange(20_000)
    got = assign_splits(fractions, "event", "a", n)
    assert np.bincount(got) / len(n) == pytest.approx([0.8, 0.15, 0.05], abs=0.01)
    np.testing.assert_array_equal(assign_splits(fractions, "event", "a", n[100:200]), got[100:200])
    assert (assign_splits(fractions, "event", "a", n, seed=1) != got).mean() > 0.2


def test_splits_are_independent_of_the_order() -> None:
    n = np.arange(20_000)
    train = assign_splits({"train": 0.5, "val": 0.5}, "event", "a", n) == 0
    assert uniform(event_keys(0, "a", n))[train].mean() == pytest.approx(0.5, abs=0.01)


def test_runs_and_sources_go_where_their_groups_are() -> None:
    fractions = {"train": 0.5, "val": 0.5}
    run = np.array([1.0, 2, 1, 3])
    groups = {"train": [1, 3], "val": [2]}
    assert assign_splits(fractions, "run", "a", np.arange(4), run, groups=groups).tolist() == [0, 1, 0, 0]
    sources = {"train": ["a"], "val": ["b"]}
    assert assign_splits(fractions, "source", "b", np.arange(3), groups=sources).tolist() == [1, 1, 1]
    with pytest.raises(InputError, match=r"a run is not in any part of the split .found 9"):
        assign_splits(fractions, "run", "a", np.arange(1), np.array([9.0]), groups=groups)


@pytest.mark.parametrize(
    ("runs", "split", "expected"),
    [(10, "train=0.9,val=0.1", [9, 1]), (4, "train=0.75,val=0.25", [3, 1]), (7, "train=0.9,val=0.1", [6, 1]),
     (2, "train=0.9,val=0.1", [1, 1]), (20, "a=0.8,b=0.1,c=0.1", [16, 2, 2])],
)  # fmt: skip
def test_equal_runs_are_divided_as_asked(runs: int, split: str, expected: list[int]) -> None:
    for seed in range(3):
        parts = balanced_split(dict.fromkeys(range(runs), 100), parse_split(split), "run", seed)
        assert [len(inside) for inside in parts.values()] == expected


SIZES = st.dictionaries(st.integers(0, 10**6), st.integers(1, 1000), min_size=3, max_size=40)


@given(SIZES, st.integers(0, 5), st.randoms())
def test_a_balanced_split_hangs_on_nothing_but_runs_and_their_sizes(
    sizes: dict[int, int], seed: int, random: Random
) -> None:
    fractions = {"train": 0.7, "val": 0.2, "test": 0.1}
    parts = balanced_split(sizes, fractions, "run", seed)
    items = list(sizes.items())
    random.shuffle(items)
    assert balanced_split(dict(items), fractions, "run", seed) == parts
    assert sorted(run for inside in parts.values() for run in inside) == sorted(sizes)
    assert all(parts.values())
    largest, total = max(sizes.values()), sum(sizes.values())
    for name, fraction in fractions.items():
        assert abs(sum(sizes[run] for run in parts[name]) - fraction * total) <= 3 * largest


def test_fewer_runs_than_parts_are_refused() -> None:
    with pytest.raises(InputError, match=r"1 run cannot be divided into 2 parts; .*--split-by event"):
        balanced_split({5: 10}, {"a": 0.5, "b": 0.5}, "run")


def test_splitting_by_a_run_that_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match="events without a run number cannot be split by run"):
        assign_splits({"a": 1.0}, "run", "file", np.arange(2), np.array([1.0, np.nan]), groups={"a": [1]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train", "is not a list of splits"),
        ("train=0.5,train=0.5", "is not a list of splits"),
        ("train=0.5,val=x", "is not a list of splits"),
        ("a b=1", "is not a list of splits"),
        ("train=0.9,val=0.2", "do not add up to 1"),
    ],
)
def test_wrong_splits_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_split(text)


def test_unknown_ways_to_split_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot split by 'runs'; did you mean 'run'"):
        assign_splits({"a": 1.0}, "runs", "file", np.arange(2))
