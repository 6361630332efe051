"""The manifest: what a dataset is, what it was made from, and the digests by which its files are recognised.

It is written last, so its presence means that the dataset is complete. It holds no time, host or path.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shards.base import CorruptError, InputError, local_path, package_version, publish_text
from shards.base.documents import checked, json_digest, read_json
from shards.columns import Column
from shards.geometry import Survey
from shards.normalization import Normalization, SensorCounts
from shards.order import HASH
from shards.tarfmt import STORAGE_DTYPES, SampleLayout

FORMAT = "xec-shards/1"
MANIFEST = "manifest.json"
SHARD_FOLDER = "shards"
N_SENSORS = 4760
EVENTS_PER_SHARD = 8192
TIME_REFERENCES = ("relative", "absolute")


@dataclass(frozen=True)
class FileInfo:
    """Size and SHA-256 (hex) of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardInfo:
    """One shard: three files that share a name."""

    name: str
    """Six digits or more, counting from 000000."""
    events: int
    tar: FileInfo
    idx: FileInfo
    parquet: FileInfo


@dataclass(frozen=True)
class SourceInfo:
    """One input tree."""

    id: str
    """What the hash of its events starts from; never a path or a position in a list."""
    name: str
    """Base name of the file."""
    tree: str
    uuid: str
    """Of the file; empty where it has none."""
    size: int
    """Bytes of the file."""
    entries: int
    """Events in the tree."""
    used: int
    """Events that are in this dataset."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Sensor values of each bad-value class (the fields of `SensorCounts`), over the used events."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Events left out, by reason."""
    invalid_scalars: Mapping[str, int] = field(default_factory=dict)
    """Events whose value of a column became NaN, by column."""


@dataclass(frozen=True)
class Split:
    """Which part of the sources' events a dataset holds."""

    name: str
    by: str
    fractions: Mapping[str, float]
    seed: int = 0
    groups: Mapping[str, tuple[int | str, ...]] | None = None
    """Runs or source ids of each part; None where a hash of each event decides, and in datasets of earlier versions."""

    @property
    def rule(self) -> Split:
        """The split without what follows from the data."""
        return dataclasses.replace(self, groups=None)


@dataclass(frozen=True)
class Settings:
    """Everything that was decided before the first event; datasets of equal settings can be merged."""

    columns: tuple[Column, ...]
    """In the order of the truth vector."""
    normalization: Normalization = field(default_factory=Normalization)
    dtype: str = "float32"
    """Storage type of the sensors: "float32" or "float16"."""
    time_reference: str = "relative"
    """Whether sensor times are "relative" (`time_min_used` was subtracted) or "absolute"."""
    geometry: str = "nominal"
    """Name of the geometry that `channel_map` is the digest of."""
    channel_map: str = ""
    """Digest of the geometry: which channel is where."""
    survey: Survey | None = None
    """That geometry, unless it is nominal; datasets of earlier versions do not hold it."""
    shuffle: bool = True
    """False: source order was kept."""
    seed: int = 0
    """Of the shuffle."""
    events_per_shard: int = EVENTS_PER_SHARD
    split: Split | None = None
    selection: str | None = None
    """Expression that chose the events."""
    conversion: Mapping[str, Any] = field(default_factory=dict)
    """Other options of the conversion that change the result (time floor, dead lists …), as JSON values."""

    def __post_init__(self) -> None:
        if self.dtype not in STORAGE_DTYPES:
            raise InputError("unknown storage type", found=self.dtype, expected=" or ".join(STORAGE_DTYPES))
        if self.time_reference not in TIME_REFERENCES:
            raise InputError("unknown time reference", found=self.time_reference, expected=" or ".join(TIME_REFERENCES))
        if self.events_per_shard < 1:
            raise InputError("a shard holds at least one event", found=self.events_per_shard)

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in the order of the truth vector."""
        return tuple(c.name for c in self.columns)

    @cached_property
    def layout(self) -> SampleLayout:
        """Sizes and offsets within a shard's tar."""
        return SampleLayout(N_SENSORS, len(self.columns), self.dtype)


@dataclass(frozen=True)
class Manifest:
    """The whole of `manifest.json`."""

    settings: Settings
    shards: tuple[ShardInfo, ...]
    sources: tuple[SourceInfo, ...]
    """Sorted by id."""
    counts: SensorCounts
    """Bad-value classes per sensor, over the events of this dataset."""
    uncounted: tuple[str, ...] = ()
    """Classes whose counts are not known for just these events, because the dataset was cut out of another one."""
    version: str = field(default_factory=package_version)
    """Of the code that wrote it."""

    @property
    def n_events(self) -> int:
        """Events of all shards."""
        return sum(shard.events for shard in self.shards)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the ordered shard digests and of everything needed to read them."""
        s = self.settings
        what = {
            "format": FORMAT,
            "sensors": N_SENSORS,
            "channel_map": s.channel_map,
            "dtype": s.dtype,
            "normalization": s.normalization.to_dict(),
            "time_reference": s.time_reference,
            "columns": [[c.name, c.unit, c.role] for c in s.columns],
            "shards": [[d.name, d.events, d.tar.sha256, d.idx.sha256, d.parquet.sha256] for d in self.shards],
        }
        return json_digest(what, separators=(",", ":"))

    def summed(self, what: str) -> dict[str, int]:
        """The per-source dictionaries "dropped" or "invalid_scalars" added up, by key."""
        total: dict[str, int] = {}
        for source in self.sources:
            for key, count in getattr(source, what).items():
                total[key] = total.get(key, 0) + count
        return dict(sorted(total.items()))

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values, keys in the order they are written."""
        s = self.settings
        settings = dataclasses.asdict(s)
        if s.survey is None:
            del settings["survey"]
        if s.split is not None and s.split.groups is None:
            del settings["split"]["groups"]
        elif s.split is not None and s.split.groups is not None:
            settings["split"]["groups"] = {name: list(inside) for name, inside in s.split.groups.items()}
        return {
            "format": FORMAT,
            "version": self.version,
            "fingerprint": self.fingerprint,
            "events": self.n_events,
            "sensors": N_SENSORS,
            "byte_order": "little",
            "hash": HASH,
            **{key: settings[key] for key in settings if key != "columns"},
            "columns": [dataclasses.asdict(c) for c in s.columns],
            "dropped": self.summed("dropped"),
            "invalid_scalars": self.summed("invalid_scalars"),
            "counts": {
                name: {"total": total, "per_sensor": getattr(self.counts, name).tolist()}
                for name, total in self.counts.totals().items()
            },
            "uncounted": list(self.uncounted),
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
            "sources": [dataclasses.asdict(source) for source in self.sources],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], file: Path | str | None = None) -> Manifest:
        """The inverse of `to_json`.

        Raises:
            InputError: another format version.
            CorruptError: something is missing, of the wrong kind, or contradicts the recorded fingerprint.
        """
        if value.get("format") != FORMAT:
            raise InputError("has another format", file=file, found=value.get("format"), expected=FORMAT)
        manifest = manifest_of(value, file)
        if manifest.fingerprint != value.get("fingerprint") or manifest.n_events != value.get("events"):
            raise CorruptError(
                "contradicts its own fingerprint",
                file=file,
                found=value.get("fingerprint"),
                expected=manifest.fingerprint,
                remedy="restore it, or convert the data again",
            )
        return manifest

    def write(self, folder: Path | str) -> None:
        """Publish `manifest.json` in the dataset's folder."""
        publish_text(Path(folder) / MANIFEST, json_text(self.to_json()) + "\n")

    @classmethod
    def read(cls, folder: Path | str) -> Manifest:
        """Read `manifest.json` of a dataset's folder.

        Raises:
            InputError: a URL, or there is none, which means that there is no complete dataset.
            CorruptError: it is damaged.
        """
        file = local_path(folder, InputError) / MANIFEST
        if not file.is_file():
            raise _no_dataset(Path(folder))
        value = read_json(file, "manifest")
        if not isinstance(value, dict):
            raise CorruptError("is not a valid manifest", file=file)
        return cls.from_json(value, file)


@dataclass(frozen=True)
class _Count:
    per_sensor: list[int]


@dataclass(frozen=True)
class _Contents:
    """What a manifest says apart from the settings."""

    shards: tuple[ShardInfo, ...]
    sources: tuple[SourceInfo, ...]
    counts: dict[str, _Count]
    uncounted: tuple[str, ...]
    version: str


def manifest_of(value: Mapping[str, Any], file: Path | str | None) -> Manifest:
    """What the JSON of a manifest says, whatever fingerprint is in it.

    Raises:
        CorruptError: something is missing or of the wrong kind.
    """
    for name in (f.name for f in dataclasses.fields(Settings)):
        if name not in value and name != "survey":
            raise CorruptError("is missing", file=file, item=name)
    settings = checked(Settings, dict(value), file=file)
    contents = checked(_Contents, dict(value), file=file)
    if strange := [shard.name for shard in contents.shards if Path(shard.name).name != shard.name]:
        raise CorruptError(f"shard {strange[0]!r} is not in the dataset's folder", file=file, item="shards")
    counts = {}
    for name in (f.name for f in dataclasses.fields(SensorCounts)):
        if name not in contents.counts or len(contents.counts[name].per_sensor) != N_SENSORS:
            raise CorruptError("does not have one number per sensor", file=file, item=f"counts.{name}")
        counts[name] = np.array(contents.counts[name].per_sensor, np.int64)
    return Manifest(
        settings=settings,
        shards=contents.shards,
        sources=contents.sources,
        counts=SensorCounts(**counts),
        uncounted=contents.uncounted,
        version=contents.version,
    )


def json_text(value: Any, indent: int = 0) -> str:
    """JSON, two-space indented, but lists of plain values on one line: 4760 counts are not 4760 lines."""
    pad, inner = " " * indent, " " * (indent + 2)
    if isinstance(value, dict) and value:
        lines = [f"{inner}{json.dumps(key)}: {json_text(item, indent + 2)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{pad}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(inner + json_text(item, indent + 2) for item in value) + f"\n{pad}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


RUN_FILES = {"state.json", "config.yaml", "checkpoint_last.pt"}
RESULT_FILES = {"metrics.json", "metrics.jsonl", "report.html", "comparison.json", "channels.json", "campaign.json"}
"""What tells the folder of a run, and that of other results."""


def takes_dataset(path: Path) -> bool:
    """Whether a dataset may be written into an existing folder: one is there, or was begun, or nothing visible is."""
    visible = {item.name for item in path.iterdir() if not item.name.startswith(".")}
    return MANIFEST in visible or visible <= {"shards"}


def takes_folders(path: Path) -> bool:
    """Whether an existing folder may get further ones: it is not itself a dataset, a run or another result."""
    return not {item.name for item in path.iterdir()} & {MANIFEST, *RUN_FILES, *RESULT_FILES}


def takes_report(path: Path) -> bool:
    """Whether a report may be written into an existing folder: it is neither a dataset nor a run."""
    return not {item.name for item in path.iterdir()} & {MANIFEST, *RUN_FILES}


def folder_of_others(path: Path) -> InputError | None:
    """The error for a folder given as data that is a run folder or the parent of datasets; None for any other."""
    inside = sorted(item.name for item in path.iterdir())
    if RUN_FILES & set(inside):
        return InputError("is a run folder, not data", file=path, remedy="give the data to read")
    parts = [name for name in inside if (path / name / MANIFEST).is_file()]
    if parts:
        return InputError(
            "is not a dataset, but holds some", file=path, found=", ".join(parts[:8]), remedy=f"give {path / parts[0]}"
        )
    return None


def _no_dataset(path: Path) -> InputError:
    """What was found instead of a dataset folder, and what to do."""
    convert = f"convert it first: xec ingest root2shards {path} --out DIR"
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(4) == b"root":
                return InputError("is a ROOT file, not a dataset", file=path, remedy=convert)
        return InputError("is a file, not a dataset folder", file=path)
    if not path.is_dir():
        return InputError("there is no such dataset", file=path)
    if (other := folder_of_others(path)) is not None:
        return other
    if any(item.suffix == ".root" for item in path.iterdir()):
        return InputError("holds ROOT files, but is not a dataset", file=path, remedy=convert)
    return InputError(
        "is not a complete dataset: it has no manifest.json",
        file=path,
        remedy="finish the conversion by running the same command again",
    )
