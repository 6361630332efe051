"""Last step: from the counts of all units and the written shards to the manifests; and is the output already there?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ingest.conversion.plan import Plan, split_folder
from ingest.conversion.prepare import Prepared
from ingest.conversion.sorting import settings_of
from ingest.conversion.work import UnitResult, WorkFolder
from shards.base import OutputError, printable
from shards.dead import DeadEntry, DeadList
from shards.manifest import MANIFEST, Manifest, Settings, ShardInfo, SourceInfo
from shards.normalization import SensorCounts
from shards.operations.agreement import OTHER_SPLITS
from shards.writer import finalize

DERIVED = ("dead", "skipped")
"""Keys of a manifest's `conversion` that were found out on the way, not asked for."""


def write_manifests(
    plan: Plan,
    work: WorkFolder,
    out: Path,
    results: Mapping[int, UnitResult],
    prepared: Prepared,
    shards: Mapping[int, Sequence[ShardInfo]],
) -> list[Manifest]:
    """Publish the manifest of every split.

    Args:
        results: of all units, those of sources that were given up included.
        shards: of each split, in order.
    """
    bad = failures(plan, results)
    good = {number: result for number, result in results.items() if plan.units[number].source not in bad}
    conversion = {
        **plan.settings.conversion,
        "dead": (prepared.dead | dead_by_branch(good)).to_list(),
        "skipped": skipped_files(plan, bad),
    }
    manifests = []
    for split in range(len(plan.options.splits)):
        part = plan.options.splits[split]
        if part is not None:
            part = dataclasses.replace(part, groups=prepared.groups)
        settings = dataclasses.replace(plan.settings, split=part, conversion=conversion)
        sources, counts = _sources(plan, work, good, split)
        manifests.append(
            finalize(split_folder(out, plan.options.splits[split]), settings, shards[split], sources, counts)
        )
    return manifests


def failures(plan: Plan, results: Mapping[int, UnitResult]) -> dict[int, str]:
    """Sources that were given up while reading, with the reason at the earliest entry."""
    found: dict[int, str] = {}
    for number, result in sorted(results.items()):  # units of a source are in ascending order of entries
        if result.failed is not None:
            found.setdefault(plan.units[number].source, result.failed)
    return found


def skipped_files(plan: Plan, bad: Mapping[int, str]) -> list[dict[str, str]]:
    """Names of the files that were left out, with reasons that name no folder."""
    paths = {skipped.path: skipped.reason for skipped in plan.skipped}
    paths |= {plan.sources[source].path: reason for source, reason in bad.items()}
    found = [
        {"name": printable(path.name), "reason": printable(reason.replace(str(path), path.name))}
        for path, reason in paths.items()
    ]
    return sorted(found, key=lambda entry: (entry["name"], entry["reason"]))


def dead_by_branch(results: Mapping[int, UnitResult]) -> DeadList:
    """Channels that the `dead` branch flags in every event of a run."""
    runs: dict[int, set[int]] = {}
    for result in results.values():
        for run, sensors in result.flagged.items():
            runs[int(run)] = runs.get(int(run), set(sensors)) & set(sensors)
    return DeadList.of(
        DeadEntry(sensor, run, run, "bad", "flagged by the dead branch")
        for run, sensors in runs.items()
        for sensor in sensors
    )


def _sources(
    plan: Plan, work: WorkFolder, results: Mapping[int, UnitResult], split: int
) -> tuple[list[SourceInfo], SensorCounts]:
    total = SensorCounts.zero()
    infos = []
    units: dict[int, list[int]] = {}
    for unit in results:
        units.setdefault(plan.units[unit].source, []).append(unit)
    for number, mine in sorted(units.items()):
        source, counts = plan.sources[number], SensorCounts.zero()
        dropped: dict[str, int] = {}
        invalid: dict[str, int] = {}
        used = 0
        for unit in mine:
            counts = counts + work.read_counts(unit)[split]
            used += results[unit].events(split)
            _add(dropped, results[unit].dropped)
            _add(invalid, results[unit].invalid[split])
        elsewhere = source.entries - used - sum(dropped.values())
        if elsewhere:
            dropped[OTHER_SPLITS] = elsewhere
        total = total + counts
        infos.append(
            SourceInfo(
                id=source.id,
                name=printable(source.path.name),
                tree=source.tree,
                uuid=source.uuid,
                size=source.size,
                entries=source.entries,
                used=used,
                counts=counts.totals(),
                dropped=dict(sorted(dropped.items())),
                invalid_scalars=dict(sorted(invalid.items())),
            )
        )
    return infos, total


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for key, count in more.items():
        total[key] = total.get(key, 0) + count


def finished(plan: Plan, out: Path) -> list[Manifest] | None:
    """The manifests, if all datasets of the plan are already complete.

    Raises:
        OutputError: one exists that was made from different sources or with different options; names the difference.
    """
    manifests: list[Manifest | None] = []
    for number, split in enumerate(plan.options.splits):
        folder = split_folder(out, split)
        if not (folder / MANIFEST).exists():
            manifests.append(None)
            continue
        manifest = Manifest.read(folder)
        theirs = manifest.settings
        if theirs.split is not None:
            theirs = dataclasses.replace(theirs, split=theirs.split.rule)
        _check_settings(theirs, settings_of(plan, number), folder)
        _check_sources(manifest, plan, folder)
        manifests.append(manifest)
    found = [manifest for manifest in manifests if manifest is not None]
    return found if len(found) == len(manifests) else None


def _check_settings(theirs: Settings, mine: Settings, folder: Path) -> None:
    for item in dataclasses.fields(Settings):
        before, now = getattr(theirs, item.name), getattr(mine, item.name)
        if item.name == "conversion":
            before = {k: v for k, v in before.items() if k not in DERIVED}
            key = next((k for k in {**before, **now} if before.get(k) != now.get(k)), None)
            if key is not None:
                raise _other(f"conversion.{key}", before.get(key), now.get(key), folder)
        elif before != now:
            raise _other(item.name, before, now, folder)


def _check_sources(manifest: Manifest, plan: Plan, folder: Path) -> None:
    left_out = {entry["name"] for entry in manifest.settings.conversion.get("skipped", [])}
    names = {printable(path.name) for path in (*(s.path for s in plan.sources), *(s.path for s in plan.skipped))}
    theirs = {(s.id, s.name, s.size, s.entries): s.name for s in manifest.sources}
    mine = {(s.id, printable(s.path.name), s.size, s.entries): printable(s.path.name) for s in plan.sources}
    extra = {name for key, name in mine.items() if key not in theirs}
    if plan.options.skip_bad_files:
        extra -= left_out
    missing = {name for key, name in theirs.items() if key not in mine} | (left_out - names)
    if extra or missing:
        more = [f"not {name}" for name in sorted(extra)] + [f"also {name}" for name in sorted(missing)]
        raise OutputError(
            "is a dataset of different sources", file=folder, found=", ".join(more[:4]), remedy="choose another --out"
        )


def _other(item: str, before: object, now: object, folder: Path) -> OutputError:
    return OutputError(
        f"is a dataset made with a different {item!r}",
        file=folder,
        found="none" if before is None else before,
        expected="none" if now is None else now,
        remedy="choose another --out",
    )
