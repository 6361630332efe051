"""The transforms of photon number and time, their inverses and domains, and the named parameter sets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shards.base import ConfigError, nearest
from shards.normalization.backend import Array, at_least, namespace

SCHEMES = ("log1p", "anscombe", "sqrt", "linear")


@dataclass(frozen=True)
class Normalization:
    """How photons and seconds become the numbers in the shards, and back.

    ========== ========================== ================= ==============
    scheme     forward                    inverse           domain minimum
    ========== ========================== ================= ==============
    `log1p`    ln(1 + x/s) / s₂           s·(e^{s₂y} − 1)   −0.999·s
    `anscombe` √(x + 3/8) / √(s + 3/8)    y²(s + 3/8) − 3/8 −3/8
    `sqrt`     √(x/s)                     s·y²              0
    `linear`   x/s                        s·y               none
    ========== ========================== ================= ==============

    with x in photons, s = `npho_scale`, s₂ = `npho_scale2`; time: t/`time_scale` − `time_shift` with t in seconds.
    The `anscombe` transform makes the variance of a Poisson count constant (Anscombe, Biometrika 35 (1948) 246).
    """

    scheme: str = "log1p"
    """One of `SCHEMES`."""
    npho_scale: float = 1000.0
    """s, photons."""
    npho_scale2: float = 4.08
    """s₂; used by `log1p` only."""
    time_scale: float = 1.14e-7
    """Seconds per unit of normalized time."""
    time_shift: float = -0.46
    """Subtracted after scaling."""
    sentinel_npho: float = -1.0
    """Stands for a dead sensor's photon number; exactly representable in float16."""
    sentinel_time: float = -5.0
    """Stands for an invalid time; exactly representable in float16."""
    nonpositive_is_dead: bool = False
    """npho ≤ 0 counts as dead (as the older models were trained)."""

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ConfigError(f"unknown npho scheme {self.scheme!r}", remedy=nearest(str(self.scheme), SCHEMES))
        for name in ("npho_scale", "npho_scale2", "time_scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError("must be positive", item=f"normalization.{name}", found=value)
        if not math.isfinite(self.time_shift):
            raise ConfigError("must be finite", item="normalization.time_shift", found=self.time_shift)
        for name in ("sentinel_npho", "sentinel_time"):
            value = getattr(self, name)
            if not (abs(value) <= 65504 and float(np.float16(value)) == value):
                raise ConfigError(
                    "a sentinel must be exact in every storage type",
                    item=f"normalization.{name}",
                    found=value,
                    expected="a number that float16 represents exactly, such as -1 or -5.5",
                )

    @property
    def domain_minimum(self) -> float:
        """The smallest photon number that the transform takes; −∞ for `linear`."""
        return {"log1p": -0.999 * self.npho_scale, "anscombe": -0.375, "sqrt": 0.0, "linear": -math.inf}[self.scheme]

    @property
    def validity_from_time(self) -> bool:
        """Whether the npho sentinel is also what 0 photons become, so that only the time channel tells dead sensors."""
        return self.nonpositive_is_dead and self.sentinel_npho == self.forward_npho(0.0)

    def forward_npho(self, npho: Array) -> Array:
        """Normalized photon number of `npho` (photons, any shape, not below `domain_minimum`), in the same dtype."""
        xp = namespace(npho)
        if self.scheme == "log1p":
            return xp.log1p(npho / self.npho_scale) / self.npho_scale2
        if self.scheme == "anscombe":
            return xp.sqrt((npho + 0.375) / (self.npho_scale + 0.375))
        if self.scheme == "sqrt":
            return xp.sqrt(npho / self.npho_scale)
        return npho / self.npho_scale

    def inverse_npho(self, y: Array) -> Array:
        """Photons of normalized `y` (any shape), in the same dtype; works on predictions.

        Values below the transform of the domain minimum are clamped there first: y² would fold them back up. It knows
        nothing of sentinels; `denormalize` does.
        """
        xp = namespace(y)
        if self.scheme == "linear":
            return y * self.npho_scale
        y = at_least(y, self.forward_npho(self.domain_minimum))
        if self.scheme == "log1p":
            return xp.expm1(y * self.npho_scale2) * self.npho_scale
        if self.scheme == "anscombe":
            return y * y * (self.npho_scale + 0.375) - 0.375
        return y * y * self.npho_scale

    def forward_time(self, time: Array) -> Array:
        """Normalized time of `time` (seconds, any shape), in the same dtype."""
        return time / self.time_scale - self.time_shift

    def inverse_time(self, y: Array) -> Array:
        """Seconds of normalized time `y` (any shape), in the same dtype."""
        return (y + self.time_shift) * self.time_scale

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field name, for manifests, checkpoints and ONNX metadata."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Normalization:
        """The inverse of `to_dict`; missing fields take their defaults.

        Raises:
            ConfigError: an unknown field, a value of the wrong kind, or one that is refused.
        """
        return dataclasses.replace(cls(), **_checked(values))


def preset(name: str, **overrides: Any) -> Normalization:
    """The named parameter set (see `PRESETS`), with single parameters replaced.

    Raises:
        ConfigError: an unknown preset or parameter.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown normalization {name!r}", remedy=nearest(name, PRESETS))
    return dataclasses.replace(PRESETS[name], **_checked(overrides))


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with numbers as floats, after refusing unknown names and wrong kinds."""
    kinds: dict[str, type] = {name: type(value) for name, value in dataclasses.asdict(Normalization()).items()}
    for name, value in values.items():
        if name not in kinds:
            raise ConfigError(f"unknown normalization parameter {name!r}", remedy=nearest(name, kinds))
        good = isinstance(value, int | float) if kinds[name] is float else isinstance(value, kinds[name])
        if not good or (isinstance(value, bool) and kinds[name] is not bool):
            raise ConfigError(
                "has the wrong type", item=f"normalization.{name}", found=repr(value), expected=kinds[name].__name__
            )
    return {name: kinds[name](value) for name, value in values.items()}


PRESETS: dict[str, Normalization] = {
    "standard": Normalization(),
    "sqrt": Normalization(scheme="sqrt", npho_scale=20000.0, npho_scale2=1.0),
    "legacy": Normalization(
        npho_scale=0.58,
        npho_scale2=1.0,
        time_scale=6.5e-8,
        time_shift=0.5,
        sentinel_npho=0.0,
        nonpositive_is_dead=True,
    ),
}
"""`standard` is the default; `sqrt` clips negative pedestals; `legacy` is what the older models were trained with."""

NPHO_THRESHOLD: dict[str, float] = {"standard": 100.0, "sqrt": 100.0, "legacy": 0.0}
"""Photons that a usable time needs, by preset: the default of a *model's* `npho_threshold`, never of a dataset."""
