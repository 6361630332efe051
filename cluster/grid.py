"""The points of a scan: the product of value lists and configuration files, with the same seeds at every point."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.base import ConfigError

MOST = 10_000
"""Largest number of points of a scan: more are taken for a mistake."""


@dataclass(frozen=True)
class Point:
    """One training of a scan."""

    name: str
    """Name of its run folder: `lr=1e-4,seed=0`."""
    words: tuple[str, ...]
    """Its options of `xec train`."""
    config: Path | None = None
    """The configuration file in them."""


def points(grid: Sequence[str], configs: Sequence[Path], seeds: int | None) -> list[Point]:
    """All points: every file with every combination of values with every seed, the last varying fastest.

    Args:
        grid: axes, `key.path=value,value,…`; a comma inside brackets does not separate values.
        configs: files, each over the base configuration.
        seeds: train with `train.seed` 0 … seeds−1 at every point, so that points differ only in what is scanned.

    Raises:
        ConfigError: an axis without values, named twice, or points of the same name.
    """
    axes = [parse_axis(text) for text in grid]
    keys = [key for key, _ in axes]
    if seeds is not None:
        keys.append("train.seed")
        axes.append(("train.seed", [str(seed) for seed in range(seeds)]))
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError("is scanned twice", item=f"--grid {key}", remedy="use --seeds to scan train.seed")
    if not axes and not configs:
        raise ConfigError("there is nothing to scan", remedy="give --grid KEY=V1,V2, --point FILE or --seeds N")
    short = [_short(key, keys) for key in keys]
    count = max(1, len(configs)) * math.prod(len(values) for _, values in axes)
    if count > MOST:
        raise ConfigError("has too many points", item="scan", found=count, expected=f"at most {MOST}")
    found = []
    for config in configs or (None,):
        for values in itertools.product(*(values for _, values in axes)):
            parts = [] if config is None else [config.stem]
            words = [] if config is None else ["--config", str(config)]
            for key, name, value in zip(keys, short, values, strict=True):
                parts.append(f"{name}={_plain(value)}")
                words += ["--set", f"{key}={value}"]
            found.append(Point(",".join(parts), tuple(words), config))
    names = [point.name for point in found]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise ConfigError("two points would share a run folder", found=double, remedy="give files with different names")
    return found


def parse_axis(text: str) -> tuple[str, list[str]]:
    """`optim.lr=1e-4,3e-4` as its key and values.

    Raises:
        ConfigError: it is not an axis.
    """
    key, equals, rest = text.partition("=")
    values = [value.strip() for value in re.split(r",(?![^\[{]*[\]}])", rest)]
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key.strip()) or not all(values):
        raise ConfigError("is not an axis", item="--grid", found=text, expected="key.path=value,value,…")
    if len(set(values)) < len(values):
        raise ConfigError("has the same value twice", item="--grid", found=text)
    return key.strip(), values


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, or all of it where another axis ends in the same part."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def _plain(value: str) -> str:
    """A value as part of a folder's name."""
    return re.sub(r"[^\w.+-]+", "_", value).strip("_") or "_"
