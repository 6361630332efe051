"""`xec ingest inspect` as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ingest.inspection.inspect import Duplicates, Sample, TreeInfo
from ingest.reading.rootio import Source
from shards.manifest import N_SENSORS

MANY = 40
"""Branches of a tree that are listed; further ones are only counted."""


def tree_lines(path: Path, trees: Sequence[TreeInfo]) -> Iterator[str]:
    """Trees of a file with their branches and types."""
    yield f"{path}  {path.stat().st_size / 1e6:.1f} MB"
    for tree in trees:
        older = f", newest of cycles {', '.join(map(str, tree.cycles))}" if len(tree.cycles) > 1 else ""
        yield f"  {tree.kind} {tree.path!r}: {tree.entries} entries{older}"
        shown = tree.branches[:MANY]
        width = max((len(branch.name) for branch in shown), default=0)
        for branch in shown:
            yield f"    {branch.name:<{width}}  {branch.typename}"
        if len(tree.branches) > MANY:
            yield f"    … and {len(tree.branches) - MANY} more"
    if not trees:
        yield "  no tree"


def mapping_lines(source: Source, schema: str) -> Iterator[str]:
    """What the schema makes of a tree."""
    binding = source.binding
    yield f"schema {schema!r} on {source.tree!r}:"
    rows = [
        ("npho", binding.npho.branch, f"photons, ×{binding.npho.factor:g}" if binding.npho.factor != 1 else "photons")
    ]
    if binding.time is not None:
        kind = "relative" if binding.relative else "absolute"
        factor = f", ×{binding.time.factor:g}" if binding.time.factor != 1 else ""
        rows.append(("time", binding.time.branch, f"s, {kind}{factor}"))
    if binding.dead is not None:
        rows.append(("dead", binding.dead, "dead channels, event by event"))
    for column in binding.columns:
        notes = [column.unit or "-"]
        notes += [f"×{column.factor:g}"] if column.factor != 1 else []
        notes += [column.meaning] if column.meaning else []
        notes += ["carried"] if column.carried else []
        notes += ["whole, 64 bits"] if column.exact else []
        filled = "(run of the list, else 0)" if column.name == "run" else "(entry number)"
        rows.append((column.name, column.origin if column.branch else filled, ", ".join(notes)))
    yield from _table(rows, "  ")
    if source.missing:
        yield "  absent: " + ", ".join(source.missing)


def difference_lines(sources: Sequence[Source]) -> Iterator[str]:
    """Columns that some of the files have and others lack, and files with other sensor branches."""
    first = sources[0]
    for source in sources[1:]:
        gained, lost = set(source.columns) - set(first.columns), set(first.columns) - set(source.columns)
        if gained or lost:
            yield f"  {source.path.name} differs: " + ", ".join(
                [*(f"+{n}" for n in sorted(gained)), *(f"-{n}" for n in sorted(lost))]
            )
        if source.binding.relative != first.binding.relative:
            yield f"  {source.path.name} differs: its times are {'relative' if source.binding.relative else 'absolute'}"


def sample_lines(sample: Sample) -> Iterator[str]:
    """Value ranges, bad-value classes per face, and dead-channel candidates."""
    yield f"in a sample of {sample.events} events:"
    rows = [("", "smallest", "largest", "unusable")]
    for name, found in sample.ranges.items():
        values = sample.events * (N_SENSORS if name in ("npho", "time") else 1)
        rows.append((name, f"{found.low:.6g}", f"{found.high:.6g}", f"{100 * found.unknown / values:.3g} %"))
    yield from _table(rows, "  ")
    for line in sample.implausible:
        yield f"  implausible: {line}"
    yield "  sensor values by class, per face:"
    classes = ("good", "dead", "out_of_domain", "time_invalid")
    table: list[Sequence[str]] = [("", *classes)]
    table += [(face, *(f"{100 * found[c]:.3g} %" for c in classes)) for face, found in sample.per_face().items()]
    yield from _table(table, "    ")
    candidates = sample.dead_candidates().tolist()
    yield f"  dead-channel candidates: {_channels(candidates)}"
    constant = [i for i in sample.constant.nonzero()[0].tolist() if i not in set(candidates)]
    if constant and sample.events > 1:
        yield f"  channels with the same photon number in every event: {_channels(constant)}"


def duplicate_line(found: Duplicates) -> str:
    """Whether (run, event) identifies an event."""
    if not found.groups:
        return "every (run, event) occurs once"
    examples = ", ".join(f"({run}, {event})" for run, event in found.examples)
    return f"{found.groups} (run, event) occur more than once ({found.events} surplus events): {examples}, …"


def _channels(channels: Sequence[int], shown: int = 24) -> str:
    if not channels:
        return "none"
    more = f", … ({len(channels)} in all)" if len(channels) > shown else ""
    return ", ".join(map(str, channels[:shown])) + more


def _table(rows: Iterable[Sequence[str]], indent: str) -> Iterator[str]:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
