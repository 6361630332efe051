from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
        "empty": "empty: the folder holds no",
        "run": "run: is a run folder, not data; give the data to read",
        "all": r"all: is not a dataset, but holds some \(found train\); give .*all/train",
        "empty.txt": r"empty\.txt: the list file names no files",
        "bad.txt": r"bad\.txt: line 2: does not exist \(found missing\.root\)",
        "binary.list": r"binary\.list: line 1: is not a valid list file: it is not UTF-8 text",
        "self.txt": r"self\.txt: line 2: the list file names itself",
        "runs.txt": r"runs\.txt: line 1: does not name a run \(found '12a', expected `path` or `run path`\)",
        "url.txt": r"url\.txt: line 1: is a URL, inputs are local files",
    }
    (folder / "empty").mkdir()
    for name in ("run/state.json", "all/train/manifest.json"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("{}")
    (folder / "empty.txt").write_text("# nothing\n")
    (folder / "self.txt").write_text("run9.root\nself.txt\n")
    (folder / "runs.txt").write_text("12a run9.root\n")
    (folder / "url.txt").write_text("12 root://host//x.root\n")
    (folder / "bad.txt").write_text("run9.root\nmissing.root\n")
    (folder / "binary.list").write_bytes(b"\xff\xfe\x00")
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            expand([folder / name])
    with pytest.raises(InputError, match="is a URL, inputs are local files; copy it here first"):
        expand(["root://host//x.root"])
    with pytest.raises(InputError, match="no input files were given"):
        expand([])


def test_the_same_file_twice_is_refused_however_it_is_named(folder: Path) -> None:
    (folder / "link.root").symlink_to(folder / "run9.root")
    with pytest.raises(InputError, match=r"is given twice; give every file once"):
        expand([folder / "run9.root", folder / "run9.root"])
    with pytest.raises(InputError, match=r"link\.root: is given twice \(also as .*run9\.root\)"):
        expand([folder / "run9.root", folder / "link.root"])


def test_what_is_passed_over_in_a_folder_is_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "a.root.1").write_bytes(b"root")
    (folder / "B.ROOT").write_bytes(b"root")
    (folder / "sub").mkdir()
    (folder / "sub" / "c.root").write_bytes(b"root")
    assert names(expand([folder])) == ["run9.root", "run10.root"]
    assert "passed over B.ROOT, a.root.1, sub/; name them, or use a quoted glob" in caplog.text


def test_a_byte_order_mark_is_no_part_of_a_path(folder: Path) -> None:
    (folder / "runs.txt").write_text("\ufeffrun9.root\n", encoding="utf-8")
    assert names(expand([folder / "runs.txt"])) == ["run9.root"]


LINES = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(
            ["run9.root", "run10.root", "*.root", "[", "@self.txt", "self.txt", "..", "/dev/null", "~", "."]
        ),
        st.builds("{} {}".format, st.integers(), st.sampled_from(["run9.root", "run10.root", "*", ""])),
    ),
    max_size=4,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
def test_any_list_names_files_that_are_there_or_is_one_line(
    folder: Path, lines: list[str], end: str, encoding: str
) -> None:
    (folder / "self.txt").write_bytes(end.join(lines).encode(encoding, "replace"))
    try:
        files = expand([folder / "self.txt"])
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert files
        assert all(file.path.exists() and (file.run is None or file.run >= 0) for file in files)
        assert len({file.path.resolve() for file in files}) == len(files)


def test_twice_the_same_file_is_collected_where_that_is_asked_for(folder: Path) -> None:
    missing: list[InputError] = []
    assert names(expand([folder / "run9.root", folder / "run9.root", folder / "gone.root"], missing)) == ["run9.root"]
    assert [error.problem for error in missing] == ["does not exist", "is given twice"]
