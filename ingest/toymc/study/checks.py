"""Every ingredient of the toy against an independent, slower computation. The rows go into the documentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.toymc import cascade, crosssections, tracing
from ingest.toymc import constants as c
from ingest.toymc.counts import poisson
from ingest.toymc.direct import DirectLight
from ingest.toymc.fresnel import into_quartz, into_silicon
from ingest.toymc.library import N_DEPOSITS
from ingest.toymc.light import LightModel, light_model
from ingest.toymc.likelihood import expectation
from ingest.toymc.response import Response, detect, per_kind
from ingest.toymc.shower import Deposits
from ingest.toymc.source import mean_free_path
from shards import geometry as geo

Floats = NDArray[np.float64]

TRACED_AT = ((0.0, 0.0, 2.0), (0.0, 0.0, 9.0), (15.0, 35.0, 5.0), (-20.0, -55.0, 12.0), (5.0, -20.0, 25.0))
"""u, v, w [cm] of the points where light is traced."""
BLOCK_ROWS, BLOCK_COLUMNS = 6, 4


@dataclass(frozen=True)
class Check:
    """One comparison."""

    ingredient: str
    against: str
    """The independent computation."""
    expected: str
    found: str
    good: bool


@dataclass(frozen=True)
class Traced:
    """Light at a few points, traced and as the generator has it; arrays (points, 4760), shares of emitted photons."""

    direct: Floats
    scattered: Floats
    direct_hits: NDArray[np.int64]
    scattered_hits: NDArray[np.int64]
    model_direct: Floats
    model_all: Floats


def trace_light(rng: np.random.Generator, photons: int) -> Traced:
    """Trace `photons` from each of `TRACED_AT` and evaluate the generator's formulas there."""
    uvw = np.array(TRACED_AT)
    points = geo.xyz_from_uvw(uvw)
    n = len(points)
    sums = np.zeros((4, n, geo.N_SENSORS))
    for start in range(0, photons, 200_000):
        hits, _ = tracing.trace(rng, points, min(200_000, photons - start))
        for k, chosen in enumerate((hits.scatterings == 0, hits.scatterings > 0)):
            index = hits.source[chosen] * geo.N_SENSORS + hits.channel[chosen]
            sums[k] += np.bincount(index, hits.weight[chosen], n * geo.N_SENSORS).reshape(n, -1) / photons
            sums[k + 2] += np.bincount(index, minlength=n * geo.N_SENSORS).reshape(n, -1)
    repeated = np.repeat(points[:, None], N_DEPOSITS, axis=1).astype(np.float32)
    energy = np.zeros((n, N_DEPOSITS), dtype=np.float32)
    energy[:, 0] = 1
    everything, _ = light_model(None).light(Deposits(repeated, energy, np.zeros_like(energy)), np.ones(n))
    direct = np.zeros((n, geo.N_SENSORS))
    for share in DirectLight(geo.nominal(), n).shares(points.astype(np.float32)):
        direct[:, share.sensors] = share.light
    hits_direct, hits_scattered = sums[2].astype(np.int64), sums[3].astype(np.int64)
    return Traced(sums[0], sums[1], hits_direct, hits_scattered, direct, everything.astype(np.float64))


def check_light(traced: Traced) -> list[Check]:
    """Direct and scattered light per face and per block of 6×4 SiPMs."""
    checks = []
    scattered = traced.model_all - traced.model_direct
    for name, model, truth, hits in (
        ("direct", traced.model_direct, traced.direct, traced.direct_hits),
        ("scattered", scattered, traced.scattered, traced.scattered_hits),
    ):
        limit = 0.01 if name == "direct" else 0.05
        faces = geo.nominal().face
        ratios: list[float] = []
        beyond: list[float] = []
        for face in range(6):
            counts = hits[:, faces == face].sum(axis=1)
            seen = counts > 3000
            sums = [x[seen][:, faces == face].sum(axis=1) for x in (model, truth)]
            ratios += (sums[0] / sums[1]).tolist()
            beyond += (np.abs(sums[0] / sums[1] - 1) - 3 / np.sqrt(counts[seen])).tolist()
        text = f"{np.mean(ratios):.3f}, each {min(ratios):.3f}…{max(ratios):.3f} ({len(ratios)} pairs)"
        checks.append(Check(f"{name} light, faces", "photon tracing, 5 points", "1", text, max(beyond) < limit))
        spread, noise = block_spread(model, truth, hits)
        own = float(np.sqrt(max(spread**2 - noise**2, 0)))
        text = f"{100 * own:.1f} % rms beyond statistics ({100 * noise:.1f} %)"
        checks.append(Check(f"{name} light, blocks of 6×4 SiPMs", "the same", "0", text, own < limit + noise / 4))
    return checks


def block_spread(model: Floats, truth: Floats, hits: NDArray[np.int64]) -> tuple[float, float]:
    """Rms of model/truth − 1 over the blocks of the inner face, weighted by their light, and its statistical part."""
    blocks = [into_blocks(x) for x in (model, truth, hits.astype(np.float64))]
    weight = blocks[1] / blocks[1].sum()
    ratio = blocks[0] / np.maximum(blocks[1], 1e-12) - 1
    spread = np.sqrt((weight * ratio**2).sum())
    return float(spread), float(np.sqrt((weight / np.maximum(blocks[2], 1)).sum()))


def into_blocks(values: Floats) -> Floats:
    """Sums over blocks of 6×4 SiPMs: (n, 4760) → (n, 176); the last block row is 3 high."""
    rows, columns = geo.face_grid("inner").shape
    inner = values[:, geo.face_grid("inner")]
    by_row = np.add.reduceat(inner, np.arange(0, rows, BLOCK_ROWS), axis=1)
    return np.add.reduceat(by_row, np.arange(0, columns, BLOCK_COLUMNS), axis=2).reshape(len(values), -1)


def check_shares(rng: np.random.Generator) -> Check:
    """The fast share of direct light against exact solid angles and Fresnel's equations in float64."""
    uvw = np.stack([rng.uniform(-30, 30, 800), rng.uniform(-68, 68, 800), rng.exponential(6.0, 800) + 0.3], axis=1)
    points = geo.xyz_from_uvw(uvw[: 8 * (len(uvw) // 8)])
    points = points[geo.inside(points)]
    points = points[: 8 * (len(points) // 8)]
    direct, fast = DirectLight(geo.nominal(), 8), np.empty((len(points), geo.N_SENSORS))
    for start in range(0, len(points), 8):
        for share in direct.shares(points[start : start + 8].astype(np.float32)):
            fast[start : start + 8, share.sensors] = share.light
    x, y, height = geo.local_coordinates(points)
    distance = np.sqrt(x * x + y * y + height * height)
    cosine = np.maximum(height / distance, 0)
    entering = np.where(np.arange(geo.N_SENSORS) < geo.N_SIPM, into_silicon(cosine), into_quartz(cosine))
    exact = geo.solid_angle(points, sipm="square") / (4 * np.pi) * entering * np.exp(-distance / c.EXTINCTION_LENGTH)
    counted = (distance[:, : geo.N_SIPM] > 3) & (exact[:, : geo.N_SIPM] > 1e-7)
    ratio = fast[:, : geo.N_SIPM][counted] / exact[:, : geo.N_SIPM][counted] - 1
    found = f"{100 * ratio.std():.2f} % rms, {100 * np.abs(ratio).max():.1f} % at most (grazing)"
    against = "exact solid angle × Fresnel × absorption, float64"
    return Check("direct light beyond 3 cm", against, "0", found, bool(ratio.std() < 0.003))


def check_counts(rng: np.random.Generator) -> list[Check]:
    """Poisson counts, and charge with excess noise and baseline noise."""
    checks = []
    for mean in (0.3, 3.0, 8.0, 15.0, 200.0):
        counts = poisson(rng, np.full(400_000, mean, dtype=np.float32)).astype(np.float64)
        ratio, pull = counts.var() / mean, (counts.mean() - mean) / np.sqrt(mean / len(counts))
        text = f"variance/mean {ratio:.3f}, mean off by {pull:+.1f} standard errors"
        good = abs(ratio - 1) < 0.012 and abs(pull) < 4
        checks.append(Check(f"Poisson counts, mean {mean:g}", "variance = mean", "1", text, bool(good)))
    quiet = Response(per_kind(1, 1), per_kind(1, 1), per_kind(0, 0), np.zeros(geo.N_SENSORS, dtype=bool))
    for mean in (5.0, 100.0):
        light = np.full((400, geo.N_SENSORS), mean, dtype=np.float32)
        charge, _ = detect(rng, light, np.zeros_like(light), quiet, saturation=False)
        for name, part, excess, noise in (
            ("SiPM", slice(0, geo.N_SIPM), c.EXCESS_SIPM, c.NOISE_SIPM),
            ("PMT", slice(geo.N_SIPM, None), c.EXCESS_PMT, c.NOISE_PMT),
        ):
            expected, found = excess * mean + noise**2, float(charge[:, part].astype(np.float64).var())
            good = abs(found / expected - 1) < 0.02
            name = f"charge, {name}, {mean:g} photoelectrons"
            checks.append(Check(name, "F·µ + noise²", f"{expected:.2f}", f"{found:.2f}", bool(good)))
    return checks


def check_times(rng: np.random.Generator) -> list[Check]:
    """Spread of sensor times against the formula and 9.5 ns/√N."""
    checks = []
    quiet = Response(per_kind(1, 1), per_kind(1, 1), per_kind(0, 0), np.zeros(geo.N_SENSORS, dtype=bool))
    for mean in (50.0, 500.0, 5000.0):
        light = np.full((100, geo.N_SENSORS), mean, dtype=np.float32)
        _, time = detect(rng, light, np.zeros_like(light), quiet, saturation=False)
        found = float(time[:, : geo.N_SIPM].std())
        rough = np.sqrt((9.5 / np.sqrt(mean)) ** 2 + c.TIME_JITTER**2 + (c.TIME_NOISE / mean) ** 2)
        name, text = f"sensor time, {mean:g} photoelectrons", f"{found:.3f} ns"
        good = bool(abs(found / rough - 1) < 0.04)
        checks.append(Check(name, "9.5 ns/√N ⊕ 0.1 ns ⊕ 8 ns/N", f"{rough:.3f} ns", text, good))
    return checks


def check_showers(rng: np.random.Generator) -> list[Check]:
    """Cross sections and the shower at 52.8 MeV against what is known of them, and 8 deposits against all steps."""
    checks = []
    for energy, expected in ((15.0, 7.5), (30.0, 6.2), (52.8, 5.5), (83.0, 5.0)):
        used = float(mean_free_path(np.array(energy)))
        found = float(crosssections.mean_free_path(np.array([energy]))[0])
        text, good = f"{used:.2f} cm used, {found:.2f} cm in the shower", abs(found / expected - 1) < 0.05
        checks.append(Check(f"mean free path, {energy:g} MeV", "specification", f"{expected} cm", text, bool(good)))
    n = 4000
    steps = cascade.simulate(rng, np.full(n, c.SIGNAL_ENERGY))
    centre = np.stack([np.bincount(steps.shower, steps.energy * x, n) for x in steps.position.T], axis=1)
    depth, lateral = centre[:, 2] / c.SIGNAL_ENERGY, centre[:, 0] / c.SIGNAL_ENERGY
    far = np.linalg.norm(steps.position, axis=1) > 10
    for name, wanted, value, unit, scale in (
        ("energy centroid behind the first interaction, mean", 6.3, depth.mean(), "cm", 1),
        ("… its median", 5.5, np.median(depth), "cm", 1),
        ("… its rms", 3.0, depth.std(), "cm", 1),
        ("lateral rms of the centroid, per axis", 1.5, lateral.std(), "cm", 1),
        ("energy beyond 10 cm", 24, steps.energy[far].sum() / steps.energy.sum(), "%", 100),
    ):
        good = abs(scale * value / wanted - 1) < 0.1
        checks.append(Check(name, "specification", f"{wanted} {unit}", f"{scale * value:.2f} {unit}", bool(good)))
    return [*checks, *(check_reduction(rng, depth) for depth in (1.0, 4.0, 8.0))]


def check_reduction(rng: np.random.Generator, depth: float, n: int = 40) -> Check:
    """Light of 8 deposits against light of all steps, for first interactions at one depth [cm]."""
    steps = cascade.simulate(rng, np.full(n, c.SIGNAL_ENERGY))
    first = geo.xyz_from_uvw(np.array([0.0, 0.0, depth]))
    along_x = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    model, brightest, bright = light_model(None), [], []
    for shower in range(n):
        mine = steps.shower == shower
        position, energy = steps.position[mine], steps.energy[mine]
        few, shares = cascade.reduce(rng, position, energy, N_DEPOSITS)
        full = _light_of(model, position @ along_x + first, energy)
        order = np.argsort(-full)[:100]
        ratio = _light_of(model, few @ along_x + first, shares * energy.sum())[order] / full[order] - 1
        brightest.append(ratio[0])
        bright.append(ratio)
    text = (
        f"{100 * np.std(bright):.1f} % rms on the 100 brightest sensors; "
        f"brightest {100 * np.median(brightest):+.0f} % (median)"
    )
    good = bool(np.std(bright) < 0.12 and abs(np.median(brightest)) < 0.15)
    return Check(f"8 deposits, first interaction at {depth:g} cm", "light of all 250 steps", "0", text, good)


def _light_of(model: LightModel, points: Floats, energy: Floats) -> Floats:
    """Photons at the sensors (4760,) of any number of deposits, eight at a time."""
    energy = np.where(geo.inside(points), energy, 0)
    groups = -(-len(points) // N_DEPOSITS)
    padded = np.tile(points[:1], (groups * N_DEPOSITS, 1))
    padded[: len(points)] = points
    amounts = np.zeros(groups * N_DEPOSITS)
    amounts[: len(points)] = energy
    shape = (groups, N_DEPOSITS)
    deposits = Deposits(
        padded.reshape(*shape, 3).astype(np.float32),
        amounts.reshape(shape).astype(np.float32),
        np.zeros(shape, dtype=np.float32),
    )
    return np.asarray(model.light(deposits, np.ones(groups))[0].sum(axis=0, dtype=np.float64))


def check_linearity() -> Check:
    """Expected light is proportional to the energy of a given shower."""
    one = expectation([[3.0, 10.0, 4.0]], 20.0, shower=5000).astype(np.float64)
    three = expectation([[3.0, 10.0, 4.0]], 60.0, shower=5000).astype(np.float64)
    worst = float(np.abs(three / one / 3 - 1).max())
    return Check("energy linearity, one shower", "µ(3E) = 3µ(E)", "0", f"{worst:.1e} at most", worst < 1e-5)


def all_checks(seed: int = 3, photons: int = 2_000_000) -> tuple[list[Check], Traced]:
    """Every check, and the traced light for the pictures."""
    rng = np.random.default_rng(seed)
    traced = trace_light(rng, photons)
    checks = [check_shares(rng), *check_light(traced), *check_counts(rng), *check_times(rng)]
    return [*checks, *check_showers(rng), check_linearity()], traced
