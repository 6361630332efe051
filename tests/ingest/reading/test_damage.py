"""Files that are damaged, changed, truncated or not to be read: named, never passed over."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from support.ingest_files import S, events, write_tree
from support.reading import N, joined

from ingest.reading.rootio import open_sources, read_chunks
from shards.base import CorruptError, InputError


def test_empty_trees_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.root"
    with uproot.recreate(path) as out:
        out.mktree("tree", {"npho": np.dtype(("f4", (S,))), "time": np.dtype(("f4", (S,)))})
    with pytest.raises(InputError, match=r"e\.root: tree: has no entries"):
        open_sources([path])
    (tmp_path / "x.root").write_bytes(b"PK..")
    with pytest.raises(
        InputError, match=r"x\.root: is not a ROOT file \(found b'PK..' at its start, expected b'root'\)"
    ):
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
    with pytest.raises(CorruptError, match=r"t\.root: tree/npho: entries 16 to 31 (cannot be read|are incomplete)"):
        list(read_chunks(source))


def test_a_file_that_changes_is_noticed(tmp_path: Path, branches: dict[str, np.ndarray]) -> None:
    path = write_tree(tmp_path / "t.root", branches)
    (source,) = open_sources([path])
    with open(path, "ab") as handle:
        handle.write(b"more")
    with pytest.raises(InputError, match=r"t\.root: changed while in use"):
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


def test_branches_that_do_not_cover_the_tree_are_refused(file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    place = content.index(struct.pack(">q", N), content.index(b"TTree"))  # the tree's own number comes first
    content[place : place + 8] = struct.pack(">q", N + 1)
    (tmp_path / "a.root").write_bytes(content)
    with pytest.raises(
        CorruptError, match=r"tree/npho: does not cover the whole tree.*\(found 40 entries, expected 41\)"
    ):
        open_sources([tmp_path / "a.root"])


def test_bad_files_are_skipped_when_that_is_asked_for(file: Path, tmp_path: Path) -> None:
    (tmp_path / "x.root").write_bytes(b"none")
    skipped: list[Any] = []
    sources = open_sources([file, tmp_path / "x.root", tmp_path / "gone.root"], skipped=skipped)
    assert [s.path for s in sources] == [file]
    assert {s.path.name: s.reason.partition(": ")[2][:18] for s in skipped} == {
        "gone.root": "does not exist",
        "x.root": "is not a ROOT file",
    }
    with pytest.raises(InputError, match="no usable input files are left"):
        open_sources([tmp_path / "x.root"], skipped=[])


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
    from shards.base.documents import file_digest

    listed = tmp_path / "SHA256SUMS"
    listed.write_text(f"{file_digest(file)}  data/{file.name}\n\n")
    check = partial(check_digest, expected=read_checksums(listed))
    assert open_sources([file], check=check)[0].path == file
    other = write_tree(tmp_path / "other.root", events(2))
    with pytest.raises(InputError, match=r"other\.root: has no digest in the list"):
        open_sources([other], check=check)
    listed.write_text(f"{'0' * 64} *{file.name}\n")
    with pytest.raises(CorruptError, match=r"a\.root: does not have the listed checksum \(found .*copy it again"):
        open_sources([file], check=partial(check_digest, expected=read_checksums(listed)))
    listed.write_text("abc  x\n")
    with pytest.raises(InputError, match=r"SHA256SUMS: line 1: is not a valid list of SHA-256 digests"):
        read_checksums(listed)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_named(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.root"
    shutil.copy(file, path)
    path.chmod(0)
    with pytest.raises(InputError, match=r"p\.root: cannot be read: Permission denied"):
        open_sources([path])
