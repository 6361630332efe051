"""The response of each channel, from the data alone: what it shows over what its neighbours lead to expect.

Every sensor of every event is left out once and filled from its neighbours, weighted by solid angles from the fitted
light: its ring on the inner face, all within 20 cm where sensors are few and slow changes over a face would stay open.
The ratio of the sums, seen over filled, is the channel's response over its neighbours', and differs from 1 also by
what the filling gets wrong there, which a reference (simulated events) takes out. A channel's response moves its
neighbours' expectations, too, a dead one's most of all: all channels are solved for together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, diags_array, identity, vstack
from scipy.sparse.linalg import splu

from shards import geometry as geo
from shards.base import InputError, locked, progress, publish_json, published
from shards.normalization import Normalization
from xectrain.baselines import RawEvents
from xectrain.baselines.inpainting import NEAR_CM, light_of
from xectrain.evaluation.channels_report import write_report
from xectrain.evaluation.plots import save_pages
from xectrain.evaluation.plots.channels import channel_pages
from xectrain.evaluation.results import CHANNEL_STATES, ChannelResponse
from xectrain.inference.sources import Part, ReadOptions, Wanted
from xectrain.localfit import STATISTICS
from xectrain.metrics import half_width_68

Array = NDArray[np.float64]

LEAST_PHOTONS = 20.0
"""Expected photons from which a sensor's reading counts: below, noise decides."""
SHAPE, STEEP = 0.03, 2.0
"""Relative variance of a filling where there is light enough: SHAPE² at least, and STEEP times that of the neighbours'
light per solid angle beyond its statistics. With the sensor's own statistics it decides what an event weighs: one whose
shower is near says little of a channel, and its tail would outweigh the many that say much."""
LEAST_PRIOR, NO_PRIOR = 0.02, 1.0
"""Smallest spread of the responses' logarithms that is assumed, and that of channels far beyond the usual."""
DEAD, WEAK, HOT, DRIFT = 0.05, 0.7, 1.4, 0.03
"""Response below which a channel is dead or weak, above which it is hot; change between runs that is a drift."""
SIGNIFICANT = 4.5
"""Errors that a drift must exceed, so that none of some ten thousand channels and runs does by chance."""
STEPS = 4
"""Of Newton's method: neighbours add up, their logarithms do not."""
DRAWS = 200
"""Noise that is drawn to see how it moves the solution: enough for its spread to 5 %."""
REFERENCE = 3
"""Factor by which the reference has more events, so that its statistics add little."""
BATCH = 256


@dataclass(frozen=True, eq=False)
class ChannelSums:
    """Sums over one run's events, arrays (4760,) unless stated."""

    events: int
    seen: Array
    """Weighted sum of the photons of a channel, over the events in which its neighbours expect some."""
    expected: Array
    """The same sum of what its neighbours expect."""
    squares: Array
    """(3, 4760): sums of seen², seen · expected and expected², from which the scatter about any ratio follows."""
    shares: Array
    """(pairs of `neighbours`,): how much of a channel's expectation would come from each neighbour, were all
    calibrated."""

    def __add__(self, other: ChannelSums) -> ChannelSums:
        return ChannelSums(
            self.events + other.events,
            *(getattr(self, n) + getattr(other, n) for n in ("seen", "expected", "squares", "shares")),
        )

    @property
    def ratio(self) -> Array:
        """Seen over expected; NaN where nothing was expected."""
        return np.divide(self.seen, self.expected, out=np.full_like(self.seen, np.nan), where=self.expected > 0)

    @property
    def error(self) -> Array:
        """Of the ratio, from the scatter of the events."""
        ratio = self.ratio
        scatter = self.squares[0] - 2 * ratio * self.squares[1] + ratio**2 * self.squares[2]
        wide = np.full_like(self.seen, np.nan)
        return np.asarray(np.divide(np.sqrt(np.maximum(scatter, 0)), self.expected, out=wide, where=self.expected > 0))


def sums_of(events: RawEvents) -> ChannelSums:
    """The sums over some events."""
    npho = events.npho.astype(np.float64)
    good = ~np.isnan(npho)
    light = light_of(npho)
    near = neighbours()
    photons, omega = np.where(good, npho, 0.0), np.where(good, light, 0.0)
    squares = np.divide(photons**2, omega, out=np.zeros_like(omega), where=omega > 0)
    summed = (omega, photons, squares, (omega > 0).astype(np.float64))
    around, lit, squared, count = (np.ascontiguousarray((near @ values.T).T) for values in summed)
    share = np.divide(light, around, out=np.zeros_like(light), where=around > 0)
    expected = share * lit
    use = good & (expected >= LEAST_PHOTONS)
    uneven = _unevenness(around, lit, squared, count)
    weight = np.where(use, 1.0 / (STATISTICS + (SHAPE**2 + STEEP * uneven) * np.maximum(expected, 0.0)), 0.0)
    expected, seen = weight * expected, weight * np.nan_to_num(npho)
    part = np.divide(expected, around, out=np.zeros_like(light), where=around > 0)
    rows, columns = _pairs()
    shares = np.zeros(len(rows))
    for part_N, omega_N in zip(part, omega, strict=True):
        shares += part_N[rows] * omega_N[columns]
    squares = np.stack([(seen**2).sum(axis=0), (seen * expected).sum(axis=0), (expected**2).sum(axis=0)])
    return ChannelSums(len(npho), seen.sum(axis=0), expected.sum(axis=0), squares, shares)


@lru_cache
def neighbours() -> csr_array:
    """1 where a sensor (column) tells what another (row) should see, (4760, 4760)."""
    lists = (geo.ring(), geo.within(NEAR_CM))
    ring, near = (csr_array((np.ones(len(one.channels)), one.channels, one.start)) for one in lists)
    return csr_array(vstack([ring[: geo.N_SIPM], near[geo.N_SIPM :]]))


def _pairs() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row, column) of each pair of `neighbours`."""
    rows = np.repeat(np.arange(geo.N_SENSORS), np.diff(neighbours().indptr))
    return rows, neighbours().indices.astype(np.int64)


def _unevenness(around: Array, lit: Array, squared: Array, count: Array) -> Array:
    """Relative variance of the light per solid angle over the neighbours, beyond photon statistics, (n, 4760).

    Args:
        around, lit, squared: sums over the neighbours of ω, n and n²/ω.
        count: of its sensors.
    """
    mean = np.divide(lit, around, out=np.zeros_like(lit), where=around > 0)
    variance = np.divide(squared, around, out=np.zeros_like(lit), where=around > 0) - mean**2
    relative = np.divide(variance, mean**2, out=np.ones_like(lit), where=mean > 0)
    return np.asarray(np.maximum(relative - STATISTICS * count / np.maximum(lit, 1.0), 0.0))


def solve(sums: ChannelSums, reference: ChannelSums | None = None) -> tuple[Array, Array]:
    """Response of each channel and its error, NaN where nothing was expected.

    The error is that of the solution: the ratios' own errors, statistics of the reference included, carried through the
    system that ties a channel to its neighbours, and what the data leave open.

    Args:
        reference: of a sample with well-calibrated channels; None: the filling is taken as right everywhere.
    """
    ratio = sums.ratio / (1.0 if reference is None else reference.ratio)
    usable = np.isfinite(ratio) & (ratio > DEAD) & (sums.error > 0)
    relative = sums.error / np.where(usable, sums.ratio, 1.0)
    if reference is not None:
        relative = np.hypot(relative, reference.error / np.where(usable, reference.ratio, 1.0))
    error = np.where(usable, relative, np.inf)
    logarithm = np.log(np.where(usable, ratio, 1.0))
    prior = _prior(logarithm, error, usable)
    scale = diags_array(np.where(usable, 1 / np.where(usable, error, 1.0), 0.0))
    fixed = np.where(np.isfinite(ratio), np.maximum(ratio, 0.0), 1.0)  # of channels that are not solved for: dead ones
    share = csr_array((sums.shares, neighbours().indices, neighbours().indptr), shape=neighbours().shape)
    lit = np.maximum(np.ravel(share.sum(axis=1)), 1e-300)
    x = np.zeros(geo.N_SENSORS)
    for _ in range(STEPS):
        response = np.where(usable, np.exp(x), fixed)
        total: Array = np.maximum(np.asarray(share @ response), 1e-300)
        around = diags_array(1 / total) @ share @ diags_array(np.where(usable, response, 0.0))
        design = csc_array(vstack([scale @ (identity(geo.N_SENSORS) - around), diags_array(1 / prior)]))
        target = np.concatenate([scale @ (logarithm - x + np.log(total / lit)), -x / prior])
        normal = splu(csc_array(design.T @ design))
        x = x + normal.solve(np.asarray(design.T @ target))
    found = np.exp(x)
    noise = np.random.default_rng(0).normal(size=(len(target), DRAWS))
    spread = normal.solve(np.asarray(design.T @ noise)).std(axis=1)
    found = np.where(usable, found, np.where(np.isfinite(ratio), ratio, np.nan))
    return found, np.where(usable, spread * found, np.nan)


def _prior(logarithm: Array, error: Array, usable: NDArray[np.bool_]) -> Array:
    """How far from 1 each channel may be, as a spread (4760,): as far as the channels are beyond their errors.

    It decides what the data leave open (the mean; slow changes over a face), and keeps noise out of the rest.
    """
    if not usable.any():
        return np.full(geo.N_SENSORS, LEAST_PRIOR)
    spread = half_width_68(np.sort(logarithm[usable]))
    usual = max(float(np.sqrt(max(spread**2 - np.median(error[usable]) ** 2, 0.0))), LEAST_PRIOR)
    far = usable & (np.abs(logarithm) > 4 * np.hypot(usual, error))
    return np.where(far, NO_PRIOR, usual)


def study_channels(
    parts: Sequence[Part],
    folder: Path,
    settings: ReadOptions,
    norm: Normalization,
    reference: Sequence[Part] = (),
    max_events: int = 10_000,
) -> list[ChannelResponse]:
    """Write `channels.csv` (run, sensor, response, error, state), its JSON, plots and `report.html` into `folder`.

    Args:
        norm: decides what counts as bad in raw sensors.
        reference: events with well-calibrated channels and similar light, e.g. simulated ones.
        max_events: of the data; of the reference `REFERENCE` times as many.

    Raises:
        InputError: no events.
    """
    with locked(folder / ".lock", f"studying channels into {folder}"):
        right: ChannelSums | None = None
        if reference:
            total = list(_by_run(reference, settings, norm, REFERENCE * max_events, "reference").values())
            right = sum(total[1:], total[0])
        by_run = _by_run(parts, settings, norm, max_events, "channels")
        solved = {run: solve(sums, right) for run, sums in by_run.items()}
        found = [
            ChannelResponse(run, by_run[run].events, *solved[run], _states(run, by_run[run], solved)) for run in by_run
        ]
        with published(folder / "channels.csv") as part:
            _table(found).write_csv(part)
        pages = save_pages(channel_pages(found), folder / "channels.pdf")[1:]
        data, right_data = ([part.name for part in some] for some in (parts, reference))
        write_report(found, data, right_data, pages, folder / "report.html")
        publish_json(folder / "channels.json", as_json(found))
        return found


def _by_run(
    parts: Sequence[Part], settings: ReadOptions, norm: Normalization, max_events: int, name: str
) -> dict[int, ChannelSums]:
    sums: dict[int, ChannelSums] = {}
    done = 0
    with progress(name, min(max_events, sum(part.events for part in parts))) as bar:
        for events in _first(parts, Wanted(BATCH, "cpu", norm), settings, norm, max_events):
            runs = np.nan_to_num(events.columns.get("run", np.zeros(len(events))), nan=-1).astype(np.int64)
            for run in np.unique(runs).tolist():
                own = runs == run
                some = sums_of(RawEvents(events.npho[own], events.time[own], {}))
                sums[run] = sums[run] + some if run in sums else some
            done += len(events)
            bar.advance(len(events))
    if not sums:
        raise InputError("no events are left to study", file=parts[0].name, found=settings.select)
    return dict(sorted(sums.items()))


def _first(
    parts: Sequence[Part], wanted: Wanted, settings: ReadOptions, norm: Normalization, count: int
) -> Iterator[RawEvents]:
    """The first events of some parts, in chunks."""
    for part in parts:
        for chunk in part.read(wanted, settings):
            for some in chunk[:count].batches(BATCH):
                yield some.photons(norm)
            count -= len(chunk)
            if count <= 0:
                return


def _states(run: int, sums: ChannelSums, solved: Mapping[int, tuple[Array, Array]]) -> tuple[str, ...]:
    """The state of each channel in a run."""
    response, error = solved[run]
    others = [found for other, (found, _) in solved.items() if other != run]
    drift = np.zeros_like(response)
    if others:
        known = np.array(others)
        usual = np.nanmedian(np.where(np.isnan(known).all(axis=0), 1.0, known), axis=0)
        drift = np.abs(response - usual)
    told = np.full(geo.N_SENSORS, "", dtype="<U8")
    told[(drift > DRIFT) & (drift > SIGNIFICANT * error)] = "drifting"
    told[response < WEAK], told[response > HOT] = "weak", "hot"
    told[(response < DEAD) | ((sums.expected > 0) & (sums.seen <= 0))] = "dead"
    told[np.isnan(response)] = "unknown"
    return tuple(told.tolist())


def _table(found: Sequence[ChannelResponse]) -> pl.DataFrame:
    """A row per run and channel."""
    return pl.concat(
        [
            pl.DataFrame(
                {
                    "run_first": np.full(geo.N_SENSORS, one.run),
                    "run_last": np.full(geo.N_SENSORS, one.run),
                    "sensor": np.arange(geo.N_SENSORS),
                    "response": np.round(one.response, 5),
                    "error": np.round(one.error, 5),
                    "state": list(one.state),
                }
            )
            for one in found
        ]
    )


def as_json(found: Sequence[ChannelResponse]) -> dict[str, object]:
    """By run: events, spread of the responses, and the channels of each state."""
    return {
        str(one.run): {
            "events": one.events,
            "spread": float(np.nanstd(one.response)),
            "median_error": float(np.nanmedian(one.error)),
            **{state: [s for s, told in enumerate(one.state) if told == state] for state in CHANNEL_STATES},
        }
        for one in found
    }
