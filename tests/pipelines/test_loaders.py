"""Both readers deliver exactly the plan, with the stored values, on the CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.synthetic import make_dataset

from pipelines import Batch, open_loader
from pipelines.loader import choose_backend
from shards.base import ConfigError, CorruptError
from shards.dataset import Dataset
from shards.manifest import manifest_of
from shards.opening import open_dataset
from shards.plan import View, epoch_order, rank_plan
from shards.sums import SUM_COLUMN
from shards.writer import file_info

BACKENDS = ("dali", "webdataset")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "a", events=50, events_per_shard=16)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_are_the_plan_with_the_stored_values(dataset: Dataset, backend: str, shuffle: bool) -> None:
    views = [View(dataset, dataset.rows())]
    plan = rank_plan(epoch_order(views, seed=3, epoch=1, shuffle=shuffle), batch_size=8)
    with open_loader(views, plan, backend=backend) as loader:
        batches = list(loader)
    assert len(batches) == len(loader) == 7
    rows = np.concatenate([b.rows for b in batches])
    weight = torch.cat([b.weight for b in batches])
    assert sorted(rows[weight.numpy() > 0].tolist()) == list(range(50))
    assert (weight > 0).sum() == 50
    sensors, truth = dataset.read(rows)
    assert torch.equal(torch.cat([b.sensors for b in batches]), torch.from_numpy(sensors))
    assert np.array_equal(torch.cat([b.truth for b in batches]).numpy(), truth, equal_nan=True)
    assert all(b.sensors.shape == (8, 4760, 2) and b.sensors.dtype == torch.float32 for b in batches)
    assert all(b.truth.dtype == torch.float64 for b in batches)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_is_the_callers_to_keep_and_to_write_into(dataset: Dataset, backend: str) -> None:
    views = [View(dataset, dataset.rows())]
    plan = rank_plan(epoch_order(views, seed=3, epoch=1), batch_size=8)
    kept = []
    with open_loader(views, plan, backend=backend) as loader:
        for batch in loader:
            kept.append((batch, batch.sensors.clone()))
            batch.truth.fill_(-7.0)
            batch.sensors.neg_()
    for batch, before in kept:
        assert torch.equal(batch.sensors, -before)
        assert (batch.truth == -7.0).all()
        assert torch.equal(before, torch.from_numpy(dataset.read(batch.rows)[0]))


def test_readers_agree_on_two_datasets_selections_and_ranks(dataset: Dataset, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "b", events=30, events_per_shard=8, seed=5)
    views = [View(dataset, dataset.rows()[::3]), View(other, other.rows()[5:])]
    order = epoch_order(views, seed=0, epoch=0)
    for rank in range(3):
        plan = rank_plan(order, batch_size=9, rank=rank, world=3)
        by_backend = []
        for backend in BACKENDS:
            with open_loader(views, plan, backend=backend) as loader:
                by_backend.append(list(loader))
        for a, b in zip(*by_backend, strict=True):
            assert torch.equal(a.sensors, b.sensors)
            assert torch.equal(a.truth.nan_to_num(-99), b.truth.nan_to_num(-99))
            assert torch.equal(a.weight, b.weight)
            assert np.array_equal(a.rows, b.rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float16_shards_arrive_as_float32(tmp_path: Path, backend: str) -> None:
    half = make_dataset(tmp_path / "half", events=12, events_per_shard=5, dtype="float16")
    views = [View(half, half.rows())]
    plan = rank_plan(epoch_order(views, seed=0, epoch=0, shuffle=False), batch_size=4)
    with open_loader(views, plan, backend=backend) as loader:
        sensors = torch.cat([b.sensors for b in loader])
    assert sensors.dtype == torch.float32
    assert np.array_equal(sensors.numpy(), half.read(half.rows())[0])


def test_a_member_that_is_another_array_is_refused(tmp_path: Path) -> None:
    """What the headers say is compared, although nothing is decoded."""
    data = make_dataset(tmp_path / "data", events=12, events_per_shard=6)
    path, layout = data.file(1, "tar"), data.manifest.settings.layout
    content = bytearray(path.read_bytes())
    begin = int(data.index(1).truth_offset[2])
    at = content.index(b"<f8", begin)
    assert at < begin + len(layout.truth_npy)
    content[at : at + 3] = b">f8"
    path.write_bytes(content)
    views = [View(data, data.rows())]
    plan = rank_plan(epoch_order(views, seed=0, epoch=0, shuffle=False), batch_size=4)
    loader = iter(open_loader(views, plan, backend="dali"))
    assert len(next(loader).rows) == len(next(loader).rows) == 4
    with pytest.raises(CorruptError, match=r"000001.tar.*sample 2, truth.npy"):
        next(loader)


@pytest.mark.parametrize(("backend", "memory"), [("webdataset", "memory"), ("dali", "memory"), ("dali", "missing")])
def test_a_loader_can_be_left_early_and_leaves_no_files(
    dataset: Dataset, backend: str, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("disk", "memory"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "disk"))
    monkeypatch.setattr("pipelines.dali.MEMORY", tmp_path / memory)
    views = [View(dataset, dataset.rows())]
    plan = rank_plan(epoch_order(views, seed=0, epoch=0), batch_size=8)
    with open_loader(views, plan, backend=backend) as loader:
        next(iter(loader))
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["disk", "memory"]


def test_indexes_that_a_killed_process_left_are_removed(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.dali.MEMORY", tmp_path)
    with subprocess.Popen(["true"]) as ended:
        pass
    host = socket.gethostname()
    names = [f"xec-plan-{host}-{ended.pid}-a", f"xec-plan-{host}-{os.getpid()}-b", f"xec-plan-elsewhere-{ended.pid}-c"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.idx").write_text("v1.2 0")
    views = [View(dataset, dataset.rows())]
    with open_loader(views, rank_plan(epoch_order(views, seed=0, epoch=0), batch_size=8), backend="dali"):
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_left_of_an_epoch_is_no_batches(dataset: Dataset, backend: str) -> None:
    views = [View(dataset, dataset.rows())]
    plan = rank_plan(epoch_order(views, seed=0, epoch=0), batch_size=8, start_step=7)
    with open_loader(views, plan, backend=backend) as loader:
        assert list(loader) == []


def test_unknown_backend_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no loader backend 'dalli'; did you mean 'dali'"):
        choose_backend("dalli")


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_on_the_gpu_equal_those_on_the_cpu(dataset: Dataset, backend: str) -> None:
    views = [View(dataset, dataset.rows())]
    plan = rank_plan(epoch_order(views, seed=0, epoch=0), batch_size=8)
    with open_loader(views, plan, backend=backend, device="cuda:0") as loader:
        on_gpu = [b.sensors for b in loader]
    with open_loader(views, plan, backend="webdataset") as loader:
        on_cpu = [b.sensors for b in loader]
    assert all(g.is_cuda for g in on_gpu)
    assert all(torch.equal(g.cpu(), c) for g, c in zip(on_gpu, on_cpu, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("damage", ["cut", "removed", "cut while read"])
def test_a_tar_that_is_cut_or_gone_is_one_line_and_never_a_signal(tmp_path: Path, backend: str, damage: str) -> None:
    data = make_dataset(tmp_path / "d", events=600, events_per_shard=200)
    views = [View(data, data.rows())]
    plan = rank_plan(epoch_order(views, seed=3, epoch=1, shuffle=False), batch_size=8)
    tar = data.file(2, "tar")
    if damage == "removed":
        tar.unlink()
    elif damage == "cut":
        os.truncate(tar, 1 << 20)
    with pytest.raises(CorruptError, match=r"000002\.tar: (cannot be read: No such file|was cut or replaced)"):
        with open_loader(views, plan, backend=backend) as loader:
            for k, batch in enumerate(loader):
                if k == 0 and damage == "cut while read":
                    os.truncate(tar, 1 << 20)
                assert np.array_equal(batch.truth.numpy(), data.read(batch.rows)[1], equal_nan=True)


def batches(dataset: Dataset, backend: str, rows: np.ndarray | None = None) -> list[Batch]:
    """Batches of 8 events in dataset order."""
    views = [View(dataset, dataset.rows() if rows is None else rows)]
    plan = rank_plan(epoch_order(views, seed=0, epoch=0, shuffle=False), batch_size=8)
    with open_loader(views, plan, backend=backend) as loader:
        return list(loader)


def flipped(dataset: Dataset, row: int) -> Path:
    """Flip a bit of a photon number of a sample of the first shard, behind the checks of opening."""
    path, layout = dataset.file(0, "tar"), dataset.manifest.settings.layout
    with open(path, "r+b") as file:
        file.seek(row * layout.stride + 512 + layout.sensors_size - 8)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return path


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_bit_that_flipped_is_noticed_where_it_is_read_first(tmp_path: Path, backend: str, dtype: str) -> None:
    dataset = make_dataset(tmp_path, 40, events_per_shard=16, dtype=dtype)
    path = flipped(dataset, 5)
    with pytest.raises(CorruptError, match=rf"{path}: row 5: a sample has changed since it was written; restore the"):
        batches(dataset, backend)
    assert len(batches(dataset, backend, np.arange(16, 40))) == 3  # what else is read is right


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_was_read_once_is_not_summed_again(dataset: Dataset, backend: str) -> None:
    data = open_dataset(dataset.path)
    assert data.has_unseen(np.arange(len(data)))
    batches(data, backend)
    assert not data.has_unseen(np.arange(len(data)))
    batches(data, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_dataset_of_an_earlier_version_has_no_sums_and_is_read_as_ever(tmp_path: Path, backend: str) -> None:
    expected = batches(make_dataset(tmp_path, 40, events_per_shard=16), backend)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for shard in manifest["shards"]:
        sidecar = tmp_path / "shards" / f"{shard['name']}.parquet"
        pq.write_table(pq.read_table(sidecar).drop_columns([SUM_COLUMN]), sidecar, write_page_checksum=True)
        info = file_info(sidecar)
        shard["parquet"] = {"bytes": info.bytes, "sha256": info.sha256}
    manifest["fingerprint"] = manifest_of(manifest, None).fingerprint
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    old = open_dataset(tmp_path, check="full")
    flipped(old, 5)
    found = batches(old, backend)
    assert not np.array_equal(found[0].sensors, expected[0].sensors)
    np.testing.assert_array_equal(found[1].sensors, expected[1].sensors)
