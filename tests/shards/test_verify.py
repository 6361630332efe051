"""Every detector of corruption, with the corruption it is there for."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.synthetic import make_dataset

from shards.base import CorruptError
from shards.dataset import Dataset
from shards.manifest import MANIFEST, Manifest
from shards.opening import open_dataset
from shards.sidecar import read_sidecar
from shards.tarfmt import BLOCK, index_text
from shards.verify import verify
from shards.writer import file_info

PER_SHARD = 8


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "d", events=20, events_per_shard=PER_SHARD).path


@pytest.fixture
def dataset(pristine: Path, tmp_path: Path) -> Dataset:
    shutil.copytree(pristine, tmp_path / "copy")
    return open_dataset(tmp_path / "copy", check="none")


def forge(dataset: Dataset, shard: int = 1) -> None:
    """Make the manifest agree with the files of a shard as they are now, so that only looking inside can tell."""
    path = dataset.path / MANIFEST
    value = json.loads(path.read_text())
    for kind in ("tar", "idx", "parquet"):
        info = file_info(dataset.file(shard, kind))
        value["shards"][shard][kind] = {"bytes": info.bytes, "sha256": info.sha256}
    value["fingerprint"] = _fingerprint(value)
    path.write_text(json.dumps(value))


def _fingerprint(value: dict) -> str:
    from shards.manifest import manifest_of

    return manifest_of(value, None).fingerprint


def patch(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        assert file.read(len(data)) != data
        file.seek(offset)
        file.write(data)


def stride(dataset: Dataset) -> int:
    return dataset.manifest.settings.layout.stride


def cut_inside_a_member(d: Dataset) -> None:
    os.truncate(d.file(1, "tar"), 3 * stride(d) + 5000)


def cut_at_a_member_boundary(d: Dataset) -> None:
    os.truncate(d.file(1, "tar"), 3 * stride(d))


def drop_the_index(d: Dataset) -> None:
    d.file(1, "idx").unlink()


def take_the_index_of_another_shard(d: Dataset) -> None:
    shutil.copy(d.file(0, "idx"), d.file(1, "idx"))


def list_the_index_in_another_order(d: Dataset) -> None:
    lines = d.file(1, "idx").read_text().splitlines()[1:]
    d.file(1, "idx").write_text(index_text([*lines[1:], lines[0]]))


def remove_a_shard(d: Dataset) -> None:
    for kind in ("tar", "idx", "parquet"):
        d.file(1, kind).unlink()


def add_a_shard(d: Dataset) -> None:
    for kind in ("tar", "idx", "parquet"):
        shutil.copy(d.file(1, kind), d.file(1, kind).with_name(f"000003.{kind}"))


def swap_two_shards(d: Dataset) -> None:
    for kind in ("tar", "idx", "parquet"):
        a, b, aside = d.file(0, kind), d.file(1, kind), d.path / "aside"
        a.rename(aside)
        b.rename(a)
        aside.rename(b)


def overwrite_a_header(d: Dataset) -> None:
    patch(d.file(1, "tar"), 0, b"x")


def empty_the_sidecar(d: Dataset) -> None:
    size = d.file(1, "parquet").stat().st_size
    d.file(1, "parquet").write_bytes(bytes(size))


def copy_a_manifest_from_another_dataset(d: Dataset) -> None:
    other = make_dataset(d.path.parent / "other", events=20, events_per_shard=PER_SHARD, first_source=7)
    shutil.copy(other.path / MANIFEST, d.path / MANIFEST)


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (cut_inside_a_member, r"000001\.tar: has the wrong size"),
        (cut_at_a_member_boundary, r"000001\.tar: has the wrong size"),
        (drop_the_index, r"000001\.idx: is missing"),
        (take_the_index_of_another_shard, r"000001\.idx: has changed since it was written"),
        (list_the_index_in_another_order, r"000001\.idx: has changed since it was written"),
        (remove_a_shard, r"000001\.tar: is missing \(and 2 more problems\)"),
        (add_a_shard, r"000003\.idx: is not in the manifest"),
        (swap_two_shards, r"000000\.idx: has changed since it was written"),
        (overwrite_a_header, r"000001\.tar: [0-9a-f]+-\d+\.sensors\.npy: a member's header disagrees with the index"),
        (empty_the_sidecar, r"000001\.parquet: cannot be read"),
        (copy_a_manifest_from_another_dataset, r"000000\.idx: has changed since it was written"),
    ],
)
def test_opening_a_dataset_finds(dataset: Dataset, corrupt: Callable[[Dataset], None], message: str) -> None:
    open_dataset(dataset.path)
    corrupt(dataset)
    with pytest.raises(CorruptError, match=message):
        open_dataset(dataset.path)
    assert not verify(dataset.path, full=True).ok


def flip_a_payload_byte(d: Dataset) -> None:
    patch(d.file(1, "tar"), 4 * stride(d) + 9000, b"\x77")


def swap_two_samples(d: Dataset) -> None:
    data = bytearray(d.file(1, "tar").read_bytes())
    n = stride(d)
    data[2 * n : 3 * n], data[3 * n : 4 * n] = data[3 * n : 4 * n], data[2 * n : 3 * n]
    d.file(1, "tar").write_bytes(data)


def interleave_two_samples(d: Dataset) -> None:
    """Sensors of both before the truth of both, which WebDataset would take for four samples."""
    data = d.file(1, "tar").read_bytes()
    n, t = stride(d), d.manifest.settings.layout.truth_start - BLOCK
    two = [data[:t], data[n : n + t], data[t:n], data[n + t : 2 * n]]
    d.file(1, "tar").write_bytes(b"".join(two) + data[2 * n :])


def repack(d: Dataset, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> None:
    """Write the tar again with changed members, as another program would."""
    path = d.file(1, "tar")
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in change(members):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, __import__("io").BytesIO(data))


def leave_out_a_member(d: Dataset) -> None:
    repack(d, lambda members: members[:3] + members[4:])


def lengthen_a_member(d: Dataset) -> None:
    repack(d, lambda members: [(name, data + b"\0" * 8 * (i == 5)) for i, (name, data) in enumerate(members)])


def rename_a_member(d: Dataset) -> None:
    repack(d, lambda members: [(name.replace(".", "x.", i == 4), data) for i, (name, data) in enumerate(members)])


def change_the_type_of_an_array(d: Dataset) -> None:
    data = d.file(1, "tar").read_bytes()
    at = data.index(b"'<f4'", 5 * stride(d))
    patch(d.file(1, "tar"), at, b"'<i4'")


def write_an_infinity(d: Dataset) -> None:
    patch(d.file(1, "tar"), BLOCK + 128 + 40, np.array(np.inf, "<f4").tobytes())


def change_the_truth(d: Dataset) -> None:
    at = d.manifest.settings.layout.truth_start + 128 + 8 * d.columns.index("energy")
    patch(d.file(1, "tar"), 2 * stride(d) + at, np.array(0.06, "<f8").tobytes())


def write_behind_the_end(d: Dataset) -> None:
    patch(d.file(1, "tar"), d.file(1, "tar").stat().st_size - 3, b"abc")


def take_the_sidecar_of_another_shard(d: Dataset) -> None:
    shutil.copy(d.file(0, "parquet"), d.file(1, "parquet"))


def flip_a_byte_of_the_sidecar(d: Dataset) -> None:
    data = d.file(1, "parquet").read_bytes()
    patch(d.file(1, "parquet"), 60, bytes([data[60] ^ 0xFF]))


SAMPLE = "a sample's members have the wrong order, names, sizes or types"


@pytest.mark.parametrize(
    ("corrupt", "inside"),
    [
        (flip_a_payload_byte, None),
        (swap_two_samples, SAMPLE),
        (interleave_two_samples, SAMPLE),
        (leave_out_a_member, SAMPLE),
        (lengthen_a_member, SAMPLE),
        (rename_a_member, SAMPLE),
        (change_the_type_of_an_array, SAMPLE),
        (write_an_infinity, "a sensor value is neither finite nor a sentinel"),
        (change_the_truth, "a sample's truth differs from the sidecar's"),
        (write_behind_the_end, "has data after its last member"),
        (take_the_sidecar_of_another_shard, "is not the index of this shard"),
        (flip_a_byte_of_the_sidecar, "cannot be read"),
    ],
)
def test_the_full_check_finds(dataset: Dataset, corrupt: Callable[[Dataset], None], inside: str | None) -> None:
    """By the digest; and, where a manifest was made for the damaged files, by what is inside them."""
    corrupt(dataset)
    report = verify(dataset.path, full=True)
    assert any(p.problem in ("has changed since it was written", "has the wrong size") for p in report.problems), (
        report.problems
    )
    with pytest.raises(CorruptError, match=r"000001\.(tar|parquet): has"):
        report.require()
    if inside is not None:
        forge(dataset)
        messages = [str(problem) for problem in verify(dataset.path, full=True).problems]
        assert any(inside in message for message in messages), messages


def test_a_stale_index_is_found_inside(dataset: Dataset) -> None:
    list_the_index_in_another_order(dataset)
    forge(dataset)
    with pytest.raises(CorruptError, match=r"000001\.idx: is not the index of this shard"):
        verify(dataset.path, full=True).require()


def test_counts_that_contradict_each_other_are_found(dataset: Dataset) -> None:
    path = dataset.path / MANIFEST
    value = json.loads(path.read_text())
    value["sources"][0]["used"] += 1
    path.write_text(json.dumps(value))
    with pytest.raises(
        CorruptError, match=r"shards and sources disagree on the number of events .found 20, expected 21"
    ):
        open_dataset(dataset.path)
    value["sources"][0]["used"] -= 1
    value["shards"][2]["events"] += 1
    value["events"] += 1
    value["fingerprint"] = _fingerprint(value)
    path.write_text(json.dumps(value))
    problems = [str(p) for p in verify(dataset.path).problems]
    for text in (
        "the recorded size does not fit the number of events",
        "has the wrong number of rows",
        "number of samples",
    ):
        assert any(text in problem for problem in problems), (text, problems)


def test_all_is_well_with_a_good_dataset(dataset: Dataset) -> None:
    for full in (False, True):
        report = verify(dataset.path, full)
        assert report.ok
        assert (report.shards, report.events, report.full) == (3, 20, full)
        report.require()
    open_dataset(dataset.path, check="full")


def test_every_problem_is_listed(dataset: Dataset) -> None:
    drop_the_index(dataset)
    os.truncate(dataset.file(2, "tar"), 100)
    assert [p.problem for p in verify(dataset.path).problems] == ["is missing", "has the wrong size"]


def test_reading_refuses_a_damaged_sidecar_and_a_damaged_member(dataset: Dataset) -> None:
    flip_a_byte_of_the_sidecar(dataset)
    with pytest.raises(CorruptError, match=r"000001\.parquet: cannot be read"):
        read_sidecar(dataset.file(1, "parquet"))
    patch(dataset.file(0, "tar"), BLOCK, b"xNUMPY")
    with pytest.raises(CorruptError, match=r"000000\.tar: a member is not the array that the manifest describes"):
        dataset.read([0])
    os.truncate(dataset.file(2, "tar"), 1000)
    with pytest.raises(CorruptError, match=r"000002\.tar: was cut or replaced \(found 1000 bytes"):
        dataset.read([2 * PER_SHARD])


def test_the_manifest_is_not_rewritten_by_checks(dataset: Dataset) -> None:
    before = (dataset.path / MANIFEST).read_bytes()
    verify(dataset.path, full=True)
    assert (dataset.path / MANIFEST).read_bytes() == before
    assert Manifest.read(dataset.path).fingerprint == dataset.fingerprint
