"""Showers: a gamma's energy as a few deposits behind its first interaction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.toymc.library import read_showers
from ingest.toymc.source import Gammas
from shards import geometry as geo

WINDOW = 0.04
"""Showers whose ln E differs by less than this stand for each other."""
NEAREST = 400
"""… or, where they are fewer, this many of the nearest energy."""


@dataclass(frozen=True)
class Deposits:
    """Light sources of n gammas."""

    points: NDArray[np.float32]
    """float32 (n, 8, 3), cm."""
    energy: NDArray[np.float32]
    """float32 (n, 8), MeV; 0 outside the volume."""
    delay: NDArray[np.float32]
    """float32 (n, 8), ns after the first interaction."""

    @property
    def contained(self) -> NDArray[np.float64]:
        """Energy deposited inside the volume, MeV, float64 (n,)."""
        return np.asarray(self.energy.sum(axis=1, dtype=np.float64))


def draw_deposits(rng: np.random.Generator, gammas: Gammas) -> Deposits:
    """Showers of the given gammas, turned into the direction of flight and cut at the borders of the volume.

    Each is one of the library, of nearly the same energy (within 4 %, or among the 400 nearest), scaled to the
    gamma's, turned by a random angle about the flight and mirrored half of the time.
    """
    n = len(gammas.energy)
    library = read_showers()
    log_energy, wanted = np.log(library.energy), np.log(gammas.energy)
    middle = np.searchsorted(log_energy, wanted)
    first = np.minimum(np.searchsorted(log_energy, wanted - WINDOW), middle - NEAREST // 2)
    last = np.maximum(np.searchsorted(log_energy, wanted + WINDOW), middle + NEAREST // 2)
    first, last = np.maximum(first, 0), np.minimum(last, len(log_energy))
    pick = first + np.floor(rng.random(n) * (last - first)).astype(np.int64)
    turn, mirror = rng.uniform(0, 2 * np.pi, n), np.where(rng.random(n) < 0.5, -1.0, 1.0)
    x, y, z = np.moveaxis(library.points[pick], 2, 0)
    x = x * mirror[:, None]
    cosine, sine = np.cos(turn)[:, None], np.sin(turn)[:, None]
    local = np.stack([cosine * x - sine * y, sine * x + cosine * y, z], axis=2)
    energy = library.shares[pick] * gammas.energy[:, None]
    return place(gammas, local, energy, library.delay[pick])


def place(
    gammas: Gammas, local: NDArray[np.float64], energy: NDArray[np.float64], delay: NDArray[np.floating]
) -> Deposits:
    """Showers given in their own frame (z along the flight, origin at the first interaction) at their places.

    Args:
        gammas: n gammas.
        local: (n, 8, 3), cm.
        energy: (n, 8), MeV.
        delay: (n, 8), ns.
    """
    along = gammas.direction
    helper = np.where(np.abs(along[:, 2:3]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(helper, along)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    axes = np.stack([first, np.cross(along, first), along], axis=1)
    points = np.einsum("nda,nax->ndx", local, axes) + gammas.first[:, None, :]
    contained = np.where(geo.inside(points), energy, 0.0)
    return Deposits(points.astype(np.float32), contained.astype(np.float32), delay.astype(np.float32))
