"""Options of the toy Monte Carlo: one frozen dataclass, checked on construction, stored with every file it makes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from ingest.toymc import constants as c
from shards.base import ConfigError, nearest

ENERGIES = ("signal", "flat", "cex")
SOURCES = ("signal", "uniform")
MARKS = ("missing", "nan")
ENERGY_LIMITS = (10.0, 100.0)
"""Incident energies [MeV] that the shower library covers."""


@dataclass(frozen=True, kw_only=True)
class ToyOptions:
    """What to simulate. Equal options (and code) give equal arrays, whatever the chunks or the number of processes."""

    energy: str = "signal"
    """`signal` (52.83 MeV), `flat` in `energy_range`, `cex` (the two lines of charge exchange), or a number in MeV."""
    energy_range: tuple[float, float] = (15.0, 60.0)
    """Limits of the `flat` spectrum, MeV."""
    source: str = "signal"
    """`signal`: from the slanted target; `uniform`: flat over the inner face, within 60° of the radial direction."""
    seed: int = 1
    """Seed of everything random."""
    runs: int = 1
    """Events are spread evenly over this many runs; each has its own channel response, offsets and dead channels."""
    first_run: int = 1
    """Number of the first run."""
    response_spread: float = c.RESPONSE_SPREAD
    """True spread of the efficiency from channel to channel, a fraction."""
    calibration_spread: float = c.CALIBRATION_SPREAD
    """Accuracy with which a channel's efficiency is known, a fraction."""
    energy_smear: float = 0.0
    """Common fluctuation of the light yield from event to event, a fraction (0 = none)."""
    pileup: float = 0.0
    """Mean number of further gammas in an event (0 = none)."""
    saturation: bool = False
    """Whether SiPM pixels saturate."""
    dead_fraction: float = 0.0
    """Fraction of channels that are dead, drawn anew for each run."""
    dead_channels: tuple[int, ...] = ()
    """Channels that are dead in every run."""
    dead_mark: str = "missing"
    """How a dead channel is written: `missing` (1e10) or `nan`."""
    nan_fraction: float = 0.0
    """Fraction of single values (npho and time together) that are NaN."""
    missing_fraction: float = 0.0
    """Fraction of single values (npho and time together) that are 1e10."""
    geometry: str | None = None
    """A table of surveyed positions and normals; nominal if None."""
    dead_branch: bool = False
    """Whether to write the branch `dead`, 0 or 1 for each channel."""
    expected: bool = False
    """Whether to keep the expected photons of each event (branch `npho_expected`, what an oracle would inpaint)."""

    def __post_init__(self) -> None:
        if self.energy not in ENERGIES:
            self._check_energy(self.mono_energy, "energy")
        low, high = self.energy_range
        self._check_energy(low, "energy_range")
        self._check_energy(high, "energy_range")
        if low >= high:
            raise ConfigError("is empty", item="energy_range", found=f"{low:g} {high:g}", expected="low < high")
        if self.energy != "flat" and self.energy_range != ToyOptions.energy_range:
            raise ConfigError(
                "is of the flat spectrum only", item="energy_range", remedy="leave it out, or energy flat"
            )
        for name, valid in (("source", SOURCES), ("dead_mark", MARKS)):
            if getattr(self, name) not in valid:
                value = getattr(self, name)
                raise ConfigError("is not known", item=name, found=repr(value), remedy=nearest(value, valid))
        if self.source == "uniform" and self.energy == "cex":
            raise ConfigError(
                "cannot be combined with source 'uniform'", item="energy 'cex'", remedy="use source 'signal'"
            )
        for name in ("response_spread", "calibration_spread", "energy_smear", "pileup"):
            self._check_between(name, 0.0, math.inf if name == "pileup" else 0.5)
        for name in ("dead_fraction", "nan_fraction", "missing_fraction"):
            self._check_between(name, 0.0, 1.0)
        for name, least in (("seed", 0), ("first_run", 0), ("runs", 1)):
            if getattr(self, name) < least:
                raise ConfigError("is too small", item=name, found=getattr(self, name), expected=f"at least {least}")
        wrong = [channel for channel in self.dead_channels if not 0 <= channel < 4760]
        if wrong:
            raise ConfigError(
                "names a channel that does not exist", item="dead_channels", found=wrong[0], expected="0…4759"
            )

    @property
    def mono_energy(self) -> float:
        """The energy in MeV where `energy` is a number (or `signal`)."""
        if self.energy == "signal":
            return c.SIGNAL_ENERGY
        try:
            return float(self.energy)
        except ValueError:
            raise ConfigError(
                "is neither a spectrum nor a number in MeV",
                item="energy",
                found=repr(self.energy),
                remedy=nearest(self.energy, ENERGIES),
            ) from None

    def to_json(self) -> str:
        """Canonical JSON, equal for equal options."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ToyOptions:
        """Inverse of `json.loads(options.to_json())`.

        Raises:
            ConfigError: an unknown key.
        """
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                raise ConfigError("is not an option", item=key, remedy=nearest(key, known))
        tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**tuples)

    def _check_energy(self, value: float, name: str) -> None:
        low, high = ENERGY_LIMITS
        if not low <= value <= high:
            raise ConfigError(
                "is outside what the shower library covers", item=name, found=value, expected=f"{low:g}…{high:g} MeV"
            )

    def _check_between(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ConfigError("is out of range", item=name, found=value, expected=f"{low:g}…{high:g}")
