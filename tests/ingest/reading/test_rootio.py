from __future__ import annotations

import os
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

from ingest.reading.branches import Where, describe, list_branches, open_reader
from ingest.reading.rootfile import opened
from ingest.reading.rootio import Chunk, SourceReader, find_event, open_sources, read_chunks
from ingest.reading.schema import load_schema
from shards.base import CorruptError, InputError

ROOT_FILES = Path(__file__).parents[2] / "data" / "root"
N = 40


@pytest.fixture(scope="module")
def branches() -> dict[str, np.ndarray]:
    return events(N)


@pytest.fixture(scope="module")
def file(branches: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("root") / "a.root", branches)


def joined(chunks: list[Chunk]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    columns = {name: np.concatenate([c.columns[name] for c in chunks]) for name in chunks[0].columns}
    return np.concatenate([c.npho for c in chunks]), np.concatenate([c.time for c in chunks]), columns


def read(path: Path, schema: str = "mc", **options: Any) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    (source,) = open_sources([path], schema=schema, **options)
    return joined(list(read_chunks(source, 16)))


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

    from ingest.reading.branches import Branch

    reader = _BranchReader(Fake(), Branch("npho", "vector<float>", np.dtype("f4"), None), S, Where(Path("f"), "t", "b"))
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
    assert source.notes == ("'tree' is there in 2 cycles: reading 2, not 1",)
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
        InputError, match=r"has several trees 'tree' \(found sim/tree, second/tree\); choose one with --tree"
    ):
        open_sources([path])


def test_units_scales_and_codes(tmp_path: Path) -> None:
    text = (
        "extends: mc\nsensors:\n  npho: {branches: [light], scale: 2}\n  time: {branches: [t_ns], unit: ns}\n"
        "columns:\n- {names: [energy], branches: [e], unit: MeV, invalid: [-999]}\n"
    )
    (tmp_path / "s.yaml").write_text(text)
    light = np.full((3, S), 5, "f4")
    light[0, 0], light[0, 1] = 1e10, np.nan
    path = write_tree(
        tmp_path / "u.root",
        {"light": light, "t_ns": np.where(light == 5, 20, 1e10).astype("f4"), "e": np.array([52.8, -999.0, 1e10])},
    )
    (source,) = open_sources([path], schema=str(tmp_path / "s.yaml"))
    (chunk,) = read_chunks(source)
    assert chunk.npho[1, 1] == 10
    assert chunk.npho[0, 0] == np.float32(1e10), "a code is not scaled away"
    assert np.isnan(chunk.npho[0, 1])
    assert chunk.time[1, 1] == np.float32(20e-9)
    assert chunk.time[0, 0] == np.float32(1e10)
    np.testing.assert_allclose(chunk.columns["energy"], [0.0528, np.nan, np.nan])
    assert chunk.invalid == {"energy": 2}


def test_relative_times_are_known_as_such_and_come_first(tmp_path: Path) -> None:
    tree = events(2)
    tree["time"] = tree["relative_time"] + 1
    path = write_tree(tmp_path / "t.root", tree)
    (source,) = open_sources([path])
    assert source.binding.relative
    np.testing.assert_array_equal(read(path)[1], tree["relative_time"])
    del tree["relative_time"]
    assert not open_sources([write_tree(tmp_path / "u.root", tree)])[0].binding.relative


def test_dead_branch_missing_times_and_filled_numbers(tmp_path: Path) -> None:
    dead = np.zeros((2, S), np.uint8)
    dead[1, 7] = 1
    path = write_tree(tmp_path / "t.root", {"npho": np.ones((2, S), "f4"), "dead": dead})
    (chunk,) = read_chunks(open_sources([path], schema="sensors-only")[0])
    assert chunk.dead is not None
    assert np.argwhere(chunk.dead).tolist() == [[1, 7]]
    assert np.isnan(chunk.time).all()
    np.testing.assert_array_equal(chunk.columns["event"], [0, 1])
    (tmp_path / "l.txt").write_text("431 t.root\n")
    (chunk,) = read_chunks(open_sources([tmp_path / "l.txt"], schema="sensors-only")[0])
    np.testing.assert_array_equal(chunk.columns["run"], [431, 431])


def test_the_run_of_a_list_takes_the_place_of_the_branch(tmp_path: Path) -> None:
    tree = events(2)
    del tree["run"]
    write_tree(tmp_path / "t.root", tree)
    with pytest.raises(InputError, match=r"t\.root: tree: has no branch for run \(expected 'run'\)"):
        open_sources([tmp_path / "t.root"], schema="real")
    (tmp_path / "l.txt").write_text("431 t.root\n")
    assert open_sources([tmp_path / "l.txt"], schema="real")[0].columns[:2] == ("run", "event")


def test_carried_patterns_take_scalar_numbers_that_nothing_else_has(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("extends: mc\ncarry: ['*']\n")
    path = write_tree(tmp_path / "t.root", {**events(2), "qa": np.arange(2.0), "xyz": np.ones((2, 3))})
    (source,) = open_sources([path], schema=str(tmp_path / "s.yaml"))
    assert [c.name for c in source.binding.columns if c.carried] == ["qa"]


def test_one_event_by_its_numbers(file: Path, branches: dict[str, np.ndarray]) -> None:
    sources = open_sources([file])
    np.testing.assert_array_equal(find_event(sources, 100, 23).npho[0], branches["npho"][23])
    assert find_event(sources, None, 5).entry_start == 5
    with pytest.raises(InputError, match=r"a\.root: no run 99 event 5 in the input"):
        find_event(sources, 99, 5)


# -- what is wrong with an input ------------------------------------------------------------------------------------


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


def test_missing_branches_are_named_with_the_nearest(tmp_path: Path) -> None:
    tree = events(2)
    tree["nphoton"] = tree.pop("npho")
    path = write_tree(tmp_path / "t.root", tree)
    with pytest.raises(
        InputError, match=r"tree: has no branch for npho \(expected 'npho' or 'relative_npho'\); did you mean 'nphoton'"
    ):
        open_sources([path])


def test_wrong_numbers_of_values_are_refused(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "t.root", {"npho": np.ones((2, 4092), "f4"), "time": np.ones((2, S), "f4")})
    with pytest.raises(
        InputError, match=r"tree/npho: has the wrong number of values \(found 4092 values an event, expected 4760\)"
    ):
        open_sources([path])
    path = tmp_path / "j.root"
    with uproot.recreate(path) as out:
        tree = out.mktree("tree", {"npho": "var * float32", "time": np.dtype(("f4", (S,)))})
        lengths = [S, S, S - 1]
        tree.extend({"npho": ak.unflatten(np.ones(sum(lengths), "f4"), lengths), "time": np.ones((3, S), "f4")})
    (source,) = open_sources([path])
    with pytest.raises(
        InputError, match=r"tree/npho: has the wrong number of values \(found 4759 values in entry 2, expected 4760\)"
    ):
        list(read_chunks(source))


def test_text_branches_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.root"
    with uproot.recreate(path) as out:
        out["tree"] = {"npho": ["a", "b"], "time": np.ones((2, S), "f4")}
    with pytest.raises(InputError, match=r"tree/npho: does not hold numbers"):
        open_sources([path])


def test_empty_trees_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.root"
    with uproot.recreate(path) as out:
        out.mktree("tree", {"npho": np.dtype(("f4", (S,))), "time": np.dtype(("f4", (S,)))})
    with pytest.raises(InputError, match=r"e\.root: tree: has no entries"):
        open_sources([path])
    (tmp_path / "x.root").write_bytes(b"PK..")
    with pytest.raises(InputError, match=r"x\.root: is no ROOT file \(found b'PK..' at its start, expected b'root'\)"):
        open_sources([tmp_path / "x.root"])
    (tmp_path / "stub.root").write_bytes(b"root" + bytes(40))
    with pytest.raises(
        CorruptError, match=r"stub\.root: (cannot be opened as a ROOT file|its directory cannot be read)"
    ):
        open_sources([tmp_path / "stub.root"])
    with pytest.raises(InputError, match=r"none\.root: has no tree 'tree' \(found no tree at all\)"):
        uproot.recreate(tmp_path / "none.root").close()
        open_sources([tmp_path / "none.root"])


@pytest.mark.parametrize(("fraction", "first"), [(0.2, 0), (0.5, 16), (0.9, 32)])
def test_truncated_files_name_the_entries_that_are_gone(
    file: Path, tmp_path: Path, fraction: float, first: int
) -> None:
    cut = tmp_path / "cut.root"
    data = file.read_bytes()
    cut.write_bytes(data[: int(len(data) * fraction)])
    message = rf"cut\.root: is shorter than its header says: of tree/npho, entries {first} to 39 are cut off"
    with pytest.raises(CorruptError, match=message):
        open_sources([cut])


def basket_place(path: Path, number: int) -> tuple[int, int]:
    """Position and size of a basket of npho."""
    with uproot.open(path) as opened:
        branch = opened["tree"]["npho"]
        return int(branch.member("fBasketSeek")[number]), branch.basket_compressed_bytes(number)


def test_a_basket_of_which_only_zeros_are_left_is_named(tmp_path: Path, branches: dict[str, np.ndarray]) -> None:
    """Opening is not a check: copies that were cut and preallocated have the right size and list their tree."""
    path = write_tree(tmp_path / "t.root", branches)
    seek, size = basket_place(path, 1)
    data = bytearray(path.read_bytes())
    data[seek : seek + size] = bytes(size)
    path.write_bytes(data)
    (source,) = open_sources([path])
    with pytest.raises(CorruptError, match=r"t\.root: tree/npho: entries 16 to 31 (cannot be read|are not all there)"):
        list(read_chunks(source))


def test_a_file_that_changes_is_noticed(tmp_path: Path, branches: dict[str, np.ndarray]) -> None:
    path = write_tree(tmp_path / "t.root", branches)
    (source,) = open_sources([path])
    with open(path, "ab") as handle:
        handle.write(b"more")
    with pytest.raises(InputError, match=r"t\.root: changed while it was being used"):
        list(read_chunks(source))


@pytest.mark.parametrize("compression", [uproot.ZLIB(1), uproot.LZ4(1), uproot.LZMA(1)], ids=lambda c: type(c).__name__)
def test_a_flipped_byte_in_a_compressed_basket_is_found_and_its_entries_named(
    tmp_path: Path, branches: dict[str, np.ndarray], compression: Any
) -> None:
    whole = {**branches, "npho": np.round(np.nan_to_num(branches["npho"])).clip(0, 500)}  # compressible by all
    path = write_tree(tmp_path / "t.root", whole, compression=compression)
    seek, size = basket_place(path, 1)
    data = bytearray(path.read_bytes())
    data[seek + size // 2] ^= 0x40
    path.write_bytes(data)
    (source,) = open_sources([path])
    assert len(next(iter(read_chunks(source, 16)))) == 16
    with pytest.raises(
        CorruptError, match=r"tree/npho: entries 16 to 31 cannot be read .*; copy or produce the file again"
    ):
        list(read_chunks(source, 16))


def test_branches_that_do_not_cover_the_tree_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingest.reading import branches as module

    monkeypatch.setattr(module._Blocks, "boundaries", lambda self: np.array([0, 39]))
    with pytest.raises(CorruptError, match=r"tree/npho: does not cover the tree.*\(found 39 entries, expected 40\)"):
        open_sources([file])


def test_bad_files_are_skipped_when_that_is_asked_for(file: Path, tmp_path: Path) -> None:
    (tmp_path / "x.root").write_bytes(b"none")
    skipped: list[Any] = []
    sources = open_sources([file, tmp_path / "x.root", tmp_path / "gone.root"], skipped=skipped)
    assert [s.path for s in sources] == [file]
    assert {s.path.name: s.reason.partition(": ")[2][:16] for s in skipped} == {
        "gone.root": "does not exist",
        "x.root": "is no ROOT file ",
    }
    with pytest.raises(InputError, match="no usable input file is left"):
        open_sources([tmp_path / "x.root"], skipped=[])


def test_run_numbers_must_be_numbers(tmp_path: Path) -> None:
    tree = {**events(3), "run": np.array([1.0, np.nan, 1.0])}
    (source,) = open_sources([write_tree(tmp_path / "t.root", tree)])
    with pytest.raises(InputError, match=r"tree/run: run number of entry 1 is no whole number \(found nan\)"):
        list(read_chunks(source))


def test_presets_read_what_the_other_names_mean(tmp_path: Path) -> None:
    tree = {
        "relative_npho": np.ones((2, S), "f4"),
        "time": np.ones((2, S), "f4"),
        "angleVec": np.ones((2, 2)),
        "run": np.ones(2),
    }
    (source,) = open_sources([write_tree(tmp_path / "t.root", tree)], schema=load_schema("mc"))
    assert source.binding.npho.branch == "relative_npho"
    assert source.columns == ("run", "event", "theta", "phi")


def test_page_checksums_of_rntuples_are_compared(
    tmp_path: Path, branches: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """uproot writes none, so its reader is told that there are some, and is served right or wrong ones."""
    import xxhash
    from uproot.models.RNTuple import PageDescription

    from ingest.reading.rootfile import PreadSource

    path = tmp_path / "n.root"
    with uproot.recreate(path) as out:
        out["tree"] = branches
    (source,) = open_sources([path])
    pages: dict[int, int] = {}
    flipped: list[int] = []
    read_page, read_bytes = PageDescription.read, PreadSource.chunk

    def described(self: Any, *arguments: Any) -> Any:
        page = read_page(self, *arguments)
        page.has_checksum = True
        pages[page.locator.offset] = page.locator.offset + page.locator.num_bytes
        return page

    def served(self: Any, start: int, stop: int) -> Any:
        if pages.get(start) != stop - 8:
            return read_bytes(self, start, stop)
        data = read_bytes(self, start, stop - 8).raw_data.tobytes()
        checksum = xxhash.xxh3_64_intdigest(data) ^ (start in flipped)
        data = np.frombuffer(data + checksum.to_bytes(8, "little"), np.uint8)
        return uproot.source.chunk.Chunk.wrap(self, data, start)

    monkeypatch.setattr(PageDescription, "read", described)
    monkeypatch.setattr(PreadSource, "chunk", served)
    np.testing.assert_array_equal(joined(list(read_chunks(source, 7)))[0], branches["npho"])
    flipped.append(max(pages, key=lambda start: pages[start] - start))
    with pytest.raises(
        CorruptError, match=rf"entries 0 to 39 cannot be read .*page at byte {flipped[0]} does not match"
    ):
        list(read_chunks(source, 7))


def test_files_can_be_checked_against_a_list_of_digests(file: Path, tmp_path: Path) -> None:
    from functools import partial

    from ingest.reading.checksums import check_digest, read_checksums
    from ingest.reading.sources import file_digest

    listed = tmp_path / "SHA256SUMS"
    listed.write_text(f"{file_digest(file)}  data/{file.name}\n\n")
    check = partial(check_digest, expected=read_checksums(listed))
    assert open_sources([file], check=check)[0].path == file
    other = write_tree(tmp_path / "other.root", events(2))
    with pytest.raises(InputError, match=r"other\.root: has no digest in the list"):
        open_sources([other], check=check)
    listed.write_text(f"{'0' * 64} *{file.name}\n")
    with pytest.raises(
        CorruptError, match=r"a\.root: is not the file that the checksum was made of \(found .*copy it again"
    ):
        open_sources([file], check=partial(check_digest, expected=read_checksums(listed)))
    listed.write_text("abc  x\n")
    with pytest.raises(InputError, match=r"SHA256SUMS: line 1: is no list of SHA-256 digests"):
        read_checksums(listed)


def test_a_schema_that_names_only_the_last_part_of_nested_names_finds_them(tmp_path: Path) -> None:
    path = tmp_path / "r.root"
    tree = events(5)
    with uproot.recreate(path) as out:
        record = ak.zip(
            {"npho": ak.from_numpy(tree["npho"]), "time": ak.from_numpy(tree["relative_time"])}, depth_limit=1
        )
        out["tree"] = {"det": record, "run": tree["run"], "event": tree["event"]}
    (source,) = open_sources([path])
    assert source.binding.npho.branch == "det.npho"
    np.testing.assert_array_equal(joined(list(read_chunks(source)))[0], tree["npho"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_named(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.root"
    shutil.copy(file, path)
    path.chmod(0)
    with pytest.raises(InputError, match=r"p\.root: cannot be read: Permission denied"):
        open_sources([path])


def test_integers_have_no_mark_for_missing_and_are_kept_exactly(tmp_path: Path) -> None:
    stamps = np.array([2**53, 10**10, -(10**12)])
    tree = {**events(3), "event": np.arange(3) + 2**40, "stamp": stamps, "code": np.array([1.0, 1e10, 3.0])}
    path = write_tree(tmp_path / "t.root", tree)
    (tmp_path / "s.yaml").write_text("extends: mc\ncarry: [{branches: [stamp], invalid: [1e10]}, code]\n")
    _, _, columns = read(path, str(tmp_path / "s.yaml"))
    np.testing.assert_array_equal(columns["stamp"], [2.0**53, np.nan, -1e12])
    np.testing.assert_array_equal(columns["event"], np.arange(3) + 2**40)
    np.testing.assert_array_equal(columns["code"], [1, np.nan, 3])
    for branch, problem in (
        ("event", "whole number of entry 1 is beyond 2⁵³.*found 4611686018427387904"),
        ("stamp", "carry"),
    ):
        write_tree(path, {**tree, branch: np.array([0, 2**62, 2**53])})
        with pytest.raises(InputError, match=rf"tree/{branch}: .*{problem}"):
            read(path, str(tmp_path / "s.yaml"))
    write_tree(path, {**tree, "event": np.array([1.0, 1e10, 3.0])})
    with pytest.raises(InputError, match=r"event number of entry 1 is no whole number .found 1e.10, which means"):
        read(path)


def test_a_scalar_is_never_taken_for_sensors(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "t.root", events(3))
    (tmp_path / "s.yaml").write_text("extends: sensors-only\nsensors: {npho: {branches: [event]}}\n")
    with pytest.raises(InputError, match=r"event: has the wrong number of values .found 1 values an event, exp"):
        open_sources([path], schema=str(tmp_path / "s.yaml"))


def test_an_empty_vector_is_missing_truth_or_an_event_without_sensors(tmp_path: Path) -> None:
    tree = events(20)
    ragged = {
        key: ak.Array([row[:0] if i in gone else row for i, row in enumerate(tree[key])])
        for key, gone in (("uvwTruth", {3}), ("npho", {5, 17}))
    }
    with uproot.recreate(tmp_path / "t.root") as file:
        types = {key: v.dtype if v.ndim == 1 else np.dtype((v.dtype, v.shape[1:])) for key, v in tree.items()}
        out = file.mktree("tree", {**types, "uvwTruth": "var * float64", "npho": "var * float32"})
        out.extend({**tree, **ragged})
    (source,) = open_sources([tmp_path / "t.root"])
    (chunk,) = read_chunks(source, 20)
    assert np.flatnonzero(np.isnan(chunk.columns["u"])).tolist() == [3]
    assert chunk.invalid == {"u": 1, "v": 1, "w": 1}
    assert chunk.empty is not None
    assert np.flatnonzero(chunk.empty).tolist() == [5, 17]
    np.testing.assert_array_equal(chunk.npho[4], tree["npho"][4])
    assert np.isnan(chunk.npho[5]).all()
    assert next(read_chunks(source, 4)).empty is None


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


def test_what_is_not_known_of_times_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = events(3)
    write_tree(tmp_path / "a.root", {k: v for k, v in tree.items() if k != "time_min_used"})
    write_tree(tmp_path / "b.root", {k: v for k, v in tree.items() if k != "relative_time"})
    open_sources([tmp_path / "a.root", tmp_path / "b.root"], schema="sensors-only")
    assert "b.root has no sensor times: all count as invalid" in caplog.text
    assert "a.root has relative times (relative_time) but no time_min_used: absolute times are unknown" in caplog.text
    assert len(caplog.records) == 2


def test_predictions_found_in_a_folder_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tree(tmp_path / "a.root", events(3))
    with uproot.recreate(tmp_path / "p.root") as file:
        add_tree(file, {"pred_u": np.ones(3)}, "predictions")
        add_tree(file, {"model": np.ones(1)}, "metadata")
    assert [s.path.name for s in open_sources([tmp_path])] == ["a.root"]
    assert "p.root: passed over: it holds predictions" in caplog.text
    with pytest.raises(InputError, match="has no tree 'tree'"):
        open_sources([tmp_path / "p.root"])
