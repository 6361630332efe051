import hashlib
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.base import CorruptError, InputError, OutputError
from xectrain.checkpoint import (
    BEST,
    DIGEST,
    LAST,
    PREVIOUS,
    find_checkpoint,
    newest_valid,
    read_checkpoint,
    write_checkpoint,
    write_last,
)

WEIGHTS = torch.arange(3000.0)
STATE: dict[str, Any] = {
    "mode": "regress",
    "config": {"mode": "regress"},
    "model": {"weights": WEIGHTS},
    "ema": None,
    "ema_updates": 0,
    "optimizer": {"state": {}},
    "position": {"epoch": 3, "best": 0.5},
    "metrics_offset": 0,
    "tracking_run_id": None,
    "normalization": {},
    "npho_threshold": 100.0,
    "fingerprint": "f",
    "datasets": ["d"],
    "columns": ["run"],
    "geometry": "g",
    "relative_time": False,
    "parameters": 3000,
    "code_version": "1",
}


def at_epoch(epoch: int) -> dict[str, Any]:
    return {**STATE, "position": {"epoch": epoch}}


def test_round_trip(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c.pt", STATE)
    state = read_checkpoint(tmp_path / "c.pt")
    assert torch.equal(state["model"]["weights"], WEIGHTS)
    assert (state["position"], state["columns"]) == ({"epoch": 3, "best": 0.5}, ["run"])


@pytest.mark.parametrize("key", STATE)
def test_a_checkpoint_without_a_part_is_named_with_it(tmp_path: Path, key: str) -> None:
    write_checkpoint(tmp_path / "c.pt", {k: v for k, v in STATE.items() if k != key})
    with pytest.raises(CorruptError, match=rf"c\.pt: {key}: is missing"):
        read_checkpoint(tmp_path / "c.pt")
    write_checkpoint(tmp_path / "c.pt", {**STATE, key: torch.zeros(2)})
    with pytest.raises(CorruptError, match=rf"c\.pt: {key}(\[0\])?: has a wrong value"):
        read_checkpoint(tmp_path / "c.pt")


def test_every_flipped_byte_is_detected(tmp_path: Path) -> None:
    """Of the tensors, and of the directory at the end, by which a flipped bit would load other weights."""
    path = tmp_path / "c.pt"
    write_checkpoint(path, STATE)
    good = path.read_bytes()
    for offset in (*range(0, len(good) - 1500, 997), *range(len(good) - 1500, len(good), 7)):
        damaged = bytearray(good)
        damaged[offset] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CorruptError, match=r"fails its checksum|is not a complete checkpoint|has lost its digest"):
            read_checkpoint(path)


def before_the_digest(path: Path) -> None:
    torch.save({"format": "xec-checkpoint-1", **STATE}, path)


def test_a_checkpoint_from_before_the_digest_is_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    before_the_digest(path)
    assert torch.equal(read_checkpoint(path)["model"]["weights"], WEIGHTS)
    good = path.read_bytes()
    place = good.index(torch.arange(3000.0).numpy().tobytes()[4:40])
    path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    with pytest.raises(CorruptError, match="fails its checksum"):
        read_checkpoint(path)


def test_the_digest_is_that_of_the_file_whose_weights_were_read(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, STATE)
    state = read_checkpoint(path)
    assert state[DIGEST] == hashlib.sha256(path.read_bytes()).hexdigest()
    write_checkpoint(tmp_path / "again.pt", state)  # and is not carried into another file
    assert (tmp_path / "again.pt").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncation_is_detected(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "c.pt"
    write_checkpoint(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 or keep == 0 else keep * len(whole))])
    with pytest.raises(CorruptError, match="is not a complete checkpoint"):
        read_checkpoint(path)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


def test_crafted_checkpoint_executes_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    torch.save({"format": "xec-checkpoint-1", "bomb": Bomb(marker)}, tmp_path / "c.pt")
    with pytest.raises(CorruptError, match="holds more than tensors and plain values"):
        read_checkpoint(tmp_path / "c.pt")
    assert not marker.exists()
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(CorruptError, match="is not a complete checkpoint"):
        read_checkpoint(tmp_path / "raw.pt")
    assert not marker.exists()


def test_foreign_files_are_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="is not a checkpoint of this project"):
        read_checkpoint(tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"is a folder, not a checkpoint; give a file in it, such as"):
        read_checkpoint(tmp_path)
    with pytest.raises(InputError, match="there is no such checkpoint"):
        read_checkpoint(tmp_path / "none.pt")


def test_damaged_newest_falls_back_to_the_previous_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest_valid(tmp_path) is None
    write_last(tmp_path, at_epoch(1))
    write_last(tmp_path, at_epoch(2))
    found = newest_valid(tmp_path)
    assert found is not None
    assert found[1]["position"]["epoch"] == 2
    (tmp_path / LAST).write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        found = newest_valid(tmp_path)
    assert found is not None
    assert (found[0].name, found[1]["position"]["epoch"]) == (PREVIOUS, 1)
    assert "trying the previous checkpoint" in caplog.text
    (tmp_path / PREVIOUS).write_bytes(b"")
    with pytest.raises(CorruptError):
        newest_valid(tmp_path)


def test_a_failing_save_leaves_a_valid_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_last(tmp_path, at_epoch(1))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_last(tmp_path, at_epoch(2))
    found = newest_valid(tmp_path)
    assert found is not None
    assert found[1]["position"]["epoch"] == 1


def test_find_checkpoint_prefers_the_best(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no checkpoint"):
        find_checkpoint(tmp_path)
    write_last(tmp_path, STATE)
    assert find_checkpoint(tmp_path).name == LAST
    write_checkpoint(tmp_path / BEST, STATE)
    assert find_checkpoint(tmp_path).name == BEST
    assert find_checkpoint(tmp_path / LAST).name == LAST
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}")
    (tmp_path / "a.root").write_bytes(b"root\0\0")
    for path, message in {
        tmp_path / "data": "data: is a dataset, not a run; give the model first, then the data",
        Path("root://host/run"): "is a URL, inputs are local files",
    }.items():
        with pytest.raises(InputError, match=message):
            find_checkpoint(path)
    with pytest.raises(InputError, match=r"a\.root: is a ROOT file, not a checkpoint; give the model first"):
        read_checkpoint(find_checkpoint(tmp_path / "a.root"))
    with pytest.raises(InputError, match="there is no such run folder"):
        find_checkpoint(tmp_path / "nothing")
