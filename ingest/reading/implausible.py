"""Remarks on branches that are probably in another unit."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ingest.reading.sources import Source
from shards.plausible import Outside

logger = logging.getLogger(__name__)


def implausible_lines(source: Source, found: Mapping[str, Outside]) -> dict[str, str]:
    """A remark on each implausible quantity of a source, by name."""
    lines = {}
    for name, outside in found.items():
        remark = outside.remark(name, _branch(source, name))
        if remark is not None:
            lines[name] = remark
    return lines


def warn_of_implausible(source: Source, found: Mapping[str, Outside], warned: set[str]) -> set[str]:
    """Log the remarks on a source, except on quantities in `warned`; returns the quantities that were named."""
    lines = {name: line for name, line in implausible_lines(source, found).items() if name not in warned}
    for line in lines.values():
        logger.warning("%s: %s", source.path, line)
    return set(lines)


def _branch(source: Source, name: str) -> str:
    binding = source.binding
    if name == "npho":
        return binding.npho.branch
    if name.endswith(" times"):
        return binding.time.branch if binding.time else "no branch"
    column = next(column for column in binding.columns if column.name == name)
    return f"{column.origin} ({name})"
