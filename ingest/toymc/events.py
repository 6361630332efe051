"""Events: source, shower, light, sensors, put together in blocks that depend on nothing but (seed, run, block)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.toymc import constants as c
from ingest.toymc.light import LightModel, light_model
from ingest.toymc.options import ToyOptions
from ingest.toymc.response import Response, detect, draw_response
from ingest.toymc.shower import Deposits, draw_deposits
from ingest.toymc.source import (
    BGO_RESOLUTION,
    GSTATUS_SHARES,
    OPENING_RESOLUTION,
    PATCHES,
    Gammas,
    draw_energy,
    draw_gammas,
    emission_angles,
    opening_angle,
)
from shards import geometry as geo

Floats = NDArray[np.float32]

BLOCK = 128
"""Events drawn from one seed."""
PILEUP_ENERGY = (10.0, 52.0)
"""Further gammas have a spectrum ∝ 1/E between these limits [MeV], roughly that of the muon beam's background."""
PILEUP_WINDOW = 50.0
"""… and come within ± this many ns."""
_ROWS = 8


@dataclass(frozen=True)
class ToyEvents:
    """n simulated events, as the branches of a file."""

    npho: Floats
    """float32 (n, 4760), photons at the sensors."""
    time: Floats
    """float32 (n, 4760), s, 1e10 where there is none."""
    relative_time: Floats
    """float32 (n, 4760), s, `time` − `time_min_used`."""
    columns: dict[str, NDArray[np.generic]]
    """Every other branch by name: (n,) or (n, 2 or 3), float64 or int32, units as in the input trees."""
    dead: NDArray[np.bool_]
    """bool (n, 4760): channels that are dead in the event's run."""
    expected: Floats | None = None
    """float32 (n, 4760), expectation of npho, if asked for."""

    def __len__(self) -> int:
        return len(self.npho)

    def branches(self) -> dict[str, NDArray[np.generic]]:
        """Everything that is written, by branch name."""
        sensors: dict[str, NDArray[np.generic]] = {
            "npho": self.npho,
            "time": self.time,
            "relative_time": self.relative_time,
        }
        if self.expected is not None:
            sensors["npho_expected"] = self.expected
        return sensors | self.columns


@dataclass(frozen=True)
class Block:
    """A piece of a run that is generated in one go."""

    run: int
    index: int
    """Number of the block in its run."""
    first_event: int
    count: int
    run_events: int
    """Events of the whole run."""


def plan(n: int, options: ToyOptions) -> list[Block]:
    """The blocks of `n` events spread evenly over the runs."""
    blocks = []
    for position in range(options.runs):
        events = n // options.runs + (position < n % options.runs)
        blocks += [
            Block(options.first_run + position, index, start, min(BLOCK, events - start), events)
            for index, start in enumerate(range(0, events, BLOCK))
        ]
    return blocks


def generate(n: int, options: ToyOptions | None = None) -> ToyEvents:
    """Simulate `n` events in memory (some 60 kB each).

    Args:
        n: number of events.
        options: what to simulate; signal events if not given.
    """
    options = options or ToyOptions()
    return join([generate_block(block, options) for block in plan(n, options)] or [_empty(options)])


def iterate(n: int, options: ToyOptions) -> Iterator[ToyEvents]:
    """The same events as `generate`, block by block in bounded memory."""
    for block in plan(n, options):
        yield generate_block(block, options)


def join(parts: list[ToyEvents]) -> ToyEvents:
    """Concatenate events."""
    if len(parts) == 1:
        return parts[0]
    expected = [p.expected for p in parts if p.expected is not None]
    return ToyEvents(
        np.concatenate([p.npho for p in parts]),
        np.concatenate([p.time for p in parts]),
        np.concatenate([p.relative_time for p in parts]),
        {name: np.concatenate([p.columns[name] for p in parts]) for name in parts[0].columns},
        np.concatenate([p.dead for p in parts]),
        np.concatenate(expected) if expected else None,
    )


def generate_block(block: Block, options: ToyOptions) -> ToyEvents:
    """Simulate one block; a function of its arguments alone."""
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence([options.seed, block.run, 1, block.index])))
    response = draw_response(block.run, options)
    model = light_model(options.geometry)
    patch = None
    if options.energy == "cex":
        patch = (block.first_event + np.arange(block.count)) * (PATCHES[0] * PATCHES[1]) // block.run_events
    gammas = draw_gammas(rng, draw_energy(rng, block.count, options), options, patch)
    emission = rng.uniform(-c.EMISSION_WINDOW, c.EMISSION_WINDOW, block.count)
    deposits = draw_deposits(rng, gammas)
    scale = np.maximum(1 + options.energy_smear * rng.standard_normal(block.count), 0.1)
    light, arrival = model.light(deposits, scale * c.PHOTONS_PER_MEV)
    arrival += (emission + gammas.flight_time)[:, None].astype(np.float32)
    extra = _add_pileup(rng, light, arrival, options, model)
    columns = _truth(gammas, deposits, emission, extra)
    columns["run"] = np.full(block.count, block.run, dtype=np.int32)
    columns["event"] = np.arange(block.first_event, block.first_event + block.count, dtype=np.int32)
    if patch is not None:
        columns |= _cex_columns(rng, gammas.energy, patch, int(response.dead.sum()))
    return _measure(rng, light, arrival, response, columns, options)


def _add_pileup(
    rng: np.random.Generator, light: Floats, arrival: Floats, options: ToyOptions, model: LightModel
) -> NDArray[np.int64]:
    """Add the light of further gammas in place and return how many each event got, int64 (n,).

    The time of a sensor is that of the earliest gamma that alone gives at least the trigger fraction of its light.
    """
    if not options.pileup:
        return np.zeros(len(light), dtype=np.int64)
    extra = rng.poisson(options.pileup, len(light))
    event = np.repeat(np.arange(len(light)), extra)
    low, high = PILEUP_ENERGY
    energy = low * (high / low) ** rng.random(len(event))
    gammas = draw_gammas(rng, energy, options)
    late = rng.uniform(-PILEUP_WINDOW, PILEUP_WINDOW, len(event)) + gammas.flight_time
    deposits = draw_deposits(rng, gammas)
    for i in range(len(event)):
        one = Deposits(deposits.points[i : i + 1], deposits.energy[i : i + 1], deposits.delay[i : i + 1])
        more, when = model.light(one, np.full(1, c.PHOTONS_PER_MEV))
        when += np.float32(late[i])
        total, first = light[event[i]], arrival[event[i]]
        sum_ = total + more[0]
        threshold = np.float32(c.TRIGGER_FRACTION) * sum_
        new = (more[0] >= threshold) & ((when[0] < first) | (total < threshold))
        first[new] = when[0][new]
        total[:] = sum_
    return extra


def _truth(
    gammas: Gammas, deposits: Deposits, emission: NDArray[np.float64], extra: NDArray[np.int64]
) -> dict[str, NDArray[np.generic]]:
    return {
        "time_min_used": np.empty(0),
        "emiAng": emission_angles(gammas.direction),
        "energyTruth": gammas.energy * 1e-3,
        "energyDep": deposits.contained * 1e-3,
        "nGamma": (1 + extra).astype(np.int32),
        "timeTruth": emission,
        "uvwTruth": geo.uvw_from_xyz(gammas.first),
        "xyzTruth": gammas.first,
        "emiVec": gammas.direction,
        "xyzVTX": gammas.vertex,
    }


def _cex_columns(
    rng: np.random.Generator, energy: NDArray[np.float64], patch: NDArray[np.int64], dead: int
) -> dict[str, NDArray[np.generic]]:
    """The opposite gamma as its calorimeter sees it."""
    n = len(energy)
    status = rng.choice(len(GSTATUS_SHARES), size=n, p=GSTATUS_SHARES)
    measured = (c.PION_ENERGY - energy) * (1 + BGO_RESOLUTION * rng.standard_normal(n))
    measured *= np.where(status >= 2, rng.uniform(0.5, 1.0, n), 1.0)
    angle = opening_angle(energy) + OPENING_RESOLUTION * rng.standard_normal(n)
    return {
        "Ebgo": measured,
        "Angle": np.degrees(np.pi - np.abs(np.pi - angle)),
        "gstatus": status.astype(np.int32),
        "patch": patch.astype(np.int32),
        "nDead": np.full(n, dead, dtype=np.int32),
    }


def _measure(
    rng: np.random.Generator,
    light: Floats,
    arrival: Floats,
    response: Response,
    columns: dict[str, NDArray[np.generic]],
    options: ToyOptions,
) -> ToyEvents:
    """What the sensors and the files make of the light."""
    n = len(light)
    npho, time, relative = np.empty_like(light), np.empty_like(light), np.empty_like(light)
    earliest = np.empty(n)
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        charge, when = detect(rng, light[rows], arrival[rows], response, options.saturation)
        np.divide(charge, response.calibrated, out=npho[rows])
        usable = (charge > c.EARLIEST_CHARGE) & ~response.dead & ~np.isnan(when)
        first = np.where(usable, when, np.float32(np.inf)).min(axis=1)
        earliest[rows] = np.where(np.isfinite(first), first * 1e-9, c.MISSING)
        np.multiply(when, np.float32(1e-9), out=time[rows])
        np.multiply(when - first[:, None], np.float32(1e-9), out=relative[rows])
    for values in (time, relative):
        values[~np.isfinite(values)] = c.MISSING
    _spoil(rng, npho, time, relative, response.dead, options)
    columns["time_min_used"] = earliest
    dead = np.broadcast_to(response.dead, light.shape)
    if options.dead_branch:
        columns["dead"] = dead.astype(np.uint8)
    expected = None
    if options.expected:
        expected = light * (response.efficiency / response.calibrated)
    return ToyEvents(npho, time, relative, columns, dead, expected)


def _spoil(
    rng: np.random.Generator, npho: Floats, time: Floats, relative: Floats, dead: NDArray[np.bool_], options: ToyOptions
) -> None:
    """Mark dead channels and, where asked for, single bad values."""
    mark = np.float32(c.MISSING if options.dead_mark == "missing" else np.nan)
    for values in (npho, time, relative):
        values[:, dead] = mark
    for fraction, value in ((options.nan_fraction, np.nan), (options.missing_fraction, c.MISSING)):
        if fraction:
            for arrays in ([npho], [time, relative]):
                bad = rng.random(npho.shape, dtype=np.float32) < fraction
                for array in arrays:
                    array[bad] = value


def _empty(options: ToyOptions) -> ToyEvents:
    """No events, with every column."""
    one = generate_block(Block(options.first_run, 0, 0, 1, 1), options)
    return ToyEvents(
        one.npho[:0],
        one.time[:0],
        one.relative_time[:0],
        {name: values[:0] for name, values in one.columns.items()},
        one.dead[:0],
        None if one.expected is None else one.expected[:0],
    )
