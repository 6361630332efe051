"""Are these the bytes that were written? Quick: sizes, counts, index digests, some tar headers. Full: every byte.

DALI reads a tar that was cut at a member boundary as a shorter one, and flipped payload bytes as other numbers, without
a word; so every reader of a dataset checks here first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shards.base import CorruptError, progress
from shards.dataset import Dataset
from shards.manifest import MANIFEST, SHARD_FOLDER, FileInfo
from shards.sidecar import PLACE_COLUMNS, read_sidecar, truth_vectors
from shards.sums import SUM_COLUMN
from shards.tarfmt import BLOCK, INDEX_VERSION, SampleLayout, index_text, tar_header
from shards.writer import BLOCK_EVENTS, file_info, sample_keys

KINDS = ("tar", "idx", "parquet")
SAMPLED_HEADERS = 4
"""Samples per shard whose tar headers the quick check looks at."""


@dataclass(frozen=True)
class VerifyReport:
    """What a check found."""

    path: Path
    full: bool
    shards: int
    events: int
    problems: tuple[CorruptError, ...]
    """One per damaged thing, in the order found; empty when all is well."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def require(self) -> None:
        """Raise the first problem, if any, saying how many there are."""
        if self.problems:
            first, more = self.problems[0], len(self.problems) - 1
            note = f" (and {more} more problems)" if more else ""
            raise CorruptError(
                first.problem + note,
                file=first.file,
                item=first.item,
                found=first.found,
                expected=first.expected,
                remedy=f"xec shards verify --full {self.path} lists all of them; restore the files or convert again",
            )


def verify(path: Path | str, full: bool = False) -> VerifyReport:
    """Check a dataset against its manifest.

    Quick: every file is there with its size and no other is; counts; every index's digest and text; some tar headers.
    Full: also every digest, every tar header and the order of members, `.npy` headers, finite or sentinel values, and
    that the tar's truth equals the sidecar's.

    Raises:
        InputError: there is no manifest.
        CorruptError: the manifest itself is damaged. What is wrong with shards is in the report.
    """
    dataset = Dataset.at(path)
    problems = [*_manifest_problems(dataset), *_strangers(dataset)]
    for shard in _followed(dataset, full):
        problems += _shard_problems(dataset, shard, full)
    return VerifyReport(dataset.path, full, len(dataset.manifest.shards), dataset.n_events, tuple(problems))


def _followed(dataset: Dataset, full: bool) -> Iterator[int]:
    """The shards one by one, with a progress display where this takes long."""
    shards = dataset.manifest.shards
    if not full:
        yield from range(len(shards))
        return
    with progress(f"verifying {dataset.path}", dataset.n_events) as bar:
        for number, shard in enumerate(shards):
            yield number
            bar.advance(shard.events)


def _manifest_problems(dataset: Dataset) -> Iterator[CorruptError]:
    file, manifest = dataset.path / MANIFEST, dataset.manifest
    used = sum(source.used for source in manifest.sources)
    if used != manifest.n_events:
        yield CorruptError(
            "shards and sources disagree on the number of events", file=file, found=manifest.n_events, expected=used
        )
    for shard in manifest.shards:
        size = manifest.settings.layout.tar_size(shard.events)
        if shard.tar.bytes != size:
            yield CorruptError(
                "the recorded size does not fit the number of events",
                file=file,
                item=shard.name,
                found=shard.tar.bytes,
                expected=size,
            )


def _strangers(dataset: Dataset) -> Iterator[CorruptError]:
    """Shard files that are not in the manifest."""
    known = {shard.name for shard in dataset.manifest.shards}
    for path in sorted((dataset.path / SHARD_FOLDER).glob("*")):
        if path.suffix[1:] in KINDS and not path.name.startswith(".") and path.stem not in known:
            yield CorruptError("is not in the manifest", file=path, remedy="remove it if it was put there by mistake")


def _shard_problems(dataset: Dataset, shard: int, full: bool) -> list[CorruptError]:
    info = dataset.manifest.shards[shard]
    problems: list[CorruptError] = []
    for kind in KINDS:
        problems += _file_problems(dataset.file(shard, kind), getattr(info, kind), digest=full or kind == "idx")
    if any(problem.problem in (MISSING, SIZE) for problem in problems):
        return problems
    try:
        problems += _full_problems(dataset, shard) if full else _quick_problems(dataset, shard)
    except CorruptError as error:
        problems.append(error)
    return problems


MISSING, SIZE, DIGEST = "is missing", "has the wrong size", "has changed since it was written"


def _file_problems(path: Path, info: FileInfo, digest: bool) -> Iterator[CorruptError]:
    try:
        size = path.stat().st_size
        if size != info.bytes:
            yield CorruptError(SIZE, file=path, found=size, expected=info.bytes)
        elif digest and (found := file_info(path).sha256) != info.sha256:
            yield CorruptError(DIGEST, file=path, found=found[:12], expected=info.sha256[:12])
    except FileNotFoundError:
        yield CorruptError(MISSING, file=path)


def _quick_problems(dataset: Dataset, shard: int) -> Iterator[CorruptError]:
    events, layout = dataset.manifest.shards[shard].events, dataset.manifest.settings.layout
    sidecar = dataset.file(shard, "parquet")
    try:
        rows = pq.read_metadata(sidecar).num_rows
    except (OSError, pa.ArrowException) as error:
        raise CorruptError(f"cannot be read: {error}", file=sidecar) from error
    if rows != events:
        yield CorruptError("has the wrong number of rows", file=sidecar, found=rows, expected=events)
    index, tar = dataset.file(shard, "idx"), dataset.file(shard, "tar")
    lines = index.read_text(encoding="ascii", errors="replace").splitlines()
    if len(lines) != events + 1 or lines[0] != f"{INDEX_VERSION} {events}":
        yield CorruptError("has the wrong number of samples", file=index, found=len(lines) - 1, expected=events)
        return
    with open(tar, "rb") as file:
        for row in sorted({int(r) for r in np.linspace(0, events - 1, SAMPLED_HEADERS)}):
            names = lines[row + 1].split()[3::4]
            starts = (row * layout.stride, row * layout.stride + layout.truth_start - BLOCK)
            for name, start, size in zip(names, starts, (layout.sensors_size, layout.truth_size), strict=True):
                file.seek(start)
                if file.read(BLOCK) != tar_header(name, size):
                    yield CorruptError("a member's header disagrees with the index", file=tar, item=name)


def _full_problems(dataset: Dataset, shard: int) -> Iterator[CorruptError]:
    """What is inside the three files of a shard, derived from the sidecar's (source, entry) and truth."""
    events, settings = dataset.manifest.shards[shard].events, dataset.manifest.settings
    layout, sidecar, tar = settings.layout, dataset.file(shard, "parquet"), dataset.file(shard, "tar")
    table = read_sidecar(sidecar)
    if len(table) != events:
        raise CorruptError("has the wrong number of rows", file=sidecar, found=len(table), expected=events)
    missing = sorted(set(dataset.table_columns) - set(table.columns))
    if missing:
        raise CorruptError("lacks columns of the manifest", file=sidecar, found=", ".join(missing))
    first, second = layout.offsets(events)
    if not (np.array_equal(table["sensors_offset"], first) and np.array_equal(table["truth_offset"], second)):
        yield CorruptError("disagrees with the tar on member offsets", file=sidecar)
    source, entry = (np.asarray(table[name].to_numpy(), np.int64) for name in PLACE_COLUMNS)
    if source.min() < 0 or source.max() >= len(dataset.manifest.sources):
        raise CorruptError("names a source that is not in the manifest", file=sidecar, found=int(source.max()))
    keys = sample_keys([s.id for s in dataset.manifest.sources], source, entry)
    index = dataset.file(shard, "idx")
    if index.read_bytes() != index_text(layout.index_lines(keys)).encode():
        yield CorruptError("is not the index of this shard", file=index)
    truth = truth_vectors(table, settings.columns)
    sums = table[SUM_COLUMN].to_numpy() if SUM_COLUMN in table.columns else None
    with open(tar, "rb") as file:
        for start in range(0, events, BLOCK_EVENTS):
            block = slice(start, min(start + BLOCK_EVENTS, events))
            raw = np.frombuffer(file.read(layout.stride * (block.stop - start)), np.uint8).reshape(-1, layout.stride)
            yield from _block_problems(layout, tar, keys[block], raw, truth[block])
            if sums is not None and (layout.sums(raw) != sums[block]).any():
                yield CorruptError("disagrees with the tar on the sums of samples", file=sidecar)
        if file.read().strip(b"\0"):
            yield CorruptError("has data after its last member", file=tar)


def _block_problems(
    layout: SampleLayout, tar: Path, keys: Sequence[str], raw: npt.NDArray[np.uint8], truth: npt.NDArray[np.float64]
) -> Iterator[CorruptError]:
    """Compare consecutive samples with what packing their own values again gives, and with the sidecar's truth."""
    sensors, tar_truth = layout.views(raw)
    damaged = (layout.pack(keys, sensors, tar_truth) != raw).any(axis=1)
    infinite = ~np.isfinite(sensors).all(axis=(1, 2))
    unequal = ~((tar_truth == truth) | (np.isnan(tar_truth) & np.isnan(truth))).all(axis=1)
    for bad, problem in (
        (damaged, "a sample's members have the wrong order, names, sizes or types"),
        (infinite, "a sensor value is neither finite nor a sentinel"),
        (unequal, "a sample's truth differs from the sidecar's"),
    ):
        if bad.any():
            yield CorruptError(problem, file=tar, item=keys[int(bad.argmax())], found=f"{int(bad.sum())} such samples")
