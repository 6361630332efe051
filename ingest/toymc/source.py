"""Where gammas come from, where they go, and where they first interact."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ingest.toymc import constants as c
from ingest.toymc.options import ToyOptions
from shards import geometry as geo

Floats = NDArray[np.float64]

PATCHES = (8, 3)
"""The 24 patches of a charge-exchange run: 8 along v, 3 along u."""
CEX_VERTEX_SIGMA = 1.0
CEX_LEAST_OPENING = np.radians(165.0)
BGO_RESOLUTION = 0.045
OPENING_RESOLUTION = np.radians(1.0)
GSTATUS_SHARES = (0.80, 0.10, 0.06, 0.04)
"""Share of gstatus 0…3; from 2 on the opposite gamma is badly measured."""

_MFP_ENERGY = (15.0, 30.0, 52.8, 83.0)
_MFP_LENGTH = (7.5, 6.2, 5.5, 5.0)


@dataclass(frozen=True)
class Gammas:
    """n gammas that interact inside the detector."""

    vertex: Floats
    """float64 (n, 3), cm: the origin."""
    direction: Floats
    """float64 (n, 3): unit vector of the flight."""
    first: Floats
    """float64 (n, 3), cm: the first interaction."""
    energy: Floats
    """float64 (n,), MeV: incident energy."""

    @property
    def flight_time(self) -> Floats:
        """From the vertex to the first interaction, ns, float64 (n,)."""
        return np.asarray(np.linalg.norm(self.first - self.vertex, axis=1) / c.LIGHT_SPEED)


def mean_free_path(energy: Floats) -> Floats:
    """Mean free path of gammas in liquid xenon (pair production and Compton scattering).

    Interpolated in log E between the values of the specification, which the cross sections of the shower
    (`crosssections.mean_free_path`) reproduce within 3 %.

    Args:
        energy: MeV, any shape.

    Returns:
        cm, same shape.
    """
    return np.asarray(np.interp(np.log(energy), np.log(_MFP_ENERGY), _MFP_LENGTH))


def draw_energy(rng: np.random.Generator, n: int, options: ToyOptions) -> Floats:
    """Incident energies of `n` gammas, MeV, float64 (n,). For `cex` the XEC side of each π⁰, lines mixed evenly."""
    if options.energy == "flat":
        return rng.uniform(*options.energy_range, size=n)
    if options.energy != "cex":
        return np.full(n, options.mono_energy)
    momentum = np.sqrt(c.PION_ENERGY**2 - c.PION_MASS**2)
    lowest = (c.PION_ENERGY - momentum) / 2
    product = c.PION_MASS**2 / (2 * (1 - np.cos(CEX_LEAST_OPENING)))
    highest = c.PION_ENERGY / 2 - np.sqrt(c.PION_ENERGY**2 / 4 - product)
    low = rng.uniform(lowest, highest, size=n)
    return np.where(rng.random(n) < 0.5, low, c.PION_ENERGY - low)


def opening_angle(energy: Floats) -> Floats:
    """Opening angle [rad] of the two gammas of a π⁰ from charge exchange, one of which has `energy`.

    From the mass: m² = 2·E₁E₂(1 − cos ψ).
    """
    cosine = 1 - c.PION_MASS**2 / (2 * energy * (c.PION_ENERGY - energy))
    return np.asarray(np.arccos(np.clip(cosine, -1, 1)))


def draw_gammas(
    rng: np.random.Generator, energy: Floats, options: ToyOptions, patch: NDArray[np.int64] | None = None
) -> Gammas:
    """Gammas of the given energies; those that miss the detector or cross it without interacting are drawn again.

    Args:
        rng: generator.
        energy: float64 (n,), MeV; kept, so that the spectrum of interacting gammas is the one asked for.
        options: `source` is used.
        patch: int64 (n,), 0…23: aim at these patches from a charge-exchange target instead.
    """
    n = len(energy)
    vertex, direction, first = np.empty((n, 3)), np.empty((n, 3)), np.empty((n, 3))
    missing = np.arange(n)
    while len(missing):
        count = len(missing)
        if patch is not None:
            origin, towards = _cex_lines(rng, patch[missing])
        elif options.source == "uniform":
            origin, towards = _uniform_lines(rng, count)
        else:
            origin, towards = _signal_lines(rng, count)
        entry = _entry(origin, towards)
        path = rng.exponential(mean_free_path(energy[missing]))
        point = entry + path[:, None] * towards
        good = geo.inside(entry + 1e-9 * towards) & geo.inside(point)
        done = missing[good]
        vertex[done], direction[done], first[done] = origin[good], towards[good], point[good]
        missing = missing[~good]
    return Gammas(vertex, direction, first, energy)


def emission_angles(direction: Floats) -> Floats:
    """(θ, φ) [degree] of unit vectors: θ = acos z, φ = atan2(y, −x). float64 (n, 3) → (n, 2)."""
    theta = np.arccos(np.clip(direction[:, 2], -1, 1))
    return np.asarray(np.degrees(np.stack([theta, np.arctan2(direction[:, 1], -direction[:, 0])], axis=1)))


def concatenate(parts: list[Gammas]) -> Gammas:
    """Join several."""
    return Gammas(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Gammas)})


def _signal_lines(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Origins on the slanted target, directions flat in cos θ and φ."""
    z, y = rng.normal(0, c.TARGET_SIGMA_Z, n), rng.normal(0, c.TARGET_SIGMA_Y, n)
    origin = np.stack([z * np.tan(c.TARGET_SLANT), y, z], axis=1)
    cosine = rng.uniform(-c.SIGNAL_COS_THETA, c.SIGNAL_COS_THETA, n)
    phi = rng.uniform(-c.SIGNAL_PHI, c.SIGNAL_PHI, n)
    sine = np.sqrt(1 - cosine**2)
    return origin, np.stack([-sine * np.cos(phi), sine * np.sin(phi), cosine], axis=1)


def _uniform_lines(rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Entry points flat over the inner face, directions flat in solid angle within the cone; the origin is the point
    of each line that is nearest to the target centre."""
    half_length = geo.Z_LENGTH_INNER / 2
    phi = rng.uniform(-geo.PHI_RANGE / 2, geo.PHI_RANGE / 2, n)
    z = rng.uniform(-half_length, half_length, n)
    radial = np.stack([-np.cos(phi), np.sin(phi), np.zeros(n)], axis=1)
    around = np.stack([np.sin(phi), np.cos(phi), np.zeros(n)], axis=1)
    cosine, turn = rng.uniform(np.cos(c.UNIFORM_CONE), 1, n), rng.uniform(0, 2 * np.pi, n)
    sine = np.sqrt(1 - cosine**2)
    direction = cosine[:, None] * radial + (sine * np.cos(turn))[:, None] * around
    direction[:, 2] += sine * np.sin(turn)
    entry = geo.R_INNER * radial
    entry[:, 2] = z
    return entry - np.einsum("ij,ij->i", entry, direction)[:, None] * direction, direction


def _cex_lines(rng: np.random.Generator, patch: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """From a target at the origin to a point flat over the gamma's patch of the inner face."""
    n = len(patch)
    origin = rng.normal(0, CEX_VERTEX_SIGMA, (n, 3))
    row, column = patch // PATCHES[1], patch % PATCHES[1]
    v = geo.V_MAX * (2 * (row + rng.random(n)) / PATCHES[0] - 1)
    u = geo.Z_LENGTH_INNER / 2 * (2 * (column + rng.random(n)) / PATCHES[1] - 1)
    entry = geo.xyz_from_uvw(np.stack([u, v, np.zeros(n)], axis=1))
    towards = entry - origin
    return origin, towards / np.linalg.norm(towards, axis=1, keepdims=True)


def _entry(origin: Floats, direction: Floats) -> Floats:
    """Where lines from inside the inner cylinder leave it, float64 (n, 3)."""
    a = direction[:, 0] ** 2 + direction[:, 1] ** 2
    b = origin[:, 0] * direction[:, 0] + origin[:, 1] * direction[:, 1]
    inside = geo.R_INNER**2 - origin[:, 0] ** 2 - origin[:, 1] ** 2
    length = (np.sqrt(b * b + a * inside) - b) / a
    return origin + length[:, None] * direction
