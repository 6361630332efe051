from __future__ import annotations

from pathlib import Path

import pytest

from ingest.reading.inputs import InputFile, expand
from shards.base import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("run10.root", "run9.root", "notes.txt.bak"):
        (tmp_path / name).write_bytes(b"root")
    return tmp_path


def names(files: list[InputFile]) -> list[str]:
    return [file.path.name for file in files]


def test_folders_and_globs_come_in_natural_order(folder: Path) -> None:
    assert names(expand([folder])) == ["run9.root", "run10.root"]
    assert names(expand([f"{folder}/run*.root"])) == ["run9.root", "run10.root"]


def test_the_order_given_is_kept(folder: Path) -> None:
    assert names(expand([folder / "run10.root", folder / "run9.root"])) == ["run10.root", "run9.root"]


def test_list_files_give_runs_and_paths_relative_to_themselves(folder: Path) -> None:
    (folder / "runs.txt").write_text("# all good runs\n\n431 run10.root  # noisy\nrun9.root\n")
    assert expand([folder / "runs.txt"]) == [InputFile(folder / "run10.root", 431), InputFile(folder / "run9.root")]
    (folder / "plain").write_text("*9.root\n")
    assert names(expand([f"@{folder / 'plain'}"])) == ["run9.root"]


def test_what_is_wrong_is_named(folder: Path) -> None:
    cases = {
        "gone.root": r"gone\.root: does not exist",
        "no*.root": r"no\*\.root: matches no file",
        "empty": "empty: folder holds no",
        "empty.txt": r"empty\.txt: list file names no file",
        "bad.txt": r"bad\.txt: line 2: does not exist \(found missing\.root\)",
        "binary.list": r"binary\.list: is no list file: it is not text",
    }
    (folder / "empty").mkdir()
    (folder / "empty.txt").write_text("# nothing\n")
    (folder / "bad.txt").write_text("run9.root\nmissing.root\n")
    (folder / "binary.list").write_bytes(b"\xff\xfe\x00")
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            expand([folder / name])
    with pytest.raises(InputError, match="no input files were given"):
        expand([])


def test_the_same_file_twice_is_refused_however_it_is_named(folder: Path) -> None:
    (folder / "link.root").symlink_to(folder / "run9.root")
    with pytest.raises(InputError, match=r"is among the inputs twice; give every file once"):
        expand([folder / "run9.root", folder / "run9.root"])
    with pytest.raises(InputError, match=r"link\.root: is among the inputs twice \(also as .*run9\.root\)"):
        expand([folder / "run9.root", folder / "link.root"])
