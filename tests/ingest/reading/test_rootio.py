"""Reading ROOT files: any type, compression and chunking gives the same events, of the right file and tree."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import awkward as ak
import deflate
import numpy as np
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.ingest_files import S, add_tree, events, write_tree
from support.reading import N, joined, read

from ingest.reading.branches import Where, describe, list_branches, open_reader
from ingest.reading.rootfile import opened
from ingest.reading.rootio import SourceReader, find_event, open_sources, read_chunks
from shards.base import InputError

ROOT_FILES = Path(__file__).parents[2] / "data" / "root"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step=st.integers(1, 50), start=st.integers(0, N - 1), length=st.integers(1, N))
def test_any_chunking_of_any_range_gives_the_same_events(
    file: Path, branches: dict[str, np.ndarray], step: int, start: int, length: int
) -> None:
    (source,) = open_sources([file])
    stop = min(start + length, N)
    chunks = list(read_chunks(source, step, start, stop))
    assert [c.entry_start for c in chunks] == list(range(start, stop, step))
    npho, time, columns = joined(chunks)
    np.testing.assert_array_equal(npho, branches["npho"][start:stop])
    np.testing.assert_array_equal(time, branches["relative_time"][start:stop])
    np.testing.assert_array_equal(columns["v"], branches["uvwTruth"][start:stop, 1])
    np.testing.assert_array_equal(columns["event"], branches["event"][start:stop])


def test_reading_backwards_works_too(file: Path, branches: dict[str, np.ndarray]) -> None:
    (source,) = open_sources([file])
    with SourceReader(source) as reader:
        for start in (30, 3, 17):
            np.testing.assert_array_equal(reader.read_npho(start, start + 5), branches["npho"][start : start + 5])


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "i4", "i8", "u1", "u2", "u4", "bool"])
@pytest.mark.parametrize("jagged", [False, True])
def test_any_numeric_type_fixed_or_jagged(tmp_path: Path, dtype: str, jagged: bool) -> None:
    values = (np.arange(6 * S).reshape(6, S) % 100).astype(dtype)
    tree = {"npho": values, "time": values, "run": np.arange(6).astype(dtype)}
    path = write_tree(tmp_path / "t.root", tree, basket=4, jagged=("npho", "time") if jagged else ())
    npho, time, columns = read(path)
    assert npho.dtype == time.dtype == np.float32
    np.testing.assert_array_equal(npho, values.astype(np.float32))
    np.testing.assert_array_equal(columns["run"], tree["run"].astype(float))


@pytest.mark.parametrize(
    "compression", [None, uproot.ZLIB(6), uproot.LZMA(1), uproot.LZ4(1), uproot.ZSTD(3)], ids=lambda c: type(c).__name__
)
def test_any_compression(tmp_path: Path, branches: dict[str, np.ndarray], compression: Any) -> None:
    path = tmp_path / "t.root"
    with uproot.recreate(path, compression=compression) as out:
        add_tree(out, branches, "tree")
    np.testing.assert_array_equal(read(path)[0], branches["npho"])


def test_zlib_baskets_are_decompressed_by_libdeflate(
    tmp_path: Path, branches: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """uproot's own switch for that reaches only what is written (5.7), so ours is one that nobody promised to keep."""
    sizes = []

    def decompress(data: Any, size: int) -> Any:
        sizes.append(size)
        return zlib_decompress(data, size)

    zlib_decompress = deflate.zlib_decompress
    path = write_tree(tmp_path / "t.root", branches, compression=uproot.ZLIB(1))
    monkeypatch.setattr(deflate, "zlib_decompress", decompress)
    np.testing.assert_array_equal(read(path)[0], branches["npho"])
    assert sum(sizes) >= branches["npho"].size * 4


def test_vectors_of_the_older_kind_with_headers_are_decoded_without_them(branches: dict[str, np.ndarray]) -> None:
    """uproot writes no std::vector; its own decoding of one is the reference for ours."""
    from ingest.reading.branches import Where, _BranchReader

    class Basket:
        num_entries = 3
        data = np.concatenate(
            [np.r_[np.full(10, 7, np.uint8), row.astype(">f4").view(np.uint8)] for row in branches["npho"][:3]]
        )
        byte_offsets = np.arange(4) * (10 + 4 * S)

    class Fake:
        entry_offsets = (0, 3)
        interpretation = uproot.AsJagged(uproot.AsDtype(">f4"), header_bytes=10)

        def basket(self, number: int) -> Basket:
            return Basket()

    from ingest.reading.branches import InputBranch

    reader = _BranchReader(
        Fake(), InputBranch("npho", "vector<float>", np.dtype("f4"), None), S, Where(Path("f"), "t", "b")
    )
    out = np.empty((3, S), np.float32)
    reader.read_into(out, 0)
    np.testing.assert_array_equal(out, branches["npho"][:3])


def test_rntuples_fixed_and_jagged(tmp_path: Path, branches: dict[str, np.ndarray]) -> None:
    path = tmp_path / "n.root"
    with uproot.recreate(path) as out:
        out["tree"] = {**branches, "relative_time": ak.from_regular(ak.from_numpy(branches["relative_time"]))}
    (source,) = open_sources([path])
    assert source.kind == "RNTuple"
    npho, time, columns = joined(list(read_chunks(source, 7)))
    np.testing.assert_array_equal(npho, branches["npho"])
    np.testing.assert_array_equal(time, branches["relative_time"])
    np.testing.assert_array_equal(columns["w"], branches["uvwTruth"][:, 2])
    np.testing.assert_array_equal(columns["run"], branches["run"])


def test_the_newest_cycle_is_read_and_said_so_and_an_older_one_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "c.root"
    with uproot.recreate(path) as out:
        for value in (1, 2):
            add_tree(out, {"npho": np.full((3, S), value, "f4"), "time": np.zeros((3, S), "f4")}, "tree")
    (source,) = open_sources([path])
    assert source.notes == ("'tree' has 2 cycles: reading 2, not 1",)
    assert read(path)[0][0, 0] == 2
    assert read(path, tree="tree;1")[0][0, 0] == 1
    assert open_sources([path], tree="tree;1")[0].id != source.id
    with pytest.raises(InputError, match=r"has no cycle 7 of 'tree' \(found cycles \[2, 1\]\)"):
        open_sources([path], tree="tree;7")


def test_trees_in_folders_are_found_by_name_or_path(tmp_path: Path) -> None:
    path = tmp_path / "d.root"
    with uproot.recreate(path) as out:
        add_tree(out, events(3, run=1), "sim/tree")
        add_tree(out, events(3, run=2), "other/rec")
    assert open_sources([path])[0].tree == "sim/tree"
    assert read(path, tree="other/rec")[2]["run"][0] == 2
    assert read(path, tree="rec")[2]["run"][0] == 2
    with pytest.raises(InputError, match=r"has no tree 'tre' \(found sim/tree, other/rec\); .*--tree"):
        open_sources([path], tree="tre")
    with uproot.update(path) as out:
        add_tree(out, events(3, run=1), "second/tree")
    with pytest.raises(
        InputError, match=r"has several trees named 'tree' \(found sim/tree, second/tree\); choose one with --tree"
    ):
        open_sources([path])


def test_one_event_by_its_numbers(file: Path, branches: dict[str, np.ndarray]) -> None:
    sources = open_sources([file])
    np.testing.assert_array_equal(find_event(sources, 100, 23).npho[0], branches["npho"][23])
    assert find_event(sources, None, 5).entry_start == 5
    with pytest.raises(InputError, match=r"a\.root: there is no run 99 event 5 in the input"):
        find_event(sources, 99, 5)


def test_identity_does_not_depend_on_where_a_file_lies(file: Path, tmp_path: Path) -> None:
    (source,) = open_sources([file])
    moved = tmp_path / "moved.root"
    shutil.copy(file, moved)
    assert open_sources([moved])[0].id == source.id
    with pytest.raises(InputError, match=r"moved\.root: holds the same bytes as another input \(found .*a\.root\)"):
        open_sources([file, moved])


def test_a_repeated_uuid_is_told_apart_by_content(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.root"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    first, second = open_sources([file, other])
    assert first.uuid == second.uuid
    assert first.id != second.id
    assert "#" in first.id
    swapped = open_sources([other, file])
    assert [s.id for s in swapped] == [second.id, first.id]


def test_leaves_packed_floats_and_what_cannot_be_interpreted(tmp_path: Path) -> None:
    with opened(ROOT_FILES / "uproot-leaflist.root") as file:
        tree = file["tree"]
        branches = list_branches(tree)
        assert not branches["leaflist"].numeric
        for leaf, values in (("x", [1.1, 2.2, 3.3, 4.0, 5.5]), ("y", [1, 2, 3, 4, 5])):
            out = np.empty((5, 1))
            branch = describe(tree, f"leaflist.{leaf}")
            assert branch == branches[branch.name]
            open_reader(tree, branch, 1, Where(tmp_path, "tree", branch.name)).read_into(out, 0)
            np.testing.assert_array_equal(out[:, 0], values)
    with opened(ROOT_FILES / "uproot-double32-float16.root") as file:
        tree = file["tree"]
        for name, length in (("double32_20", 1), ("float16_10", 1), ("array_30", 3)):
            branch, out = describe(tree, name), np.empty((int(tree.num_entries), length))
            open_reader(tree, branch, length, Where(tmp_path, "tree", name)).read_into(out, 0)
            np.testing.assert_array_equal(out, tree[name].array(library="np").reshape(-1, length))
    with opened(ROOT_FILES / "uproot-issue501.root") as file:
        assert {b.name: b.typename for b in list_branches(file["T"]).values()} == {"point": "unknown"}
    (source,) = open_sources([ROOT_FILES / "float16-beside.root"])
    assert source.entries == sum(len(chunk) for chunk in read_chunks(source))


def test_predictions_found_in_a_folder_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tree(tmp_path / "a.root", events(3))
    with uproot.recreate(tmp_path / "p.root") as file:
        add_tree(file, {"pred_u": np.ones(3)}, "predictions")
        add_tree(file, {"model": np.ones(1)}, "metadata")
    assert [s.path.name for s in open_sources([tmp_path])] == ["a.root"]
    assert "p.root: passed over, since it holds predictions" in caplog.text
    with pytest.raises(InputError, match="has no tree 'tree'"):
        open_sources([tmp_path / "p.root"])
