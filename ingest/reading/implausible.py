"""Say which branch is probably in another unit, and the key of the schema that corrects it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ingest.reading.sources import Source
from shards.plausible import Outside

logger = logging.getLogger(__name__)


def implausible_lines(source: Source, found: Mapping[str, Outside]) -> dict[str, str]:
    """What to say about each quantity of a source, by name; nothing about those that are as they should be."""
    lines = {}
    for name, outside in found.items():
        remark = outside.remark(name)
        if remark is not None:
            branch, key = _origin(source, name)
            lines[name] = f"{branch}: {remark}; is its unit another one? The schema's {key} says so"
    return lines


def warn_of_implausible(source: Source, found: Mapping[str, Outside], warned: set[str]) -> set[str]:
    """Log what is to be said of a source, quantities that are in `warned` excepted; the quantities that were named."""
    lines = {name: line for name, line in implausible_lines(source, found).items() if name not in warned}
    for line in lines.values():
        logger.warning("%s: %s", source.path, line)
    return set(lines)


def _origin(source: Source, name: str) -> tuple[str, str]:
    """The branch of a quantity, and the key of a schema that states its unit."""
    binding = source.binding
    if name == "npho":
        return binding.npho.branch, "sensors.npho.unit"
    if name.endswith(" times"):
        return binding.time.branch if binding.time else "no branch", "sensors.time.unit"
    column = next(column for column in binding.columns if column.name == name)
    return f"{column.origin} ({name})", f"columns, names [{name}], unit"
