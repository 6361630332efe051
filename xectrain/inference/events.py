"""A chunk of events on its way into a model, whether it came from shards (stored sensors) or from ROOT (raw ones).

Shape suffixes: B events, N = 4760 sensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from shards.base import InputError
from shards.normalization import Normalization, classify, denormalize, normalize
from xectrain.baselines import RawEvents
from xectrain.model_input import InputRules

N_SENSORS = 4760
Columns = dict[str, NDArray[Any]]
"""Values of some events by the name of a column, (n,) each, or (n, 4760) for sensors."""
Given = Mapping[str, NDArray[Any]]


class RawSensors(NamedTuple):
    """Sensors as a ROOT file holds them."""

    npho: NDArray[Any]
    """(n, 4760), photons; NaN, infinite or > 9e9 where a sensor is dead."""
    time: NDArray[Any]
    """(n, 4760), s; NaN, infinite or beyond ±9e9 where there is none."""
    dead: NDArray[np.bool_]
    """(n, 4760): sensors that count as dead whatever their values are."""


class _Sensors(Protocol):
    """What both origins of sensors can do."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> _Sensors: ...

    def model_input(self, model: Normalization, threshold: float, device: str) -> tuple[Tensor, Tensor]: ...

    def raw(self) -> RawSensors: ...

    def physical(self, judge: Normalization) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...


@dataclass(frozen=True, eq=False)
class Events:
    """Consecutive events, of a part or of a user's arrays; `events[3:7]` selects some of them."""

    columns: Given
    """Truth, identity and carried columns (and `entry` from ROOT), (n,) each, canonical units; float64, but int64 for
    whole numbers that float64 would not hold."""
    _sensors: _Sensors

    @classmethod
    def stored(cls, sensors: Tensor | NDArray[Any], storage: Normalization, columns: Given | None = None) -> Events:
        """Events as a dataset holds them.

        Args:
            sensors: float32 (n, 4760, 2), normalized as `storage`, sentinel-marked, on any device.
            columns: (n,) each.
        """
        tensor = (
            sensors if isinstance(sensors, Tensor) else torch.from_numpy(np.require(sensors, np.float32, ["C", "W"]))
        )
        return cls(columns or {}, _Stored(tensor, storage))

    @classmethod
    def of_raw(
        cls, npho: ArrayLike, time: ArrayLike, dead: ArrayLike | None = None, columns: Given | None = None
    ) -> Events:
        """Events as a ROOT file holds them.

        Args:
            npho: (n, 4760) or (4760,), photons; NaN, infinite or > 9e9 where a sensor is dead.
            time: same shape, s; NaN, infinite or beyond ±9e9 where there is none.
            dead: bool, same shape or (4760,): further dead sensors.
            columns: (n,) each.

        Raises:
            InputError: the arrays have other shapes.
        """
        photons, seconds = (np.atleast_2d(np.asarray(a)) for a in (npho, time))
        if photons.ndim != 2 or photons.shape != seconds.shape or photons.shape[1] != N_SENSORS:
            raise InputError("sensors have the wrong shape", found=(photons.shape, seconds.shape), expected="(n, 4760)")
        lost = None if dead is None else np.broadcast_to(np.asarray(dead, dtype=bool), photons.shape)
        return cls(columns or {}, _Raw(photons, seconds, lost))

    def __len__(self) -> int:
        return len(self._sensors)

    def __getitem__(self, rows: slice) -> Events:
        return Events({name: values[rows] for name, values in self.columns.items()}, self._sensors[rows])

    def batches(self, size: int) -> list[Events]:
        """The events in pieces of at most `size`."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    @property
    def earliest(self) -> NDArray[np.float64] | None:
        """`time_min_used` [s], where the data have it."""
        return self.columns.get("time_min_used")

    def model_input(self, model: Normalization, threshold: float, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """What a network reads.

        Args:
            model: normalization the network was made for.
            threshold: photons below which a sensor's time is taken as missing.
            device: where to.

        Returns:
            x_BN2, float32, normalized and sentinel-marked, and mask_BN, bool, true where npho is not valid.
        """
        return self._sensors.model_input(model, threshold, device)

    def raw(self) -> RawSensors:
        """Photons and seconds as they came, or, for stored sensors, with NaN where a sensor gave none."""
        return self._sensors.raw()

    def photons(self, judge: Normalization) -> RawEvents:
        """Photons and seconds, NaN where a sensor gave none.

        Args:
            judge: decides what counts as bad in raw sensors (stored ones were judged when they were converted).
        """
        return RawEvents(*self._sensors.physical(judge), self.columns)


@dataclass(frozen=True, eq=False)
class _Stored:
    sensors: Tensor
    normalization: Normalization

    def __len__(self) -> int:
        return len(self.sensors)

    def __getitem__(self, rows: slice) -> _Stored:
        return _Stored(self.sensors[rows], self.normalization)

    def model_input(self, model: Normalization, threshold: float, device: str) -> tuple[Tensor, Tensor]:
        sensors_BN2 = self.sensors.to(device, non_blocking=True)
        return InputRules(self.normalization, model, threshold).apply(sensors_BN2)

    def raw(self) -> RawSensors:
        npho, time = self.physical(self.normalization)
        return RawSensors(npho, time, np.zeros(npho.shape, dtype=bool))

    def physical(self, judge: Normalization) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        npho, time = denormalize(self.sensors.cpu().numpy(), self.normalization)
        return npho.astype(np.float32), time.astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Raw:
    npho: NDArray[Any]
    time: NDArray[Any]
    dead: NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.npho)

    def __getitem__(self, rows: slice) -> _Raw:
        return _Raw(self.npho[rows], self.time[rows], None if self.dead is None else self.dead[rows])

    def model_input(self, model: Normalization, threshold: float, device: str) -> tuple[Tensor, Tensor]:
        # By NumPy, whatever the device is: the very bytes of shards, and on a CPU a third of the time that torch takes.
        sensors_BN2 = torch.from_numpy(normalize(self.npho, self.time, model, self.dead).sensors)
        return InputRules(model, model, threshold).apply(sensors_BN2.to(device, non_blocking=True))

    def raw(self) -> RawSensors:
        dead = np.zeros(self.npho.shape, dtype=bool) if self.dead is None else self.dead
        return RawSensors(self.npho, self.time, dead)

    def physical(self, judge: Normalization) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        classes = classify(self.npho, self.time, judge, self.dead)
        photons = np.where(classes.dead, np.nan, self.npho).astype(np.float32)
        return photons, np.where(classes.time_invalid, np.nan, self.time).astype(np.float32)
