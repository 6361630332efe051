"""A small electromagnetic Monte Carlo in liquid xenon without borders, and its reduction to a few deposits.

Photons convert, scatter and are absorbed; electrons and positrons lose energy in steps, scatter, and radiate;
positrons at rest annihilate. All particles of a generation move together, as arrays. What is left out: knock-on
electrons as particles, straggling of the collision loss, annihilation in flight, K fluorescence, nuclear reactions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ingest.toymc import constants as c
from ingest.toymc import crosssections as xs

Floats = NDArray[np.float64]

PHOTON_CUT = 0.1
"""Photons below this [MeV] are absorbed where they are (mean free path 2 mm), and radiation below it is a loss."""
ELECTRON_CUT = 0.2
"""Electrons below this [MeV] stop where they are (range below 1 mm)."""
LARGEST_STEP = 0.12


@dataclass(frozen=True)
class _Particles:
    """n particles: which shower, where, whereto, how much energy (kinetic), when, and the charge."""

    shower: NDArray[np.int64]
    position: Floats
    direction: Floats
    energy: Floats
    time: Floats
    charge: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.energy)

    def take(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> _Particles:
        return _Particles(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def changed(self, **values: NDArray[np.generic]) -> _Particles:
        return _Particles(**{f.name: values.get(f.name, getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class Steps:
    """Energy losses of n showers: float64 arrays over all steps, ordered by shower."""

    shower: NDArray[np.int64]
    position: Floats
    """(steps, 3), cm; z along the gamma, origin at the first interaction."""
    energy: Floats
    """MeV."""
    time: Floats
    """ns after the first interaction."""


def simulate(rng: np.random.Generator, energy: Floats) -> Steps:
    """Showers of gammas that interact at the origin, flying along z.

    Args:
        rng: generator.
        energy: float64 (n,), MeV.
    """
    n = len(energy)
    along = np.tile([0.0, 0.0, 1.0], (n, 1))
    start = _Particles(np.arange(n), np.zeros((n, 3)), along, energy, np.zeros(n), np.zeros(n, np.int8))
    losses: list[Steps] = []
    photons, electrons = _interact(rng, start, losses)
    while len(photons) or len(electrons):
        if len(electrons):
            photons = _join([photons, _stop(rng, electrons, losses)])
        photons = _fly(rng, photons)
        photons, electrons = _interact(rng, photons, losses)
    order = np.argsort(np.concatenate([s.shower for s in losses]), kind="stable")
    return Steps(*(np.concatenate([getattr(s, f.name) for s in losses])[order] for f in fields(Steps)))


def reduce(rng: np.random.Generator, position: Floats, energy: Floats, count: int) -> tuple[Floats, Floats]:
    """One shower as `count` deposits: energy-weighted k-means (Lloyd 1982; start of Arthur and Vassilvitskii 2007).

    Args:
        rng: generator.
        position: (steps, 3), cm.
        energy: (steps,), MeV.
        count: number of deposits.

    Returns:
        Points (count, 3) and shares of the energy (count,), largest first; a simple shower has deposits of share 0.
    """
    centres = position[rng.choice(len(energy), size=1, p=energy / energy.sum())]
    nearest2 = ((position - centres[0]) ** 2).sum(axis=1)
    while len(centres) < count:
        weight = energy * nearest2
        if not weight.sum():
            break
        new = position[rng.choice(len(energy), p=weight / weight.sum())]
        centres = np.vstack([centres, new])
        nearest2 = np.minimum(nearest2, ((position - new) ** 2).sum(axis=1))
    for _ in range(30):
        owner = ((position[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        shares = np.bincount(owner, energy, len(centres))
        moments = np.stack([np.bincount(owner, energy * x, len(centres)) for x in position.T], axis=1)
        moved = np.where(shares[:, None] > 0, moments / np.maximum(shares, 1e-12)[:, None], centres)
        settled = np.allclose(moved, centres, atol=1e-3)
        centres = moved
        if settled:
            break
    order = np.argsort(-shares)
    points, sizes = np.zeros((count, 3)), np.zeros(count)
    points[: len(order)], sizes[: len(order)] = centres[order], shares[order]
    return points, sizes / energy.sum()


def mean_delay(position: Floats, energy: Floats, time: Floats, points: Floats) -> Floats:
    """Energy-weighted mean time [ns] of the steps nearest to each deposit, (count,); 0 where there are none."""
    owner = ((position[:, None] - points) ** 2).sum(axis=2).argmin(axis=1)
    total = np.bincount(owner, energy, len(points))
    return np.asarray(np.bincount(owner, energy * time, len(points)) / np.maximum(total, 1e-12))


def _fly(rng: np.random.Generator, photons: _Particles) -> _Particles:
    """Photons at their next interaction."""
    length = rng.exponential(xs.mean_free_path(photons.energy)) if len(photons) else np.empty(0)
    return photons.changed(
        position=photons.position + length[:, None] * photons.direction, time=photons.time + length / c.LIGHT_SPEED
    )


def _interact(rng: np.random.Generator, photons: _Particles, losses: list[Steps]) -> tuple[_Particles, _Particles]:
    """What comes out of photons that interact where they are: photons to fly on, and electrons to stop."""
    slow = photons.energy < PHOTON_CUT
    _deposit(losses, photons.take(slow), photons.energy[slow])
    photons = photons.take(~slow)
    parts = np.stack([xs.pair(photons.energy), xs.compton(photons.energy), xs.photoelectric(photons.energy)])
    kind = (rng.random(len(photons)) > np.cumsum(parts / parts.sum(axis=0), axis=0)[:2]).sum(axis=0)
    scattered, recoiling = _compton(rng, photons.take(kind == 1))
    absorbed = photons.take(kind == 2)
    electrons = [*_pair(rng, photons.take(kind == 0)), recoiling, absorbed.changed(charge=_charge(absorbed, -1))]
    return scattered, _join(electrons)


def _compton(rng: np.random.Generator, photons: _Particles) -> tuple[_Particles, _Particles]:
    energy, cosine = xs.draw_compton(rng, photons.energy)
    turned = _turn(rng, photons.direction, cosine)
    momentum = photons.energy[:, None] * photons.direction - energy[:, None] * turned
    momentum /= np.maximum(np.linalg.norm(momentum, axis=1, keepdims=True), 1e-12)
    electron = photons.changed(energy=photons.energy - energy, direction=momentum, charge=_charge(photons, -1))
    return photons.changed(energy=energy, direction=turned), electron


def _pair(rng: np.random.Generator, photons: _Particles) -> tuple[_Particles, _Particles]:
    """Electron and positron. Their angles are u·m/E with the distribution of u that Geant4 takes (Tsai's, simplified
    by Urbán: a sum of exponentials in pairs)."""
    available = photons.energy - 2 * c.ELECTRON_MASS
    share = xs.draw_pair_share(rng, len(photons))
    both = []
    for energy, charge in ((share * available, -1), ((1 - share) * available, 1)):
        slope = np.where(rng.random(len(photons)) < 0.25, 0.625, 1.875)
        u = -np.log(rng.random(len(photons)) * rng.random(len(photons))) / slope
        angle = np.minimum(u * c.ELECTRON_MASS / (energy + c.ELECTRON_MASS), np.pi)
        direction = _turn(rng, photons.direction, np.cos(angle))
        both.append(photons.changed(energy=energy, direction=direction, charge=_charge(photons, charge)))
    return both[0], both[1]


def _stop(rng: np.random.Generator, electrons: _Particles, losses: list[Steps]) -> _Particles:
    """Follow electrons and positrons to their end; the photons they leave."""
    photons = []
    while len(electrons):
        slow = electrons.energy < ELECTRON_CUT
        ended = electrons.take(slow)
        _deposit(losses, ended, ended.energy)
        photons += _annihilate(rng, ended.take(ended.charge > 0))
        electrons = electrons.take(~slow)
        loss_rate = xs.stopping_power(electrons.energy)
        loss_rate += xs.radiation_factor(electrons.energy + c.ELECTRON_MASS) * 4 / 3 * PHOTON_CUT / c.X0
        step = np.minimum(LARGEST_STEP, np.maximum(0.2 * electrons.energy / loss_rate, 0.01))
        with np.errstate(divide="ignore"):
            free = rng.exponential(1 / xs.radiation_rate(electrons.energy, PHOTON_CUT))
        radiates = free < step
        step = np.where(radiates, free, step)
        loss = np.minimum(loss_rate * step, electrons.energy)
        middle = electrons.changed(
            position=electrons.position + 0.5 * step[:, None] * electrons.direction,
            time=electrons.time + 0.5 * step / c.LIGHT_SPEED,
        )
        _deposit(losses, middle, loss)
        width = xs.scattering_angle(electrons.energy, step)
        angle = width * np.sqrt(-2 * np.log(1 - rng.random(len(electrons))))
        electrons = electrons.changed(
            position=electrons.position + step[:, None] * electrons.direction,
            time=electrons.time + step / c.LIGHT_SPEED,
            direction=_turn(rng, electrons.direction, np.cos(np.minimum(angle, np.pi))),
            energy=electrons.energy - loss,
        )
        radiates &= electrons.energy > PHOTON_CUT
        radiated = np.zeros(len(electrons))
        radiated[radiates] = electrons.energy[radiates] * xs.draw_radiated_share(
            rng, PHOTON_CUT / electrons.energy[radiates]
        )
        emitted = electrons.take(radiates)
        photons.append(emitted.changed(energy=radiated[radiates], charge=_charge(emitted, 0)))
        electrons = electrons.changed(energy=electrons.energy - radiated)
    return _join(photons)


def _annihilate(rng: np.random.Generator, positrons: _Particles) -> list[_Particles]:
    direction = rng.standard_normal((len(positrons), 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    energy = np.full(len(positrons), c.ELECTRON_MASS)
    neutral = positrons.changed(energy=energy, charge=_charge(positrons, 0))
    return [neutral.changed(direction=direction), neutral.changed(direction=-direction)]


def _deposit(losses: list[Steps], where: _Particles, energy: Floats) -> None:
    losses.append(Steps(where.shower, where.position, energy, where.time))


def _charge(particles: _Particles, value: int) -> NDArray[np.int8]:
    return np.full(len(particles), value, dtype=np.int8)


def _join(parts: list[_Particles]) -> _Particles:
    return _Particles(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(_Particles)})


def _turn(rng: np.random.Generator, direction: Floats, cosine: Floats) -> Floats:
    """Directions turned by an angle of the given cosine, about a random azimuth."""
    helper = np.where(np.abs(direction[:, 2:3]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(helper, direction)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(direction, first)
    azimuth = rng.uniform(0, 2 * np.pi, len(direction))
    sine = np.sqrt(np.clip(1 - cosine**2, 0, 1))
    turned = cosine[:, None] * direction + (sine * np.cos(azimuth))[:, None] * first
    turned += (sine * np.sin(azimuth))[:, None] * second
    return np.asarray(turned / np.linalg.norm(turned, axis=1, keepdims=True))
