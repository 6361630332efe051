"""Whole numbers of 64 bits, carried or naming an event, come out of a conversion as they went in."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.conversion import options
from support.ingest_files import digests, events, write_tree

from ingest.conversion.convert import convert
from ingest.inspection.inspect import find_duplicates
from ingest.reading.rootio import open_sources
from ingest.reading.schema import load_schema
from shards.base import InputError
from shards.dataset import Dataset
from shards.dead import read_dead
from shards.identity import IDENTITY
from shards.normalization import denormalize
from shards.opening import open_dataset
from shards.operations.merge import merge
from shards.operations.split import split

EXTREME = [2**63 - 1, -(2**63), 2**53 + 1, -(2**53) - 1, 1_700_000_000_123_456_789, 0, -1, 10**10]


def stamps(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([*EXTREME, *rng.integers(-(2**63), 2**63 - 1, n - len(EXTREME))], np.int64)


def converted(files: list[Path], out: Path, carry: str = "stamp, clock") -> Dataset:
    (out.parent / "s.yaml").write_text(f"extends: mc\ncarry: [{carry}]\n")
    schema = load_schema(str(out.parent / "s.yaml"))
    convert(open_sources(files, schema=schema), out, options(schema=schema))
    return open_dataset(out, check="full")


def make(path: Path, run: int, n: int = 20, clock: str = "i4") -> np.ndarray:
    """Write a file with carried whole numbers, `clock` of 32 bits in some; the stamps."""
    found = stamps(n, run)
    write_tree(path, {**events(n, run=run), "stamp": found, "clock": np.arange(n).astype(clock)})
    return found


def by_place(data: Dataset, name: str) -> list[int]:
    return data.table(["source", "entry", name]).sort("source", "entry")[name].to_list()


def test_they_are_exact_in_the_table_in_selections_and_in_all_that_is_made_of_a_dataset(tmp_path: Path) -> None:
    files = [tmp_path / "a.root", tmp_path / "b.root"]
    expected = [make(path, run) for path, run in zip(files, (1, 2), strict=True)]
    data = converted(files, tmp_path / "d")
    order = np.argsort([source.name for source in data.manifest.sources])
    both = np.concatenate([expected[i] for i in np.argsort(order)]).tolist()
    assert data.table(["stamp"])["stamp"].dtype.is_integer()
    assert by_place(data, "stamp") == both
    assert [int(row) for row in data.rows("stamp == 9007199254740993")] == [
        i for i, value in enumerate(data.table(["stamp"])["stamp"].to_list()) if value == 2**53 + 1
    ]
    assert "stamp.rest" not in data.table_columns  # of the truth vector only
    truth = data.read(np.arange(len(data)))[1]
    np.testing.assert_array_equal(truth[:, data.columns.index("stamp")], data.column("stamp"))
    # `clock` has 32 bits everywhere: a plain column, as ever
    assert [c for c in data.columns if c.endswith(".rest")] == ["stamp.rest"]

    one, two = (converted([path], tmp_path / path.stem) for path in files)
    merge([one.path, two.path], tmp_path / "m")
    assert digests(tmp_path / "m") == digests(tmp_path / "d")
    split(tmp_path / "d", tmp_path / "s", {"train": 0.5, "val": 0.5})
    parts = [open_dataset(tmp_path / "s" / name, check="full") for name in ("train", "val")]
    assert sorted(number for part in parts for number in by_place(part, "stamp")) == sorted(both)


# Around 2⁵³ neighbours have the same float64; around 2⁶³ their float64 is no 64-bit integer.
BORDER = st.one_of(
    st.integers(2**53 - 3, 2**53 + 6),
    st.integers(2**63 - 1500, 2**63 - 1),
    st.integers(-(2**63), -(2**63) + 1500),
    st.integers(-(2**53) - 6, -(2**53) + 3),
    st.integers(2**53, 2**63 - 1),
    st.integers(0, 9),
)


@settings(max_examples=5, deadline=None)
@given(st.lists(BORDER, min_size=3, max_size=12, unique=True), st.lists(BORDER, min_size=2, max_size=3, unique=True))
@example([2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)], [2**53, 2**53 + 1, 2**63 - 1])
def test_run_and_event_numbers_are_exact_wherever_they_lie(numbers: list[int], runs: list[int]) -> None:
    n = len(numbers) * len(runs)
    branches = {**events(n), "run": np.repeat(np.array(runs, np.int64), len(numbers))}
    branches["event"] = np.array(numbers * len(runs), np.int64)
    pairs = {(run, event) for run in runs for event in numbers}
    with TemporaryDirectory() as folder:
        place = Path(folder)
        write_tree(place / "a.root", branches)
        sources = open_sources([place / "a.root"])
        assert find_duplicates(sources).events == 0
        convert(sources, place / "d", options())
        data = open_dataset(place / "d", check="full")
        assert data.table(["source", "entry", *IDENTITY]).sort("entry").select(IDENTITY).rows() == list(
            zip(branches["run"].tolist(), branches["event"].tolist(), strict=True)
        )
        for run, event in sorted(pairs)[:4]:
            assert len(data.rows(f"run == {run} and event == {event}")) == 1
            assert len(data.rows(f"event in [{event}, {numbers[0]}]")) == len(runs) * len({event, numbers[0]})
        fractions = {"train": 0.5, "val": 0.5}
        split(place / "d", place / "s", fractions, by="run")
        both = [set(open_dataset(place / "s" / name).table(["run"])["run"].to_list()) for name in fractions]
        assert both[0] | both[1] == set(runs)
        assert not both[0] & both[1]
        convert(sources, place / "e", options(split="train=0.5,val=0.5", split_by="run"))
        assert [set(open_dataset(place / "e" / name).table(["run"])["run"].to_list()) for name in fractions] == both


def test_neighbours_beyond_2_to_the_53_are_not_duplicates_but_the_same_number_is(tmp_path: Path) -> None:
    large = 2**53 + np.arange(6, dtype=np.int64)
    for name, first in (("a", 0), ("b", 6), ("c", 5)):
        write_tree(tmp_path / f"{name}.root", {**events(6, first=first), "event": large + first})
    convert(open_sources([tmp_path / "a.root", tmp_path / "b.root"]), tmp_path / "d", options())
    assert len(open_dataset(tmp_path / "d")) == 12
    with pytest.raises(InputError, match=f"run 100 event {2**53 + 5} in a.root and c.root"):
        convert(open_sources([tmp_path / "a.root", tmp_path / "c.root"]), tmp_path / "e", options())


def test_only_files_that_need_it_have_a_column_more(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 2**60 + 1)):
        write_tree(tmp_path / f"{name}.root", {**events(5), "event": first + np.arange(5, dtype=np.int64)})
    convert(open_sources([tmp_path / "a.root"]), tmp_path / "a", options())
    assert not [column for column in open_dataset(tmp_path / "a").columns if column.endswith(".rest")]
    convert(open_sources([tmp_path / "a.root", tmp_path / "b.root"]), tmp_path / "d", options())
    data = open_dataset(tmp_path / "d", check="full")
    assert [column for column in data.columns if column.endswith(".rest")] == ["event.rest"]
    assert sorted(data.table(["event"])["event"]) == [*range(5), *range(2**60 + 1, 2**60 + 6)]


def test_a_run_of_a_list_file_is_exact_too(tmp_path: Path) -> None:
    write_tree(tmp_path / "a.root", events(3))
    (tmp_path / "runs.txt").write_text(f"{2**53 + 1} a.root\n")
    convert(open_sources([tmp_path / "runs.txt"]), tmp_path / "d", options())
    assert open_dataset(tmp_path / "d").table(["run"])["run"].to_list() == [2**53 + 1] * 3
    (tmp_path / "runs.txt").write_text(f"{2**63} a.root\n")
    with pytest.raises(InputError, match=f"line 1: does not name a run \\(found '{2**63}'"):
        open_sources([tmp_path / "runs.txt"])


@pytest.mark.parametrize("name", ["run", "event"])
def test_numbers_beyond_2_to_the_63_are_refused_by_name(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path / "a.root", {**events(3), name: np.array([1, 2**63, 3], np.uint64)})
    with pytest.raises(InputError, match=f"tree/{name}: the integer of entry 1 is beyond 2⁶³, .*with a schema"):
        convert(open_sources([tmp_path / "a.root"]), tmp_path / "d", options())


def test_a_dead_list_and_a_good_run_list_tell_neighbouring_runs_apart(tmp_path: Path) -> None:
    runs = np.array([2**53, 2**53 + 1, 2**53 + 2, 2**63 - 1], np.int64)
    write_tree(tmp_path / "a.root", {**events(4), "run": runs})
    (tmp_path / "dead.csv").write_text(f"run_first,run_last,sensor\n{runs[1]},{runs[1]},5\n{runs[2]},,6\n7,,7\n")
    convert(open_sources([tmp_path / "a.root"]), tmp_path / "d", options(dead=read_dead(tmp_path / "dead.csv")))
    data = open_dataset(tmp_path / "d")
    table = data.table(["run"]).with_row_index().sort("run")
    assert table["run"].to_list() == runs.tolist()
    npho = denormalize(data.read(table["index"].to_numpy())[0], data.normalization)[0]
    np.testing.assert_array_equal(np.isnan(npho[:, 5:8]), np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [0, 1, 1]], bool))
    (tmp_path / "good.txt").write_text(f"{runs[1]}\n{runs[3]}\n")
    kept = data.rows(f"run in @{tmp_path / 'good.txt'}")
    assert sorted(data.table(["run"], kept)["run"]) == [runs[1], runs[3]]


def test_where_an_input_has_32_bits_and_another_64_the_column_has_64(tmp_path: Path) -> None:
    make(tmp_path / "a.root", 1, clock="i4")
    make(tmp_path / "b.root", 2, clock="u8")
    data = converted([tmp_path / "a.root", tmp_path / "b.root"], tmp_path / "d")
    assert [c for c in data.columns if c.endswith(".rest")] == ["clock.rest", "stamp.rest"]
    assert sorted(by_place(data, "clock")) == sorted([*range(20), *range(20)])


def test_what_cannot_be_kept_is_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path / "a.root", 1)
    write_tree(tmp_path / "b.root", events(20, run=2))
    with pytest.raises(
        InputError,
        match=r"a.root: stamp: the integer of entry 0 is beyond 2⁵³ \(found 9223372036854775807, expected less, "
        r"since another input lacks the column or has fractions there\); leave it out of the schema's carry",
    ):
        converted([tmp_path / "a.root", tmp_path / "b.root"], tmp_path / "d", carry="stamp")
    write_tree(tmp_path / "c.root", {**events(3), "stamp": np.array([1, 2**63, 3], np.uint64)})
    with pytest.raises(InputError, match=r"tree/stamp: the integer of entry 1 is beyond 2⁶³"):
        converted([tmp_path / "c.root"], tmp_path / "c", carry="stamp")
