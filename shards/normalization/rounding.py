"""What storing as float16 costs: rounding errors of each channel in physical units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shards.normalization.backend import dtype_name
from shards.normalization.scheme import Normalization
from shards.normalization.sensors import denormalize

BRIGHT = 100.0
"""Photons: relative errors are quoted above this, where they mean something."""


@dataclass(frozen=True)
class ChannelRounding:
    """Worst and root-mean-square rounding error of one channel."""

    worst: float
    rms: float


@dataclass(frozen=True)
class RoundingReport:
    """Rounding errors of stored sensors."""

    measured: bool
    """True: differences between float32 values and their float16 neighbours. False: the values are float16 already, and
    the errors follow from their spacing (half of it at worst, spacing/√12 rms)."""
    npho: ChannelRounding
    """Photons."""
    npho_relative: ChannelRounding
    """Fraction of the photon number, for sensors with at least `BRIGHT` photons."""
    npho_statistics: ChannelRounding
    """Fraction of the photon statistics √npho, for sensors with at least `BRIGHT` photons."""
    time: ChannelRounding
    """Seconds."""


def rounding(sensors: npt.NDArray[np.floating], norm: Normalization) -> RoundingReport:
    """Rounding errors that float16 storage makes, or has made, on valid values.

    Args:
        sensors: (..., S, 2), normalized, float32 or float16.
    """
    measured = dtype_name(sensors) != "float16"
    npho, time = denormalize(sensors, norm)
    half = np.clip(sensors, -65504, 65504).astype(np.float16)
    if measured:
        rounded_npho, rounded_time = denormalize(half, norm)
        shrink = 1.0
    else:
        above = np.nextafter(half, np.float16(np.inf))
        rounded_npho, rounded_time = denormalize(above, norm)
        shrink = 0.5
    npho_error, time_error = shrink * np.abs(rounded_npho - npho), shrink * np.abs(rounded_time - time)
    bright = npho >= BRIGHT
    flat = 1.0 if measured else 2 / np.sqrt(12.0)  # from half the spacing to the deviation of a flat distribution
    return RoundingReport(
        measured=measured,
        npho=_channel(npho_error, flat),
        npho_relative=_channel(npho_error[bright] / npho[bright], flat),
        npho_statistics=_channel(npho_error[bright] / np.sqrt(npho[bright]), flat),
        time=_channel(time_error, flat),
    )


def _channel(errors: npt.NDArray[np.float64], flat: float) -> ChannelRounding:
    known = errors[np.isfinite(errors)]
    if not known.size:
        return ChannelRounding(0.0, 0.0)
    return ChannelRounding(float(known.max()), float(np.sqrt(np.mean(known**2)) * flat))
