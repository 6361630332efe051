"""From raw sensors to marked, normalized ones and back: bad-value classes, sentinels, thresholds, remapping.

Shapes: `npho` (photons) and `time` (s) are (..., S), `sensors` is (..., S, 2) = [npho, time] normalized, S = 4760.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.base import ConfigError
from shards.normalization.backend import Array, cast, dtype_name, is_numpy, namespace, widen
from shards.normalization.scheme import Normalization

HUGE = 9e9
"""Values beyond this are codes for "missing" (1e10 in the input), not measurements."""

BLOCK = 16
"""Events normalized at a time: what fits in the L2 cache of a core, all intermediate results included."""

THRESHOLD_SLACK = 1e-6
"""Of normalized npho: a sensor exactly at a threshold is kept whatever the last bit of the logarithm is."""

SPARSE = 0.05
"""Fewer sensors than this part of all are written one by one."""

COUNTED = 100
"""Rows summed in uint8, which is several times as fast as in int64; a row adds at most 2."""


@dataclass(frozen=True)
class Classes:
    """Which sensors are bad and how; bool arrays of the shape of npho."""

    dead: Array
    """npho is NaN, ±Inf or > 9e9, or the channel is in the dead list (or npho ≤ 0, where the scheme says so)."""
    out_of_domain: Array
    """Not dead, but below what the transform takes: written as 0 photons."""
    time_invalid: Array
    """Dead, or |time| > 9e9, NaN or ±Inf."""


@dataclass(frozen=True)
class SensorCounts:
    """How often each sensor was of each class; int64 arrays (S,). Adds up over batches and files."""

    good: npt.NDArray[np.int64]
    """npho usable as it is, and a valid time."""
    dead: npt.NDArray[np.int64]
    out_of_domain: npt.NDArray[np.int64]
    time_invalid: npt.NDArray[np.int64]
    """Invalid time on a sensor that is not dead."""
    nudged: npt.NDArray[np.int64]
    """Valid values that would have equalled a sentinel after rounding, and were moved to the neighbouring number."""
    saturated: npt.NDArray[np.int64]
    """Valid values beyond the largest number of the storage type, written as that number."""

    def __add__(self, other: SensorCounts) -> SensorCounts:
        return SensorCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @classmethod
    def zero(cls, sensors: int = 4760) -> SensorCounts:
        """Nothing counted yet."""
        return cls(*(np.zeros(sensors, np.int64) for _ in fields(cls)))

    def totals(self) -> dict[str, int]:
        """The sum over sensors of each class, by name."""
        return {f.name: int(getattr(self, f.name).sum()) for f in fields(self)}


@dataclass(frozen=True)
class NormalizedBatch:
    """What `normalize` gives."""

    sensors: Array
    """(..., S, 2) [npho, time], normalized, with sentinels."""
    classes: Classes
    nudged: Array
    """int8 (..., S): how many of the two values of a sensor were nudged off a sentinel."""
    saturated: Array
    """int8 (..., S): how many of the two values were beyond the storage type."""

    def __getitem__(self, which: npt.NDArray[np.bool_]) -> NormalizedBatch:
        """Some events of the batch."""
        classes = Classes(*(getattr(self.classes, f.name)[which] for f in fields(Classes)))
        return NormalizedBatch(self.sensors[which], classes, self.nudged[which], self.saturated[which])

    @property
    def counts(self) -> SensorCounts:
        """Occurrences per sensor, summed over all leading axes (NumPy arrays, whatever the batch is)."""
        c = self.classes
        dead, odd, untimed = (_per_sensor(mask) for mask in (c.dead, c.out_of_domain, c.time_invalid))
        both = _per_sensor(c.out_of_domain & c.time_invalid) if odd.any() else odd
        return SensorCounts(
            good=math.prod(c.dead.shape[:-1]) - odd - untimed + both,
            dead=dead,
            out_of_domain=odd,
            time_invalid=untimed - dead,  # every dead one is among them
            nudged=_per_sensor(self.nudged),
            saturated=_per_sensor(self.saturated),
        )


def _per_sensor(mask: Array) -> npt.NDArray[np.int64]:
    values = np.asarray(mask if is_numpy(mask) else mask.cpu())
    small = values.reshape(-1, values.shape[-1]).view(np.uint8)
    total = np.zeros(small.shape[1], np.int64)
    for start in range(0, len(small), COUNTED):
        total += np.add.reduce(small[start : start + COUNTED], axis=0, dtype=np.uint8)
    return total


def classify(npho: Array, time: Array, norm: Normalization, dead: Array | None = None) -> Classes:
    """Sort sensors into the bad-value classes.

    Args:
        npho: (..., S), photons, any real dtype.
        time: (..., S), s.
        dead: bool, (..., S) or (S,): channels known to be dead, whatever their values are.
    """
    is_dead = ~((npho <= HUGE) & (npho > -float("inf")))  # NaN compares false
    if norm.nonpositive_is_dead:
        is_dead = is_dead | (npho <= 0)
    if dead is not None:
        is_dead = is_dead | dead
    out_of_domain = ~is_dead & (npho < norm.domain_minimum)
    time_invalid = is_dead | ~(abs(time) <= HUGE)
    return Classes(is_dead, out_of_domain, time_invalid)


def normalize(
    npho: Array,
    time: Array,
    norm: Normalization,
    dead: Array | None = None,
    dtype: str = "float32",
    out: npt.NDArray[np.floating] | None = None,
) -> NormalizedBatch:
    """Transform photons and seconds, and mark what is bad.

    ======================= ===================== ==============
    class                   npho written          time written
    ======================= ===================== ==============
    good                    transformed           transformed
    good npho, time invalid transformed           sentinel
    out of domain           that of 0 photons     by the time rule
    dead                    sentinel              sentinel
    ======================= ===================== ==============

    Args:
        npho: (..., S), photons, any real dtype.
        time: (..., S), s.
        dead: bool, (..., S) or (S,): channels known to be dead.
        dtype: of the result, "float32" or "float16". NumPy computes in float64 before rounding, torch in the tensor's.
        out: (..., S, 2) of that dtype, to write the sensors into (NumPy only).
    """
    if is_numpy(npho):
        if out is None:
            out = np.empty((*np.shape(npho), 2), dtype)
        if npho.ndim > 1 and len(npho) > BLOCK:
            return _normalize_blocks(npho, time, norm, dead, out)
        classes = classify(npho, time, norm, dead)
        return _normalize_numpy(np.asarray(npho), np.asarray(time), norm, classes, out)
    classes = classify(npho, time, norm, dead)
    xp = namespace(npho)
    y = norm.forward_npho(widen(xp.where(classes.dead | classes.out_of_domain, 0, npho)))
    t = norm.forward_time(widen(xp.where(classes.time_invalid, 0, time)))
    y, y_nudged, y_saturated = _stored(y, norm.sentinel_npho, classes.dead, dtype)
    t, t_nudged, t_saturated = _stored(t, norm.sentinel_time, classes.time_invalid, dtype)
    return NormalizedBatch(
        sensors=xp.stack((y, t), -1),
        classes=classes,
        nudged=cast(y_nudged, "int8") + cast(t_nudged, "int8"),
        saturated=cast(y_saturated, "int8") + cast(t_saturated, "int8"),
    )


def _normalize_blocks(
    npho: npt.NDArray[Any],
    time: npt.NDArray[Any],
    norm: Normalization,
    dead: Array | None,
    out: npt.NDArray[np.floating],
) -> NormalizedBatch:
    """`normalize` in portions that stay in the processor's cache: several times as fast as in one go."""
    masks = [np.empty(npho.shape, kind) for kind in (bool, bool, bool, np.int8, np.int8)]
    for start in range(0, len(npho), BLOCK):
        rows = slice(start, start + BLOCK)
        part_dead = dead[rows] if dead is not None and np.ndim(dead) == npho.ndim else dead
        part = normalize(npho[rows], time[rows], norm, part_dead, out.dtype.name, out[rows])
        c = part.classes
        for whole, piece in zip(
            masks, (c.dead, c.out_of_domain, c.time_invalid, part.nudged, part.saturated), strict=True
        ):
            whole[rows] = piece
    return NormalizedBatch(out, Classes(*masks[:3]), *masks[3:])


def _normalize_numpy(
    npho: npt.NDArray[Any],
    time: npt.NDArray[Any],
    norm: Normalization,
    classes: Classes,
    out: npt.NDArray[np.floating],
) -> NormalizedBatch:
    """`normalize` with the same arithmetic, skipping what seldom occurs."""
    dtype = out.dtype.name
    usable = np.array(npho, dtype=np.float64)  # times are in any domain
    _replace(usable, classes.dead | classes.out_of_domain, 0.0)
    counted = []
    for channel, values, bad, sentinel, forward in (
        (0, usable, classes.dead, norm.sentinel_npho, norm.forward_npho),
        (1, widen(time), classes.time_invalid, norm.sentinel_time, norm.forward_time),
    ):
        stored = cast(forward(values), dtype)
        saturated = np.isinf(stored)
        if saturated.any():
            saturated &= ~bad
            largest = np.finfo(dtype).max
            np.clip(stored, -largest, largest, out=stored)
        nudged = stored == sentinel
        if nudged.any():
            nudged &= ~bad
            stored[nudged] = beside(sentinel, dtype)
        _replace(stored, bad, sentinel)
        out[..., channel] = stored
        counted.append((nudged.view(np.int8), saturated.view(np.int8)))
    (nudged_npho, saturated_npho), (nudged_time, saturated_time) = counted
    return NormalizedBatch(out, classes, nudged_npho + nudged_time, saturated_npho + saturated_time)


def _replace(values: npt.NDArray[np.floating], where: npt.NDArray[np.bool_], by: float) -> None:
    """`values[where] = by`. Where there are many it is integer arithmetic on the bits: without branches, whose
    misprediction on masks as random as those of invalid times costs more than the rest of the normalization."""
    if np.count_nonzero(where) < SPARSE * where.size:
        values[where] = by
        return
    bits = values.view(f"i{values.dtype.itemsize}")
    code = np.array(by, values.dtype).view(bits.dtype)
    keep = (where.view(np.int8) - np.int8(1)).astype(bits.dtype)  # all bits where the value stays, none elsewhere
    bits ^= code
    bits &= keep
    bits ^= code


def _stored(y: Array, sentinel: float, bad: Array, dtype: str) -> tuple[Array, Array, Array]:
    """`y` rounded to `dtype`, `sentinel` where `bad` and nowhere else; which values were nudged, which saturated."""
    xp = namespace(y)
    largest = float(np.finfo(dtype).max)
    stored = cast(y, dtype)
    saturated = ~bad & xp.isinf(stored)
    stored = xp.clip(stored, -largest, largest)
    nudged = ~bad & (stored == sentinel)
    stored = xp.where(nudged, beside(sentinel, dtype), stored)
    return xp.where(bad, sentinel, stored), nudged, saturated


def beside(sentinel: float, dtype: str) -> float:
    """The representable number next to `sentinel` on the side of larger values; the smallest normal one for 0,
    since subnormal numbers may be flushed to zero on the way."""
    kind = np.dtype(dtype).type
    return float(np.nextafter(kind(sentinel), kind(np.inf))) if sentinel else float(np.finfo(kind).tiny)


def valid(sensors: Array, norm: Normalization) -> tuple[Array, Array]:
    """Which sensors carry a photon number and which a time: the one function that recognises sentinels.

    Args:
        sensors: (..., S, 2), normalized, as stored or as a batch, before any other change.

    **Returns** (npho_valid, time_valid), bool (..., S). Where the npho sentinel is also a physical value (`legacy`)
    both come from the time channel alone.
    """
    time_marked = sensors[..., 1] == norm.sentinel_time
    npho_valid = ~time_marked if norm.validity_from_time else ~(sensors[..., 0] == norm.sentinel_npho)
    return npho_valid, npho_valid & ~time_marked


def denormalize(sensors: Array, norm: Normalization) -> tuple[Array, Array]:
    """Photons and seconds of stored sensors, NaN at sentinels.

    Args:
        sensors: (..., S, 2), normalized.

    **Returns** (npho, time), (..., S): float64 for NumPy, at least float32 for torch.
    """
    npho_valid, time_valid = valid(sensors, norm)
    xp = namespace(sensors)
    wide = widen(sensors)
    nan = float("nan")
    npho = xp.where(npho_valid, norm.inverse_npho(wide[..., 0]), nan)
    return npho, xp.where(time_valid, norm.inverse_time(wide[..., 1]), nan)


def mark_dead(sensors: Array, norm: Normalization, where: Array) -> Array:
    """`sensors` (..., S, 2) with both values of the sensors in `where` (bool, broadcast) set to their sentinels."""
    xp = namespace(sensors)
    npho = xp.where(where, norm.sentinel_npho, sensors[..., 0])
    return xp.stack((npho, xp.where(where, norm.sentinel_time, sensors[..., 1])), -1)


def apply_threshold(sensors: Array, norm: Normalization, npho_threshold: float | None) -> Array:
    """`sensors` (..., S, 2) with the time of every sensor that has less than `npho_threshold` photons made invalid.

    How much light a usable time needs is a choice of the model, so this runs on batches, never at ingest. Every scheme
    is increasing, so normalized values are compared. None, or a threshold below the domain, changes nothing.
    """
    if npho_threshold is None or npho_threshold <= norm.domain_minimum:
        return sensors
    xp = namespace(sensors)
    lowest = norm.forward_npho(float(npho_threshold)) - THRESHOLD_SLACK
    time = xp.where(sensors[..., 0] < lowest, norm.sentinel_time, sensors[..., 1])
    return xp.stack((sensors[..., 0], time), -1)


def remap(sensors: Array, source: Normalization, target: Normalization) -> Array:
    """`sensors` (..., S, 2) normalized by `source` as `target` would have normalized them; dtype and sentinels kept.

    Raises:
        ConfigError: the values are float16, whose rounding was made for `source` and would be carried over.
    """
    check_remap(source, target, dtype_name(sensors))
    if source == target:
        return sensors
    return normalize(*denormalize(sensors, source), target, dtype=dtype_name(sensors)).sensors


def check_remap(source: Normalization, target: Normalization, storage_dtype: Any) -> None:
    """Refuse (`ConfigError`) a remapping of values stored as float16; equal normalizations are always fine."""
    if source != target and str(storage_dtype) == "float16":
        raise ConfigError(
            "float16 shards cannot be remapped to another normalization: their rounding belongs to the present one",
            found=source.to_dict(),
            expected=target.to_dict(),
            remedy="convert the data again, with float32 or with the wanted normalization",
        )
