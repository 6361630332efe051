"""Write a dataset: shard by shard, each file atomically and reproducibly, the manifest last.

    settings = Settings(columns=…, normalization=preset("standard"))
    infos = [write_shard(out, number, [rows], settings, source_ids) for number, rows in enumerate(…)]
    finalize(out, settings, infos, sources, counts)

Shards are independent of one another: any process may write any of them, in any order, again and again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.base import InputError, published, remove_abandoned
from shards.directio import DirectFile
from shards.geometry import nominal_faces
from shards.manifest import N_SENSORS, SHARD_FOLDER, FileInfo, Manifest, Settings, ShardInfo, SourceInfo
from shards.normalization import SensorCounts
from shards.sidecar import RESERVED, summarize, write_sidecar
from shards.tarfmt import index_text

BLOCK_EVENTS = 16
"""Events packed, summarized and hashed at a time: what fits in the processor's cache."""


@dataclass(frozen=True)
class ShardRows:
    """The events of one shard, or of a part of one, in order."""

    sensors: npt.NDArray[np.floating]
    """(n, 4760, 2), normalized and sentinel-marked, in the storage dtype; a memory map will do."""
    truth: npt.NDArray[np.float64]
    """float64 (n, columns), NaN for missing."""
    source: npt.NDArray[np.int64]
    """(n,): index into the *sorted* list of source ids."""
    entry: npt.NDArray[np.int64]
    """(n,): entry number in the source."""

    def __len__(self) -> int:
        return len(self.entry)

    def __getitem__(self, which: slice | npt.NDArray[np.integer]) -> ShardRows:
        return ShardRows(self.sensors[which], self.truth[which], self.source[which], self.entry[which])


@dataclass(frozen=True)
class Samples:
    """The events of one shard, or of a part of one, in order, as they stand in its tar."""

    packed: npt.NDArray[np.uint8]
    """uint8 (n, stride), with their headers (`SampleLayout`)."""
    source: npt.NDArray[np.int64]
    """(n,): index into the *sorted* list of source ids."""
    entry: npt.NDArray[np.int64]
    """(n,): entry number in the source."""


def shard_name(number: int) -> str:
    """ "000000" and so on; datasets of more than a million shards get longer names."""
    return f"{number:06d}"


def source_key(source_id: str) -> str:
    """The part of a sample's key that stands for its source: 16 hex digits of a digest."""
    return hashlib.sha256(source_id.encode()).hexdigest()[:16]


def sample_keys(
    source_ids: Sequence[str], source: npt.NDArray[np.integer], entry: npt.NDArray[np.integer]
) -> list[str]:
    """The WebDataset key of each event: source and entry, so that it is the same in every dataset the event is in."""
    heads = [source_key(source_id) for source_id in source_ids]
    return [f"{heads[s]}-{e:09d}" for s, e in zip(source.tolist(), entry.tolist(), strict=True)]


def write_shard(
    out: Path | str, number: int, parts: Iterable[ShardRows], settings: Settings, source_ids: Sequence[str]
) -> ShardInfo:
    """Write tar, index and Parquet of shard `number` of the dataset folder `out`; equal events give equal bytes.

    Args:
        parts: the events, in order, in as many pieces as suits the caller. The sensors of one are not used after
            the next is asked for, so they may share a buffer; all else is kept.
        source_ids: sorted; what `rows.source` counts in.

    Raises:
        InputError: shapes, dtypes or sources that do not fit `settings`.
        OutputError: the folder cannot be written.
    """
    _check_names(settings, source_ids)
    return write_samples(out, number, _packed(parts, settings, source_ids), settings, source_ids)


def _packed(parts: Iterable[ShardRows], settings: Settings, source_ids: Sequence[str]) -> Iterator[Samples]:
    for rows in parts:
        _check(rows, settings, source_ids)
        for start in range(0, len(rows), BLOCK_EVENTS):
            block = rows[start : start + BLOCK_EVENTS]
            names = sample_keys(source_ids, block.source, block.entry)
            yield Samples(settings.layout.pack(names, block.sensors, block.truth), block.source, block.entry)


def write_samples(
    out: Path | str, number: int, parts: Iterable[Samples], settings: Settings, source_ids: Sequence[str]
) -> ShardInfo:
    """`write_shard` of events that are packed already, under the names of `sample_keys`.

    Args:
        parts: the events, in order. Their bytes are not used after the next part is asked for, so parts may share a
            buffer.

    Raises:
        InputError: there are none.
        OutputError: the folder cannot be written.
    """
    folder, name, layout = Path(out) / SHARD_FOLDER, shard_name(number), settings.layout
    with published(folder / f"{name}.tar") as part:
        tar = _write_tar(part, parts, settings)
    events = len(tar.sums)
    keys = sample_keys(source_ids, tar.place["source"], tar.place["entry"])
    index = index_text(layout.index_lines(keys)).encode("ascii")
    with published(folder / f"{name}.idx") as part:
        part.write_bytes(index)
    first, second = layout.offsets(events)
    offsets = {
        "sensors_offset": first,
        "sensors_size": np.full(events, layout.sensors_size),
        "truth_offset": second,
        "truth_size": np.full(events, layout.truth_size),
    }
    with published(folder / f"{name}.parquet") as part:
        write_sidecar(part, settings.columns, tar.truth, tar.place, tar.summary, offsets, tar.sums)
    return ShardInfo(
        name=name,
        events=events,
        tar=tar.info,
        idx=FileInfo(len(index), hashlib.sha256(index).hexdigest()),
        parquet=file_info(folder / f"{name}.parquet"),
    )


@dataclass(frozen=True)
class _Tar:
    """A tar that was written, and what index and Parquet say of its events."""

    info: FileInfo
    truth: npt.NDArray[np.float64]
    place: dict[str, npt.NDArray[np.int64]]
    summary: dict[str, npt.NDArray[np.float64]]
    sums: npt.NDArray[np.int64]


def _write_tar(path: Path, parts: Iterable[Samples], settings: Settings) -> _Tar:
    layout, face, digest = settings.layout, np.asarray(nominal_faces(), dtype=np.int8), hashlib.sha256()
    truths, sources, entries, sums = [], [], [], []
    summaries: list[dict[str, npt.NDArray[np.float64]]] = []
    with DirectFile(path) as file:
        for part in parts:
            for start in range(0, len(part.packed), BLOCK_EVENTS):
                block = part.packed[start : start + BLOCK_EVENTS]
                sensors, truth = layout.views(block)
                summaries.append(summarize(sensors, settings.normalization, face))
                truths.append(truth.copy())
                sums.append(layout.sums(block))
                file.write(block.data)
                digest.update(block.data)
            sources.append(part.source)
            entries.append(part.entry)
        events = sum(map(len, sums))
        if not events:
            raise InputError("a shard needs at least one event")
        size = layout.tar_size(events)
        tail = bytes(size - events * layout.stride)
        file.write(memoryview(tail))
        digest.update(tail)
    return _Tar(
        info=FileInfo(size, digest.hexdigest()),
        truth=np.concatenate(truths),
        place={"source": np.concatenate(sources).astype(np.int64), "entry": np.concatenate(entries).astype(np.int64)},
        summary={name: np.concatenate([s[name] for s in summaries]) for name in summaries[0]},
        sums=np.concatenate(sums),
    )


def shard_info(out: Path | str, number: int, events: int) -> ShardInfo:
    """Describe a shard that was written before, by reading its three files again."""
    folder, name = Path(out) / SHARD_FOLDER, shard_name(number)
    return ShardInfo(name, events, *(file_info(folder / f"{name}.{kind}") for kind in ("tar", "idx", "parquet")))


def file_info(path: Path) -> FileInfo:
    """Size and digest of a file, read once."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileInfo(file.tell(), digest.hexdigest())


def finalize(
    out: Path | str,
    settings: Settings,
    shards: Iterable[ShardInfo],
    sources: Iterable[SourceInfo],
    counts: SensorCounts,
    uncounted: Sequence[str] = (),
) -> Manifest:
    """Publish the manifest of a dataset whose shards are all written, and remove files of its shard folder that are not
    part of it (left by an interrupted conversion with other numbers of events, or half-written by a killed process).

    Raises:
        InputError: the shards do not follow one another, or two sources have the same id.
    """
    ordered = tuple(sorted(shards, key=lambda shard: int(shard.name)))
    by_id = tuple(sorted(sources, key=lambda source: source.id))
    if [shard.name for shard in ordered] != [shard_name(i) for i in range(len(ordered))]:
        raise InputError("shards are missing or duplicated", file=out, found=[shard.name for shard in ordered])
    if any(shard.events != settings.events_per_shard for shard in ordered[:-1]):
        raise InputError("all shards but the last must be full", file=out, expected=settings.events_per_shard)
    if len({source_key(source.id) for source in by_id}) != len(by_id):
        raise InputError("two sources have the same id", file=out, found=[source.id for source in by_id])
    manifest = Manifest(settings, ordered, by_id, counts, tuple(uncounted))
    used = sum(source.used for source in by_id)
    if used != manifest.n_events:
        raise InputError(
            "the entries used from the sources do not add up to the shards' events",
            found=used,
            expected=manifest.n_events,
        )
    _remove_strangers(Path(out) / SHARD_FOLDER, {shard.name for shard in ordered})
    manifest.write(out)
    return manifest


class DatasetWriter:
    """Write a dataset from rows that come in the final order, any number at a time; holds one shard in memory."""

    def __init__(self, out: Path | str, settings: Settings, source_ids: Sequence[str]) -> None:
        """
        Args:
            out: the dataset's folder.
            source_ids: sorted; what `rows.source` counts in.
        """
        self.out, self.settings, self.source_ids = Path(out), settings, list(source_ids)
        self.infos: list[ShardInfo] = []
        self._waiting: list[ShardRows] = []

    def append(self, rows: ShardRows) -> None:
        """Add events after those added before; writes every shard that has become full."""
        full = self.settings.events_per_shard
        while len(rows):
            room = full - sum(len(part) for part in self._waiting)
            self._waiting.append(rows[:room])
            rows = rows[room:]
            if sum(len(part) for part in self._waiting) == full:
                self._write()

    def close(self, sources: Iterable[SourceInfo], counts: SensorCounts, uncounted: Sequence[str] = ()) -> Manifest:
        """Write the last shard and the manifest."""
        if self._waiting:
            self._write()
        return finalize(self.out, self.settings, self.infos, sources, counts, uncounted)

    def _write(self) -> None:
        parts, self._waiting = self._waiting, []
        self.infos.append(write_shard(self.out, len(self.infos), parts, self.settings, self.source_ids))


def _check_names(settings: Settings, source_ids: Sequence[str]) -> None:
    if list(source_ids) != sorted(set(source_ids)):
        raise InputError("source ids must be sorted and unique", found=list(source_ids))
    taken = sorted(RESERVED & set(settings.names))
    if taken:
        raise InputError("a column has a reserved name", found=taken, remedy="rename it in the schema")


def _check(rows: ShardRows, settings: Settings, source_ids: Sequence[str]) -> None:
    n = len(rows)
    for name, found, expected in (
        ("sensors", (rows.sensors.shape, str(rows.sensors.dtype)), ((n, N_SENSORS, 2), settings.dtype)),
        ("truth", (rows.truth.shape, str(rows.truth.dtype)), ((n, len(settings.columns)), "float64")),
        ("source", rows.source.shape, (n,)),
    ):
        if found != expected:
            raise InputError("has the wrong shape or type", item=name, found=found, expected=expected)
    if n and (rows.source.min() < 0 or rows.source.max() >= len(source_ids)):
        raise InputError("rows name a source that is not in the list", found=int(rows.source.max()))


def _remove_strangers(folder: Path, names: set[str]) -> None:
    remove_abandoned(folder)
    for path in folder.glob("*"):
        if path.suffix in (".tar", ".idx", ".parquet") and path.stem.isdigit() and path.stem not in names:
            path.unlink()
