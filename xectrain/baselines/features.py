"""What the classical methods need to know of an event, computed once per batch: a few dozen numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from shards import geometry as geo
from xectrain.baselines.inpainting import fill
from xectrain.baselines.light import light_centre
from xectrain.baselines.localfit import local_fit
from xectrain.baselines.raw import RawEvents

Array = NDArray[np.float64]

MIN_LIGHT = 1e3
"""Photons; an event without light has no shape."""
FIT_HALVES = (3, 2, 5)
"""Windows of the local fits, 7×7 first; how the fitted point moves with the window tells the shape of the shower."""


@dataclass(frozen=True)
class Features:
    """Summaries of n events."""

    light: Array
    """(n, 3): light-weighted u, v [cm] and the photons above background of the 9×9 window."""
    fits: Array
    """(n, windows, 3): u, v, w [cm] of the local fits, windows as in `FIT_HALVES`."""
    amplitudes: Array
    """(n, windows): fitted amplitude [photons/sr]."""
    quality: Array
    """(n,): χ² per degree of freedom of the 7×7 fit."""
    faces: Array
    """(n, 6): photons per face, dead sensors filled from their neighbours."""
    coverage: Array
    """(n,): photons weighted by cell area over sensor area, dead sensors filled."""

    def __len__(self) -> int:
        return len(self.light)

    @property
    def log_light(self) -> Array:
        """(n,): logarithm of all photons: what the maps know of the energy."""
        return np.asarray(np.log(np.maximum(self.faces.sum(axis=1), MIN_LIGHT)))


def extract(events: RawEvents, geometry: geo.Geometry | None = None) -> Features:
    """Summaries of a batch of events."""
    where = geometry or geo.nominal()
    centre = light_centre(events.npho)
    fits = []
    start: Array | None = None
    for half in FIT_HALVES:
        fit = local_fit(events.npho, centre, half, start, where)
        fits.append(fit)
        start = np.stack([fit.u, fit.v, fit.w], axis=1) if start is None else start
    filled = fill(events, "ring_mean").npho.astype(np.float64)
    starts, order = _face_blocks()
    return Features(
        light=np.stack([centre.u, centre.v, centre.light], axis=1),
        fits=np.stack([np.stack([f.u, f.v, f.w], axis=1) for f in fits], axis=1),
        amplitudes=np.stack([f.amplitude for f in fits], axis=1),
        quality=fits[0].chi2,
        faces=np.add.reduceat(filled[:, order], starts, axis=1),
        coverage=filled @ (geo.cell_area() / geo.sensor_area()),
    )


def concatenate(parts: Sequence[Features]) -> Features:
    """The features of several batches in one."""
    return Features(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Features)))


def _face_blocks() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Channels sorted by face, and where each face starts."""
    face = geo.nominal_faces()
    order = np.argsort(face, kind="stable").astype(np.int64)
    return np.searchsorted(face[order], np.arange(len(geo.FACE_NAMES))).astype(np.int64), order
