import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.base import InputError, OutputError, local_path, output_file, output_folder


def is_view(path: Path) -> bool:
    if path.read_bytes()[:1] == b"?":
        raise InputError("is damaged", file=path)
    return path.read_bytes().startswith(b"view")


def test_free_names_and_own_files_are_taken_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("view 1")
    for name in ("new.json", "old.json", "deep/er/new.json", "a::b.json", "a:b/c[1]*.json"):
        assert output_file(tmp_path / name, "view file", is_view) == tmp_path / name
    assert output_folder(tmp_path / "x/y", "dataset", is_view) == tmp_path / "x/y"
    assert [p.name for p in tmp_path.iterdir()] == ["old.json"]


@pytest.mark.parametrize("text", ["notes", "?"])
def test_files_of_another_kind_are_not_replaced(tmp_path: Path, text: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_text(text)
    with pytest.raises(
        OutputError, match=r"notes\.txt: exists, and is not a view file that this command wrote; choose another"
    ):
        output_file(file, "view file", is_view)
    with pytest.raises(OutputError, match="exists, and is not a dataset that this command wrote"):
        output_folder(tmp_path, "dataset", lambda path: False)
    assert file.read_text() == text


def test_inputs_folders_and_devices_are_no_outputs(tmp_path: Path) -> None:
    file = tmp_path / "in" / "view"
    file.parent.mkdir()
    file.write_text("view")
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="link: is an input of this command"):
        output_file(tmp_path / "link", "view file", is_view, inputs=[file])
    with pytest.raises(OutputError, match="in: holds an input of this command"):
        output_folder(tmp_path / "in", "dataset", lambda path: True, inputs=[file])
    with pytest.raises(OutputError, match="in: is a folder"):
        output_file(tmp_path / "in", "view file", is_view)
    with pytest.raises(OutputError, match="view: is a file"):
        output_folder(file, "dataset", is_view)
    with pytest.raises(OutputError, match="pipe: is a device or pipe"):
        output_file(tmp_path / "pipe", "view file", is_view)


@pytest.mark.parametrize("name", ["s3://b/o", "root://eos//p.root", "https://x/p", "memory://p"])
def test_urls_are_no_paths(name: str) -> None:
    for given in (name, Path(name)):
        with pytest.raises(OutputError, match="is a URL, outputs are local files; write it here, then copy it"):
            output_file(given, "view file", is_view)
        with pytest.raises(InputError, match=r"://.*: is a URL, inputs are local files; copy it here first"):
            local_path(given, InputError)


def test_places_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file/a", "n" * 300, "/".join(["d" * 200] * 25)):
        for ask in (output_file, output_folder):
            with pytest.raises(OutputError, match=r"cannot be written: (Not a dir|File exists|File name too long)"):
                ask(tmp_path / place, "thing", is_view)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_one_folder_asked_for_by_many_at_once_is_writable_for_all(tmp_path: Path) -> None:
    place = tmp_path / "campaign" / "run"
    with ThreadPoolExecutor(8) as pool:
        asked = list(pool.map(lambda _: output_folder(place, "run", lambda path: True), range(100)))
    assert asked == [place] * 100
    assert not any(tmp_path.iterdir())
