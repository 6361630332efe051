"""Nested mappings of options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lay `over` on `base` in place, mapping by mapping; anything that is not a mapping replaces what was there."""
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        elif isinstance(value, Mapping):
            base[key] = {}
            merge(base[key], value)
        else:
            base[key] = value


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested mapping with their dotted paths; an empty mapping has none."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
