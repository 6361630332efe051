"""Units that schemas may state, and the factors between those of one kind."""

from __future__ import annotations

import math

from shards.base import ConfigError, nearest

_POWERS_OF_TEN: dict[str, dict[str, int]] = {
    "time": {"s": 0, "ms": -3, "us": -6, "ns": -9, "ps": -12},
    "length": {"m": 0, "cm": -2, "mm": -3, "um": -6},
    "energy": {"GeV": 9, "MeV": 6, "keV": 3, "eV": 0},
    "number": {"-": 0, "": 0, "photons": 0},
}
_ANGLES = ("degree", "rad")


def known_units() -> list[str]:
    """Every unit name a schema may use."""
    return [*(unit for kind in _POWERS_OF_TEN.values() for unit in kind if unit), *_ANGLES]


def factor(unit: str, target: str, *, file: str, item: str) -> float:
    """The factor from `unit` to `target`.

    Powers of ten are formed as integers, so that ns → s and back are each correctly rounded.

    Raises:
        ConfigError: an unknown unit, or units of different kinds; names `file` and `item`.
    """
    if unit == target:
        return 1.0
    if unit in _ANGLES and target in _ANGLES:
        return math.degrees(1.0) if target == "degree" else math.radians(1.0)
    for kind in _POWERS_OF_TEN.values():
        if unit in kind and target in kind:
            power = kind[unit] - kind[target]
            return float(10**power) if power >= 0 else 1.0 / 10**-power
    if unit not in known_units():
        raise ConfigError(f"unknown unit {unit!r}", file=file, item=item, remedy=nearest(unit, known_units()))
    raise ConfigError("is a unit of another kind", file=file, item=item, found=unit, expected=f"one like {target!r}")
