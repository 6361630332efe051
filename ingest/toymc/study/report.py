"""`xec toymc report`: the documentation page, its numbers and its pictures, from one command."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from numpy.typing import NDArray

from ingest.toymc import constants as c
from ingest.toymc.direct import DirectLight
from ingest.toymc.events import Block, ToyEvents, generate, generate_block
from ingest.toymc.library import N_DEPOSITS, SHOWERS
from ingest.toymc.light import light_model
from ingest.toymc.options import ToyOptions
from ingest.toymc.response import EFFICIENCY, detect, draw_response
from ingest.toymc.scattered import TABLE
from ingest.toymc.shower import draw_deposits
from ingest.toymc.source import draw_gammas
from ingest.toymc.study import checks, pictures
from ingest.toymc.study.limit import CASES, Limit, limits, signal_distance
from shards import geometry as geo
from shards.base import publish_text

TEMPLATE = Path(__file__).parent / "report.md.jinja"
DEPTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 25.0)
TRACED_PHOTONS = 2_000_000


@dataclass(frozen=True)
class Magnitude:
    """An order of magnitude that the specification names."""

    quantity: str
    expected: str
    found: str


def write_report(folder: Path, events: int) -> tuple[Path, list[str]]:
    """Make everything.

    Args:
        folder: for the pictures; the page is `folder`.md, beside it.
        events: how many events the numbers come from.

    Returns:
        The page, and the names of the checks that failed.
    """
    rng = np.random.default_rng(11)
    rows, traced = checks.all_checks(photons=TRACED_PHOTONS)
    rate = measured_rate()
    signal = generate(events, ToyOptions(seed=11, runs=6))
    bounds = [row for case in CASES for row in limits(DEPTHS, case=case)]
    first_depth, centre_depth = depths(rng, 6000)
    samples = {
        "signal": signal,
        "flat": generate(events // 2, ToyOptions(seed=12, energy="flat")),
        "cex": generate(events // 2, ToyOptions(seed=13, energy="cex")),
    }
    pictures.light_map(folder / "light_map.png", traced, TRACED_PHOTONS)
    pictures.scattered(folder / "scattered.png", traced)
    pictures.depth(folder / "depth.png", first_depth, centre_depth)
    pictures.showers(folder / "showers.png", rng)
    pictures.spectra(folder / "spectra.png", samples)
    pictures.times(folder / "times.png", *time_residuals(rng, 64))
    pictures.event(folder / "event.png", signal, _typical(signal))
    pictures.limits(folder / "limits.png", bounds)
    magnitudes = orders_of_magnitude(signal, first_depth, centre_depth, scattered_share(rng, 200))
    text = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined).render(
        checks=rows,
        magnitudes=magnitudes,
        limits=_limit_rows(bounds),
        distance=f"{10 * signal_distance():.2f}",
        rate=rate,
        events=events,
        folder=folder.name,
        showers_kb=round(SHOWERS.stat().st_size / 1e3),
        table_kb=round(TABLE.stat().st_size / 1e3),
    )
    page = folder.with_suffix(".md")
    publish_text(page, text.rstrip("\n") + "\n")
    return page, [f"{row.ingredient} ({row.found})" for row in rows if not row.good]


def orders_of_magnitude(
    events: ToyEvents, first_depth: NDArray[np.float64], centre_depth: NDArray[np.float64], scattered: float
) -> list[Magnitude]:
    """The numbers of the specification at 52.8 MeV in the fiducial volume, expected and found."""
    uvw = np.asarray(events.columns["uvwTruth"], dtype=float)
    inside = geo.in_fiducial(uvw)
    npho = events.npho[inside].astype(np.float64)
    charge = npho * EFFICIENCY
    total, face = charge.sum(axis=1), geo.nominal().face
    parts = [100 * charge[:, np.isin(face, codes)].sum() / total.sum() for codes in ((0,), (1,), (2, 3), (4, 5))]
    return [
        Magnitude("photoelectrons in all", "1.0·10⁵", _power(np.median(total))),
        Magnitude("photons in all", "7.6·10⁵", _power(np.median(npho.sum(axis=1)))),
        *(
            Magnitude(f"share of the {name}", f"{wanted} %", f"{part:.1f} %")
            for name, wanted, part in zip(
                ("inner face", "outer face", "ends", "top and bottom"), (50, 17, 20, 11), parts, strict=True
            )
        ),
        Magnitude("scattered part of all photons", "48 %", f"{100 * scattered:.1f} %"),
        Magnitude("brightest sensor, median", "1.2·10⁴ photons", _power(np.median(npho.max(axis=1)))),
        Magnitude("depth of the first interaction, median", "3.7 cm", f"{np.median(first_depth):.2f} cm"),
        Magnitude("… below 2 cm", "a third", f"{100 * np.mean(first_depth < 2):.1f} %"),
        Magnitude("light's centre deeper by", "5.9 cm", f"{np.mean(centre_depth - first_depth):.2f} cm"),
    ]


def depths(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """w of the first interaction and of the centre of the light, signal events in the fiducial volume, cm."""
    gammas = draw_gammas(rng, np.full(n, c.SIGNAL_ENERGY), ToyOptions())
    deposits = draw_deposits(rng, gammas)
    uvw = geo.uvw_from_xyz(gammas.first)
    inside = geo.in_fiducial(uvw) & (deposits.contained > 0)
    centre = (deposits.points * deposits.energy[..., None]).sum(axis=1)[inside] / deposits.contained[inside, None]
    return uvw[inside, 2], geo.uvw_from_xyz(centre)[:, 2]


def scattered_share(rng: np.random.Generator, n: int) -> float:
    """Part of all expected photons that were scattered, signal events in the fiducial volume."""
    gammas = draw_gammas(rng, np.full(2 * n, c.SIGNAL_ENERGY), ToyOptions())
    uvw = geo.uvw_from_xyz(gammas.first)
    inside = geo.in_fiducial(uvw)
    deposits = draw_deposits(rng, gammas)
    everything = light_model(None).light(deposits, np.ones(2 * n))[0].sum(axis=1, dtype=np.float64)
    direct = np.zeros(2 * n)
    fast = DirectLight(geo.nominal(), N_DEPOSITS)
    for i in np.flatnonzero(inside):
        for share in fast.shares(deposits.points[i]):
            direct[i] += float((deposits.energy[i] @ share.light).sum(dtype=np.float64))
    return float(1 - direct[inside].sum() / everything[inside].sum())


def time_residuals(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Charge [photoelectrons] and time minus arrival of the light [ns] of all sensors of `n` signal events, flat."""
    deposits = draw_deposits(rng, draw_gammas(rng, np.full(n, c.SIGNAL_ENERGY), ToyOptions()))
    light, arrival = light_model(None).light(deposits, np.full(n, c.PHOTONS_PER_MEV))
    charge, when = detect(rng, light, arrival, draw_response(1, ToyOptions()), saturation=False)
    timed = ~np.isnan(when)
    return charge[timed].astype(np.float64), (when - arrival)[timed].astype(np.float64)


def measured_rate() -> float:
    """Signal events per second of processor time on one core, without writing."""
    options = ToyOptions(seed=5)
    generate_block(Block(1, 0, 0, 128, 1280), options)
    started = time.process_time()
    for index in range(1, 6):
        generate_block(Block(1, index, 128 * index, 128, 1280), options)
    return 640 / (time.process_time() - started)


def _limit_rows(bounds: list[Limit]) -> list[list[str]]:
    rows = []
    for depth in DEPTHS:
        row = [f"{depth:g}"]
        for case in CASES:
            one = next(b for b in bounds if b.case == case and b.depth == depth)
            row += [
                f"{10 * one.u:.2f} / {10 * one.v:.2f} / {10 * one.w:.2f}",
                f"{100 * one.energy:.2f}",
                f"{1e3 * one.time:.0f}",
            ]
        rows.append(row)
    return rows


def _typical(events: ToyEvents) -> int:
    """An event in the middle, 4 cm deep."""
    uvw = np.asarray(events.columns["uvwTruth"], dtype=float)
    return int(np.argmin(((uvw - [3.0, 10.0, 4.0]) ** 2).sum(axis=1)))


def _power(value: float) -> str:
    exponent = int(np.floor(np.log10(value)))
    return f"{value / 10**exponent:.2f}·10{str(exponent).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
