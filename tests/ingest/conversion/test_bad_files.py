"""Damaged files, and workers that are killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import uproot
from support.conversion import options, run
from support.ingest_files import digests

from ingest.conversion.convert import convert
from ingest.reading.rootio import Skipped, open_sources
from shards.base import InputError

pytestmark = pytest.mark.usefixtures("small_units")


def corrupted(path: Path, target: Path) -> Path:

    with uproot.open(path) as opened:
        branch = opened["tree"]["npho"]
        seek, size = int(branch.member("fBasketSeek")[2]), branch.basket_compressed_bytes(2)
    data = bytearray(path.read_bytes())
    data[seek + size // 2] ^= 0x40
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_basket_stops_the_conversion_with_nothing_published(
    files: list[Path], tmp_path: Path, workers: int
) -> None:
    bad = corrupted(files[0], tmp_path / "bad.root")
    with pytest.raises(InputError, match=r"bad\.root: tree/npho: entries 32 to 47 cannot be read"):
        run([files[1], bad], tmp_path / "d", workers=workers)
    assert not list((tmp_path / "d").rglob("*.tar"))
    assert not (tmp_path / "d" / "manifest.json").exists()


@pytest.mark.parametrize("prepared", [False, True])
def test_skipping_bad_files_gives_what_the_good_ones_alone_give(
    files: list[Path], tmp_path: Path, prepared: bool
) -> None:
    bad = corrupted(files[0], tmp_path / "bad.root")
    (tmp_path / "none.root").write_bytes(b"text")
    changes = {"dead_if_invalid_fraction": 0.9, "select": "u > 0", "max_events": 9} if prepared else {}
    wanted = options(skip_bad_files=True, **changes)
    skipped: list[Skipped] = []
    sources = open_sources([files[1], bad, tmp_path / "none.root"], skipped=skipped)
    manifest = convert(sources, tmp_path / "d", wanted, skipped=skipped).manifest
    entries = manifest.settings.conversion["skipped"]
    assert [entry["name"] for entry in entries] == ["bad.root", "none.root"]
    assert entries[0]["reason"].startswith("bad.root: tree/npho: entries 32 to 47 cannot be read")
    run([files[1]], tmp_path / "good", **changes)
    assert digests(tmp_path / "d" / "shards") == digests(tmp_path / "good" / "shards")
    assert convert(sources, tmp_path / "d", wanted, skipped=skipped).was_complete


def test_no_usable_file_is_an_error_even_when_skipping(files: list[Path], tmp_path: Path) -> None:
    bad = corrupted(files[0], tmp_path / "bad.root")
    with pytest.raises(InputError, match="no events are left"):
        run([bad], tmp_path / "d", skip_bad_files=True)


def test_a_killed_worker_is_an_error_and_the_work_goes_on_afterwards(
    files: list[Path], reference: Path, tmp_path: Path
) -> None:
    import contextlib
    import signal
    import threading
    import time

    import psutil

    from shards.base import XecError

    def kill_one() -> None:
        for _ in range(2000):
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    if any("spawn_main" in part for part in child.cmdline()):
                        child.send_signal(signal.SIGKILL)
                        return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(XecError, match=r"a worker process died.*the same command continues"):
        run(files, tmp_path / "d", workers=2)
    killer.join()
    run(files, tmp_path / "d")
    assert digests(tmp_path / "d") == digests(reference)
