"""Splits of a conversion: disjoint, complete, refused before anything is read when they cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.conversion import rows, run

from shards.base import InputError, OutputError
from shards.opening import open_dataset

pytestmark = pytest.mark.usefixtures("small_units")


@pytest.mark.parametrize("by", ["event", "run", "source"])
def test_splits_are_disjoint_complete_and_in_hash_order(
    files: list[Path], reference: Path, tmp_path: Path, by: str
) -> None:
    result = run(files, tmp_path / "d", split="train=0.6,val=0.4", split_by=by)
    assert [f.name for f in result.folders] == ["train", "val"]
    parts = [list(zip(*rows(folder)[1:], strict=True)) for folder in result.folders]
    whole = list(zip(*rows(reference)[1:], strict=True))
    assert sorted(parts[0] + parts[1]) == sorted(whole)
    for part, manifest in zip(parts, result.manifests, strict=True):
        assert part == [row for row in whole if row in set(part)]
        assert sum(s.used for s in manifest.sources) == len(part)
        for source in manifest.sources:
            assert source.used + sum(source.dropped.values()) == source.entries
            assert set(source.dropped) <= {"other splits"}
    if by != "event":
        assert len({r for r, _ in parts[0]} & {r for r, _ in parts[1]}) == 0
    total = result.manifests[0].counts + result.manifests[1].counts
    np.testing.assert_array_equal(total.dead, open_dataset(reference).manifest.counts.dead)


def test_what_a_split_cannot_give_is_said_before_anything_is_read(
    files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match=r"1 run cannot be divided into 2 parts; .*--split-by event"):
        run(files[:1], tmp_path / "d", split="train=0.9,val=0.1", split_by="run")
    assert not list((tmp_path / "d").rglob("*.tar"))
    assert not list((tmp_path / "d").rglob("*.rows"))
    result = run(files, tmp_path / "e", split="train=0.9,val=0.1", split_by="run")
    assert [m.n_events for m in result.manifests] == [70, 33]
    assert "far from what was asked for: train has 68 % (90 % asked for), val has 32 % (10 % asked for)" in caplog.text
    assert result.manifest.settings.split is not None
    assert result.manifest.settings.split.groups == {"train": (100,), "val": (101,)}


def test_splits_do_not_go_into_a_dataset(files: list[Path], tmp_path: Path) -> None:
    run(files, tmp_path / "d")
    with pytest.raises(OutputError, match="d: exists, and is not a folder of datasets that this command wrote"):
        run(files, tmp_path / "d", split="train=0.5,val=0.5")
