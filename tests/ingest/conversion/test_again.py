"""A conversion that is run again, was interrupted, or may not write where it is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.conversion import options, run
from support.ingest_files import digests, write_tree

from ingest.conversion import convert as module
from ingest.conversion.convert import run_step
from ingest.conversion.plan import make_plan
from ingest.reading.rootio import open_sources
from shards.base import InputError, LockedError, OutputError, locked

pytestmark = pytest.mark.usefixtures("small_units")


def test_the_same_again_is_complete_and_anything_else_is_refused(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "d"
    run(files, out)
    before = digests(out)
    assert run(files[::-1], out, workers=2).was_complete
    for changes, message in (
        ({"seed": 1}, r"made with a different 'seed' \(found 0, expected 1\)"),
        ({"dtype": "float16"}, "a different 'dtype'"),
        ({"select": "u > 0"}, "a different 'selection'"),
        ({"time_floor": 3.0}, r"a different 'conversion.time_floor' \(found none, expected 3.0\)"),
        ({"events_per_shard": 26}, "a different 'events_per_shard'"),
    ):
        with pytest.raises(OutputError, match=message):
            run(files, out, **changes)
    with pytest.raises(OutputError, match=r"is a dataset of different sources \(found also run1.root\)"):
        run(files[:1], out)
    assert digests(out) == before


def test_an_interrupted_conversion_continues_only_as_what_it_was(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "d"
    run_step("bucket", make_plan(open_sources(files), (), options()), out)
    with pytest.raises(
        OutputError, match=r"holds an unfinished conversion with a different 'seed' \(found 0, expected 1\).*--out"
    ):
        run(files, out, seed=1)
    with pytest.raises(OutputError, match=r"unfinished conversion of different inputs \(found also of .*run1\.root\)"):
        run(files[:1], out)
    assert not run(files, out).was_complete


def test_a_source_that_changed_is_noticed_on_resuming(files: list[Path], trees: list[Any], tmp_path: Path) -> None:
    source = tmp_path / "a.root"
    source.write_bytes(files[0].read_bytes())
    run_step("bucket", make_plan(open_sources([source]), (), options()), tmp_path / "d")
    write_tree(source, trees[1])
    with pytest.raises(
        OutputError, match=r"a\.root: changed since the conversion began; remove .*\.ingest to start again"
    ):
        run([source], tmp_path / "d")


def test_work_that_is_done_is_not_done_again(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plan = tmp_path / "d", make_plan(open_sources(files), (), options())
    run_step("bucket", plan, out)
    run_step("sort", plan, out, task=0, tasks=2)
    written: list[int] = []
    original = module.Engine.sort

    def sort(self: Any, split: int, shard: int) -> Any:
        written.append(shard)
        return original(self, split, shard)

    monkeypatch.setattr(module.Engine, "sort", sort)
    monkeypatch.setattr(module.Engine, "bucket", None)
    run(files, out)
    assert written == [1, 3]


def test_damaged_temporary_rows_are_noticed_and_made_again(files: list[Path], reference: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "d", make_plan(open_sources(files), (), options())
    run_step("bucket", plan, out)
    victim = out / ".ingest" / "units" / "000001.rows"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(
        InputError, match=r"temporary rows are damaged: checksum of entry \d+ is wrong; run the same command again"
    ):
        run(files, out)
    run(files, out)
    assert digests(out) == digests(reference)


def test_rows_that_are_missing_are_made_again(files: list[Path], reference: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "d", make_plan(open_sources(files), (), options())
    run_step("bucket", plan, out)
    units = out / ".ingest" / "units"
    (units / "000000.rows").write_bytes((units / "000000.rows").read_bytes()[:-5])
    (units / "000001.index").unlink()
    (units / "000002.counts.npy").unlink()
    run(files, out)
    assert digests(out) == digests(reference)


def test_two_conversions_into_one_output_are_refused(files: list[Path], tmp_path: Path) -> None:
    with (
        locked(tmp_path / "d" / ".ingest.lock", "converting"),
        pytest.raises(LockedError, match=r"\.ingest\.lock: is held by process \d+ .*\(converting\)"),
    ):
        run(files, tmp_path / "d")
    run(files, tmp_path / "d")


def test_a_dataset_is_never_written_among_its_inputs(files: list[Path], tmp_path: Path) -> None:
    before = sorted(files[0].parent.iterdir())
    with pytest.raises(OutputError, match="holds an input of this command"):
        run(files, files[0].parent)
    with pytest.raises(OutputError, match="is a URL, outputs are local files"):
        run(files, "s3://bucket/o")  # type: ignore[arg-type]
    assert sorted(files[0].parent.iterdir()) == before


def test_too_little_space_is_said_before_anything_is_read(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**6}))
    with pytest.raises(OutputError, match=r"has too little free space \(found 1 MB, expected [\d.]+ MB\); free some"):
        run(files, tmp_path / "d")
    assert not (tmp_path / "d" / "manifest.json").exists()


def test_an_output_that_cannot_be_a_folder_is_one_error(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "d").write_text("a file")
    with pytest.raises(OutputError, match=r"is a file .expected a folder for the dataset"):
        run(files, tmp_path / "d")


def test_a_folder_that_refuses_is_one_error(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(OutputError, match=r"d/\.ingest\.lock.*: cannot be written: Permission denied"):
        run(files, tmp_path / "d")
