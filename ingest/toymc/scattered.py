"""Scattered light: the share of a source's photons that enters each sensor after one scattering or more.

ln S(p, s) = ln H(r, c) + Σ_kl φ_k(p)·C_kl·ψ_l(s): a formula in distance and cosine that has the right shape near the
source (a cloud of first scatterings, whose density falls as 1/r²), times a smooth function of source and sensor that
knows the walls. φ are products of Legendre polynomials in the source's u, v and √w, ψ in the sensor's coordinates on
its face. `scattering` finds C from traced photons; it comes with the code.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray

from ingest.toymc import constants as c
from ingest.toymc.direct import Share
from ingest.toymc.library import FOLDER, read_arrays
from shards import geometry as geo

Floats = NDArray[np.float64]

TABLE = FOLDER / "scattering.npz"
SOURCE_DEGREES = (6, 8, 4)
"""Largest degrees in u, v and √w; products have Σ degree/largest ≤ 1."""
SENSOR_DEGREES = ((8, 10), (6, 6), (4, 6), (4, 6), (6, 4), (6, 4))
"""The same for the two coordinates of each face: z and φ; on the ends r and φ; on top and bottom z and r."""
FALL = 36.0
SHAPE = (0.40, 0.62, 0.27)
SOFT = 0.1
"""H = A/(4π·36 cm)·(0.40 + 0.62c + 0.27c²)·exp(−r/36)/(r + 0.1), with the sensor's area A; lengths in cm."""
_PIECE = 341
"""Sensors in one matrix product: a divisor of the tiles' size, and so few that BLAS uses one thread."""


class ScatteredLight:
    """Scattered light at the sensors, evaluated tile by tile beside the direct one."""

    def __init__(self, path: Path = TABLE) -> None:
        exponent = np.einsum("kl,ls->ks", read_table(path), sensor_basis())  # no BLAS: the same on any number of cores
        exponent[0] += np.log(_area())  # φ₀ = 1
        exponent = exponent.astype(np.float32)
        self._pieces = [np.ascontiguousarray(exponent[:, i : i + _PIECE]) for i in range(0, geo.N_SENSORS, _PIECE)]
        self._buffers = np.empty((2, 0), dtype=np.float32)

    def add(
        self, share: Share, basis: NDArray[np.float32], photons: NDArray[np.float32], light: NDArray[np.float32]
    ) -> None:
        """Add to `light` what the points of one event scatter into the sensors of one tile.

        Args:
            share: direct light of the same points; distance and cosine are used.
            basis: float32 (D, K) from `source_basis`.
            photons: float32 (D,).
            light: float32 (4760,), photons.
        """
        size = share.distance.size
        if self._buffers.shape[1] < size:
            self._buffers = np.empty((2, size), dtype=np.float32)
        shares, free = (b[:size].reshape(share.distance.shape) for b in self._buffers)
        for start in range(share.sensors.start, share.sensors.stop, _PIECE):
            piece = self._pieces[start // _PIECE]
            column = start - share.sensors.start
            np.matmul(basis, piece, out=shares[:, column : column + piece.shape[1]])
        np.multiply(share.distance, np.float32(-1 / FALL), out=free)
        shares += free
        np.exp(shares, out=shares)
        np.multiply(share.cosine, np.float32(SHAPE[2]), out=free)
        free += np.float32(SHAPE[1])
        free *= share.cosine
        free += np.float32(SHAPE[0])
        shares *= free
        np.add(share.distance, np.float32(SOFT), out=free)
        shares /= free
        light[share.sensors] += np.dot(photons, shares)


def source_basis(points: NDArray[np.floating]) -> Floats:
    """The functions φ at sources.

    Args:
        points: (..., 3), cm.

    Returns:
        float64 (..., K).
    """
    uvw = geo.uvw_from_xyz(np.asarray(points, dtype=np.float64))
    depth = np.clip(uvw[..., 2] / geo.W_MAX, 0, 1)
    half_length = geo.Z_LENGTH_INNER / 2 + (uvw[..., 2] + geo.R_INNER - geo.R_STRUCTURE) * geo.TAN_TILT
    coordinates = (uvw[..., 0] / half_length, uvw[..., 1] / geo.V_MAX, 2 * np.sqrt(depth) - 1)
    a, b, d = (legvander(np.clip(x, -1, 1), degree) for x, degree in zip(coordinates, SOURCE_DEGREES, strict=True))
    i, j, k = np.array(exponents(SOURCE_DEGREES)).T
    return np.asarray(a[..., i] * b[..., j] * d[..., k])


@lru_cache
def sensor_basis() -> Floats:
    """The functions ψ at the sensors of the nominal geometry, float64 (L, 4760): 0 off the function's face."""
    nominal = geo.nominal()
    u, v, w = geo.uvw_from_xyz(nominal.positions).T
    blocks = []
    for face, degrees in enumerate(SENSOR_DEGREES):
        here = nominal.face == face
        pair = ((u, v), (u, v), (w, v), (w, v), (u, w), (u, w))[face]
        a, b = (legvander(_spread(x[here]), degree) for x, degree in zip(pair, degrees, strict=True))
        i, j = np.array(exponents(degrees)).T
        block = np.zeros((len(i), geo.N_SENSORS))
        block[:, here] = (a[:, i] * b[:, j]).T
        blocks.append(block)
    return np.concatenate(blocks)


@lru_cache
def exponents(largest: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Degrees of the products that are kept."""
    every = np.ndindex(*(n + 1 for n in largest))
    return [e for e in every if sum(i / n for i, n in zip(e, largest, strict=True)) <= 1 + 1e-9]


def shape(distance: Floats, cosine: Floats) -> Floats:
    """H of the whole detector: (N, 4760) from distance [cm] and cosine."""
    falling = np.exp(-distance / FALL) / (distance + SOFT)
    return np.asarray(_area() * falling * (SHAPE[0] + SHAPE[1] * cosine + SHAPE[2] * cosine**2))


def read_table(path: Path = TABLE) -> Floats:
    """The coefficients C, float64 (K, L)."""
    return read_arrays(path, {"coefficients"})["coefficients"].astype(np.float64)


def _area() -> Floats:
    square, disc = (2 * geo.SIPM_SQUARE_HALF_SIDE) ** 2, np.pi * geo.PMT_RADIUS**2
    return np.where(np.arange(geo.N_SENSORS) < geo.N_SIPM, square, disc) / (4 * np.pi * c.RAYLEIGH_LENGTH)


def _spread(x: Floats) -> Floats:
    """Onto −1…1."""
    middle, half = (x.max() + x.min()) / 2, (x.max() - x.min()) / 2
    return np.asarray((x - middle) / half)
