from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.base import ConfigError, InputError
from shards.dead import LAST_RUN, DeadEntry, DeadList, difference, from_fractions, read_dead

ENTRIES = st.builds(
    DeadEntry,
    sensor=st.integers(0, 4759),
    run_first=st.integers(0, 50),
    run_last=st.one_of(st.integers(50, 99), st.just(LAST_RUN)),
    kind=st.sampled_from(["bad", "invalid"]),
    reason=st.sampled_from(["", "noisy", "cable, broken"]),
)
LISTS = st.lists(ENTRIES, max_size=6).map(DeadList.of)


@given(LISTS, LISTS)
def test_uniting_is_a_union_whatever_the_order(a: DeadList, b: DeadList) -> None:
    assert a | b == b | a == DeadList.of([*b.entries, *a.entries])
    assert a | a == a
    assert np.array_equal((a | b).sensors(), a.sensors() | b.sensors())


@given(LISTS)
def test_plain_values_and_csv_give_the_list_back(tmp_path_factory: pytest.TempPathFactory, dead: DeadList) -> None:
    assert DeadList.from_list(dead.to_list()) == dead
    path = tmp_path_factory.mktemp("dead") / "dead.csv"
    dead.write(path)
    named = DeadList.of(
        DeadEntry(e.sensor, e.run_first, e.run_last, e.kind, e.reason or "dead.csv") for e in dead.entries
    )
    assert read_dead(path) == named


@given(LISTS, st.lists(st.integers(0, 120), min_size=1, max_size=5))
def test_masks_say_for_each_event_what_the_ranges_say(dead: DeadList, runs: list[int]) -> None:
    mask = dead.mask(np.array(runs))
    if mask is None:
        assert not len(dead)
        return
    for row, run in zip(mask, runs, strict=True):
        expected = {e.sensor for e in dead.entries if e.run_first <= run <= e.run_last}
        assert set(np.flatnonzero(row)) == expected


def test_text_lists_keep_comments_as_reasons(tmp_path: Path) -> None:
    path = tmp_path / "dead.txt"
    path.write_text("# head\n17\n 4100   # HV tripped\n\n")
    assert read_dead(path).entries == (DeadEntry(17, reason="dead.txt"), DeadEntry(4100, reason="HV tripped"))


def test_tables_of_run_ranges(tmp_path: Path) -> None:
    rows = {
        "run_first": [1, None],
        "run_last": [9, 20],
        "sensor": [5, 6],
        "reason": ["a", None],
        "kind": ["invalid", "bad"],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "d.parquet")
    pl.DataFrame(rows).write_csv(tmp_path / "d.csv")
    expected = (DeadEntry(5, 1, 9, "invalid", "a"), DeadEntry(6, 0, 20, "bad", "d.{}"))
    for suffix in ("parquet", "csv"):
        found = read_dead(tmp_path / f"d.{suffix}")
        assert found.entries[0] == expected[0]
        assert found.entries[1] == DeadEntry(6, 0, 20, "bad", f"d.{suffix}")
        assert found.sensors(kind="bad").nonzero()[0].tolist() == [6]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.txt", "5\n4760\n", r"d\.txt: line 2: does not name a channel \(found '4760', expected 0 to 4759\)"),
        ("d.csv", "run_first,run_last,sensor\n1,2,x\n", r"d\.csv: row 1: does not name a channel"),
        ("d.csv", "run_first,run_last,sensor\n3,2,7\n", r"run range ends before it starts \(found 3 to 2\)"),
        ("d.csv", "run_first,run_last,sensor\na,2,7\n", r"does not name a run \(found 'a', expected a whole number\)"),
        ("d.csv", "run_first,run_last,channel\n1,2,7\n", r"is not a dead list \(found run_first, run_last, channel"),
        ("d.csv", "sensor,kind\n7,odd\n", r"unknown kind of dead channel \(found odd, expected bad or invalid\)"),
        ("d.csv", "run,sensor\n5,7\n", r"unknown column 'run' of a dead list; did you mean 'run_"),
        ("d.csv", "sensor,kind\n7,bad,more\n", "unknown column 'more values than columns'"),
        ("d.csv", "run_first,sensor\n1.5,7\n", r"does not name a run \(found '1\.5', expected a whole number"),
        ("d.txt", "²\n", r"line 1: does not name a channel \(found '²'"),
        ("d.parquet", "text", r"d\.parquet: is not a Parquet file"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_dead(tmp_path / name)
    with pytest.raises(InputError, match="there is no such dead list"):
        read_dead(tmp_path / "gone.txt")


def test_channels_found_in_the_data_are_invalid_not_bad_and_per_run() -> None:
    invalid = {1: np.zeros(4760, int), 2: np.zeros(4760, int)}
    invalid[1][[3, 4]] = (9, 8)
    invalid[2][4] = 5
    found = from_fractions({1: 10, 2: 5}, invalid, 0.9)
    assert [(e.sensor, e.run_first, e.run_last, e.kind) for e in found.entries] == [
        (3, 1, 1, "invalid"),
        (4, 2, 2, "invalid"),
    ]
    assert "at least 0.9" in found.entries[0].reason
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        from_fractions({}, {}, 0.0)


def test_differences_do_not_mind_reasons() -> None:
    a = DeadList.of([DeadEntry(1, reason="x"), DeadEntry(2)])
    b = DeadList.of([DeadEntry(1, reason="y"), DeadEntry(3, 5, 6)])
    found = difference(a, b)
    assert (found.only_first.entries, found.only_second.entries, found.common) == (
        (DeadEntry(2),),
        (DeadEntry(3, 5, 6),),
        1,
    )


def test_whole_floats_byte_order_marks_and_empty_places_of_tables_are_understood(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("\ufeffrun_first,run_last,sensor\n430001.0,,12.0\n", encoding="utf-8")
    pl.DataFrame({"run_first": [430001.0], "run_last": [float("nan")], "sensor": [12]}).write_parquet(
        tmp_path / "d.parquet"
    )
    for name in ("d.csv", "d.parquet"):
        (entry,) = read_dead(tmp_path / name).entries
        assert (entry.sensor, entry.run_first, entry.run_last) == (12, 430001, LAST_RUN)
