"""What `xec shards info` says about a dataset."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from shards.base import counted, size_text
from shards.dataset import Dataset
from shards.manifest import N_SENSORS, Manifest
from shards.normalization import PRESETS, Normalization, RoundingReport, rounding
from shards.normalization.rounding import BRIGHT

SAMPLED_EVENTS = 512


def sampled_rounding(dataset: Dataset, events: int = SAMPLED_EVENTS) -> RoundingReport | None:
    """What float16 costs, or has cost, on up to `events` events spread over the dataset; None for an empty one."""
    if not len(dataset):
        return None
    rows = np.unique(np.linspace(0, len(dataset) - 1, events).astype(np.int64))
    return rounding(dataset.read_stored(rows)[0], dataset.normalization)


def describe(dataset: Dataset, report: RoundingReport | None) -> str:
    """The dataset in words and numbers, several lines."""
    return "\n".join(
        [
            *_overview(dataset),
            "",
            "columns (unit, role, input branch)",
            *_columns(dataset.manifest),
            "",
            "sensor values",
            *_counts(dataset.manifest),
            *_losses(dataset.manifest),
            "",
            *_rounding(dataset.dtype, report),
            "",
            *_sources(dataset.manifest),
        ]
    )


def summary(dataset: Dataset, report: RoundingReport | None) -> dict[str, Any]:
    """The same as JSON values: the manifest without shard and per-sensor lists, and the rounding errors."""
    value = dataset.manifest.to_json()
    value["shards"] = len(dataset.manifest.shards)
    value["bytes"] = _sizes(dataset.manifest)
    value["counts"] = dataset.manifest.counts.totals()
    value["float16_rounding"] = None if report is None else dataclasses.asdict(report)
    return value


def _overview(dataset: Dataset) -> Iterator[str]:
    manifest, settings = dataset.manifest, dataset.manifest.settings
    sizes = _sizes(manifest)
    yield f"{dataset.path}: {counted(manifest.n_events, 'event')} in {counted(len(manifest.shards), 'shard')}"
    yield f"  fingerprint    {manifest.fingerprint}"
    parts = ", ".join(f"{kind} {size_text(size)}" for kind, size in sizes.items())
    yield f"  size           {size_text(sum(sizes.values()))} ({parts})"
    stored = f"{settings.dtype}, times {settings.time_reference}, geometry {settings.geometry}"
    yield f"  sensors        {N_SENSORS}, {stored}"
    yield f"  normalization  {_normalization(settings.normalization)}"
    order = f"shuffled with seed {settings.seed}" if settings.shuffle else "as in the sources"
    yield f"  order          {order}, {counted(settings.events_per_shard, 'event')} a shard"
    if settings.split is not None:
        split = settings.split
        yield f"  split          {split.name!r} of {dict(split.fractions)} by {split.by}"
    if settings.selection is not None:
        yield f"  selection      {settings.selection}"
    gain = settings.conversion.get("channel_gain")
    if gain is not None:
        yield f"  channel gains  {gain['file']}, sha256 {gain['sha256'][:12]}"
    yield f"  written by     xec {manifest.version}"


def _normalization(norm: Normalization) -> str:
    name = next((name for name, known in PRESETS.items() if known == norm), "custom")
    scale2 = f" / {norm.npho_scale2:g}" if norm.scheme == "log1p" else ""
    return (
        f"{name}: npho {norm.scheme} / {norm.npho_scale:g}{scale2}, "
        f"time / {norm.time_scale:g} s {-norm.time_shift:+g}, sentinels {norm.sentinel_npho:g} / {norm.sentinel_time:g}"
    )


def _sizes(manifest: Manifest) -> dict[str, int]:
    return {kind: sum(getattr(shard, kind).bytes for shard in manifest.shards) for kind in ("tar", "idx", "parquet")}


def _columns(manifest: Manifest) -> Iterator[str]:
    for column in manifest.settings.columns:
        yield f"  {column.name:<16} {column.unit or '-':<8} {column.role:<9} {column.branch}".rstrip()


def _counts(manifest: Manifest) -> Iterator[str]:
    values = max(manifest.n_events * N_SENSORS, 1)
    names = {
        "good": "good",
        "dead": "dead",
        "out_of_domain": "out of domain, written as 0 photons",
        "time_invalid": "not dead, but without a time",
        "nudged": "nudged off a sentinel",
        "saturated": "beyond the storage type",
    }
    for name, total in manifest.counts.totals().items():
        if name in manifest.uncounted:
            yield f"  {'unknown':>14}           {names[name]}"
        else:
            yield f"  {total:>14} {100 * total / values:8.3f} % {names[name]}"
    always = int((manifest.counts.dead == manifest.n_events).sum()) if manifest.n_events else 0
    yield f"  {always:>14}           channels are dead in every event"


def _losses(manifest: Manifest) -> Iterator[str]:
    for title, what in (("dropped events", "dropped"), ("values made NaN, by column", "invalid_scalars")):
        found = manifest.summed(what)
        if found:
            yield f"{title}: " + ", ".join(f"{name} {count}" for name, count in found.items())


def _rounding(dtype: str, report: RoundingReport | None) -> Iterator[str]:
    if report is None:
        return
    if report.measured:
        yield f"float16 instead of {dtype} would round (measured: worst, rms)"
    else:
        yield "float16 has rounded (from the spacing of the stored values: worst, rms)"
    bright = f"of sensors with at least {BRIGHT:g} photons"
    for name, channel, scale, unit in (
        ("npho", report.npho, 1.0, "photons"),
        ("npho", report.npho_relative, 100.0, f"% {bright}"),
        ("npho", report.npho_statistics, 100.0, f"% of their photon statistics √npho, {bright}"),
        ("time", report.time, 1e12, "ps"),
    ):
        yield f"  {name}  {scale * channel.worst:10.4g} {scale * channel.rms:10.4g}  {unit}"


def _sources(manifest: Manifest, most: int = 10) -> Iterator[str]:
    yield f"{len(manifest.sources)} sources (events used of entries)"
    for source in manifest.sources[:most]:
        yield f"  {source.used:>9} of {source.entries:<9} {source.name}:{source.tree}"
    if len(manifest.sources) > most:
        yield f"  … and {len(manifest.sources) - most} more"
