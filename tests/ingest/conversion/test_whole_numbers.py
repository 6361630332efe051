"""Carried whole numbers of 64 bits come out of a conversion as they went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.conversion import options
from support.ingest_files import digests, events, write_tree

from ingest.conversion.convert import convert
from ingest.reading.rootio import open_sources
from ingest.reading.schema import load_schema
from shards.base import InputError
from shards.dataset import Dataset
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


def test_event_numbers_beyond_are_kept_as_the_refusal_says(tmp_path: Path) -> None:
    large = 2**62 + 1 + np.arange(5)
    write_tree(tmp_path / "a.root", {**events(5), "event": large})
    with pytest.raises(InputError, match="tree/event: the integer of entry 0 is beyond 2⁵³"):
        converted([tmp_path / "a.root"], tmp_path / "d", carry="")
    columns = "columns: [{names: [event], branches: [none]}]\ncarry: [{names: [event_id], branches: [event]}]"
    (tmp_path / "s.yaml").write_text(f"extends: mc\n{columns}\n")
    schema = load_schema(str(tmp_path / "s.yaml"))
    convert(open_sources([tmp_path / "a.root"], schema=schema), tmp_path / "e", options(schema=schema))
    data = open_dataset(tmp_path / "e", check="full")
    assert by_place(data, "event_id") == large.tolist()
    assert by_place(data, "event") == list(range(5))
    assert len(data.rows(f"event_id == {2**62 + 3}")) == 1


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
