"""Nominal position and normal of every sensor, computed from its channel number."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shards.geometry import constants as c
from shards.geometry.arrays import frozen

Floats = NDArray[np.float64]

_CENTRE_PATCH = """
4185 4742 4186 4743 4187
4744 4745 4746 4747 4748
4194 4749 4195 4750 4196
4203 4751 4204 4752 4205
4753 4754 4755 4756 4757
4212 4758 4213 4759 4214
"""


@lru_cache
def centre_patch() -> NDArray[np.int32]:
    """Channels of the fine patch in the middle of the outer face.

    Twelve of them carry coarse channel numbers (k = 10…13, j = 3…5), but sit at their place in the patch.

    Returns:
        int32 (6, 5), φ' decreasing along rows, z increasing along columns. Read-only.
    """
    return frozen(np.array(_CENTRE_PATCH.split(), dtype=np.int32).reshape(c.OUTER_CENTRE_SHAPE))


@lru_cache
def nominal_faces() -> NDArray[np.int8]:
    """Face code of every channel, an index into `FACE_NAMES`: int8 (4760,). Read-only."""
    face = np.empty(c.N_SENSORS, dtype=np.int8)
    face[: c.FIRST_OUTER_COARSE] = c.INNER
    face[c.FIRST_OUTER_COARSE : c.FIRST_UPSTREAM] = c.OUTER
    face[c.FIRST_UPSTREAM : c.FIRST_DOWNSTREAM] = c.UPSTREAM
    face[c.FIRST_DOWNSTREAM : c.FIRST_TOP] = c.DOWNSTREAM
    face[c.FIRST_TOP : c.FIRST_BOTTOM] = c.TOP
    face[c.FIRST_BOTTOM : c.FIRST_OUTER_CENTRE] = c.BOTTOM
    face[c.FIRST_OUTER_CENTRE :] = c.OUTER
    return frozen(face)


@lru_cache
def nominal_cylindrical() -> tuple[Floats, Floats, Floats]:
    """Cylindrical coordinates of every sensor.

    Returns:
        r [cm], φ' [rad] and z [cm], each float64 (4760,). Read-only.
    """
    r, phi, z = np.empty((3, c.N_SENSORS))
    _fill(r, phi, z, slice(0, c.N_SIPM), _inner())
    _fill(r, phi, z, slice(c.FIRST_OUTER_COARSE, c.FIRST_UPSTREAM), _outer_coarse())
    _fill(r, phi, z, slice(c.FIRST_UPSTREAM, c.FIRST_DOWNSTREAM), _end(-1))
    _fill(r, phi, z, slice(c.FIRST_DOWNSTREAM, c.FIRST_TOP), _end(+1))
    _fill(r, phi, z, slice(c.FIRST_TOP, c.FIRST_BOTTOM), _hexagonal(+1))
    _fill(r, phi, z, slice(c.FIRST_BOTTOM, c.FIRST_OUTER_CENTRE), _hexagonal(-1))
    _fill(r, phi, z, centre_patch().ravel(), _outer_centre())
    return frozen(r), frozen(phi), frozen(z)


@lru_cache
def nominal_positions() -> Floats:
    """Cartesian position of every sensor: float64 (4760, 3), cm. Read-only."""
    r, phi, z = nominal_cylindrical()
    return frozen(np.stack([-r * np.cos(phi), r * np.sin(phi), z], axis=1))


@lru_cache
def nominal_normals() -> Floats:
    """Unit normal of every sensor, pointing into the xenon: float64 (4760, 3). Read-only."""
    _, phi, _ = nominal_cylindrical()
    face = nominal_faces()
    radial = np.stack([-np.cos(phi), np.sin(phi), np.zeros_like(phi)], axis=1)  # away from the z axis
    azimuthal = np.stack([np.sin(phi), np.cos(phi), np.zeros_like(phi)], axis=1)  # towards larger φ'
    along_z = np.array([0.0, 0.0, 1.0])
    tilt = np.arctan(c.TAN_TILT)
    cos_t, sin_t = np.cos(tilt), np.sin(tilt)
    normals = np.empty((c.N_SENSORS, 3))
    for code, value in (
        (c.INNER, radial),
        (c.OUTER, -radial),
        (c.UPSTREAM, sin_t * radial + cos_t * along_z),
        (c.DOWNSTREAM, sin_t * radial - cos_t * along_z),
        (c.TOP, -azimuthal),
        (c.BOTTOM, azimuthal),
    ):
        normals[face == code] = value[face == code]
    return frozen(normals)


def _fill(
    r: Floats,
    phi: Floats,
    z: Floats,
    channels: slice | NDArray[np.int32],
    values: tuple[Floats, Floats, Floats],
) -> None:
    for target, value in zip((r, phi, z), values, strict=True):
        target[channels] = value


def _lattice(shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Row and column number of each site of a row-major grid, as floats: each (rows·columns,)."""
    row, column = np.indices(shape, dtype=np.float64)
    return row.ravel(), column.ravel()


def _centred_phi(row: Floats, rows: int, pitch: float) -> Floats:
    """φ' falling with the row number, symmetric about 0."""
    return ((rows - 1) / 2 - row) * pitch


def _inner() -> tuple[Floats, Floats, Floats]:
    row, column = _lattice(c.INNER_SHAPE)
    phi = _centred_phi(row, c.INNER_SHAPE[0], c.INNER_PHI_PITCH)
    z = (column - (c.INNER_SHAPE[1] - 1) / 2) * c.INNER_Z_PITCH
    return np.full_like(phi, c.R_INNER), phi, z


def _outer_coarse() -> tuple[Floats, Floats, Floats]:
    k, j = _lattice(c.OUTER_COARSE_SHAPE)
    phi = _centred_phi(k, c.OUTER_COARSE_SHAPE[0], c.COARSE_PHI_PITCH)
    z = (j - (c.OUTER_COARSE_SHAPE[1] - 1) / 2) * c.OUTER_Z_PITCH
    return np.full_like(phi, c.R_OUTER), phi, z


def _outer_centre() -> tuple[Floats, Floats, Floats]:
    row, column = _lattice(c.OUTER_CENTRE_SHAPE)
    phi = _centred_phi(row, c.OUTER_CENTRE_SHAPE[0], c.CENTRE_PHI_PITCH)
    z = (column - (c.OUTER_CENTRE_SHAPE[1] - 1) / 2) * c.CENTRE_Z_PITCH
    return np.full_like(phi, c.R_OUTER), phi, z


def _end(side: int) -> tuple[Floats, Floats, Floats]:
    """Upstream (`side` −1) or downstream (+1)."""
    k, j = _lattice(c.END_SHAPE)
    phi = _centred_phi(k, c.END_SHAPE[0], c.COARSE_PHI_PITCH)
    r = c.END_FIRST_R + c.END_R_PITCH * j
    z = side * (c.Z_LENGTH_INNER / 2 + (r - c.R_STRUCTURE) * c.TAN_TILT)
    return r, phi, z


def _hexagonal(side: int) -> tuple[Floats, Floats, Floats]:
    """Top (`side` +1) or bottom (−1): six centred rows of unequal length."""
    row = np.repeat(np.arange(len(c.HEXAGON_ROWS), dtype=np.float64), c.HEXAGON_ROWS)
    z = np.concatenate([(np.arange(n) - (n - 1) / 2) * c.HEXAGON_Z_PITCH for n in c.HEXAGON_ROWS])
    return c.HEXAGON_FIRST_R + c.HEXAGON_R_PITCH * row, np.full_like(z, side * c.PHI_RANGE / 2), z
