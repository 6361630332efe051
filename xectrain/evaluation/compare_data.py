"""Two sets of events beside each other, before any training: spectra, multiplicity and times per face, and a test.

For real data against simulation, or one period against another. Every feature is a number per event; the two-sample
test of Kolmogorov and Smirnov says whether it has the same distribution in both, and which features tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from shards import geometry as geo
from shards.base import InputError, counted, locked, progress, publish_json
from shards.normalization import Normalization
from xectrain.baselines import RawEvents
from xectrain.evaluation.pages import Row, Section, Table, write_page
from xectrain.evaluation.plots import save_pages
from xectrain.evaluation.plots.compare_data import feature_pages, feature_words
from xectrain.evaluation.tables import write_frame
from xectrain.evaluation.wording import digits
from xectrain.inference.sources import Part, ReadOptions, Wanted

Array = NDArray[np.float64]

LEVEL = 1e-3
"""p-value, over all features together, below which samples are called different."""
BRIGHT = 100.0
"""Photons from which a sensor counts as hit, and from which its time is used."""
DEAD_SHARE = 0.9
"""Sensors without a value in this share of a run's events are candidates for its dead list."""


@dataclass(frozen=True)
class FeatureTest:
    """A feature in both samples."""

    name: str
    distance: float
    """Largest difference of the cumulative distributions."""
    chance: float
    """Probability of a larger one between equal samples, times the number of features."""
    medians: tuple[float, float]

    @property
    def differs(self) -> bool:
        """Whether the samples are called different."""
        return self.chance < LEVEL


@dataclass(frozen=True)
class DataComparison:
    """Two sets of events."""

    names: tuple[str, str]
    events: tuple[int, int]
    tests: tuple[FeatureTest, ...]
    """The most different first."""
    dead: Mapping[str, Mapping[int, tuple[int, ...]]]
    """Set → run → channels that are candidates for its dead list."""


def compare_data(
    first: Sequence[Part], second: Sequence[Part], folder: Path, settings: ReadOptions, norm: Normalization, events: int
) -> DataComparison:
    """Write features, plots, `comparison.json` and `report.html` into `folder`.

    Args:
        norm: decides what counts as bad in raw sensors.
        events: how many events of each set to use, its first ones.

    Raises:
        InputError: a set without events.
    """
    with locked(folder / ".lock", f"comparing data into {folder}"):
        names = (_name(first), _name(second))
        names = names if names[0] != names[1] else (f"{names[0]} (A)", f"{names[1]} (B)")
        tables, dead = [], {}
        for name, parts in zip(names, (first, second), strict=True):
            table, candidates = _features(parts, settings, norm, events, name)
            tables.append(table)
            dead[name] = candidates
        tests = two_sample_tests(*tables)
        counts = tuple(len(next(iter(t.values()))) for t in tables)
        found = DataComparison(names, (counts[0], counts[1]), tests, dead)
        for name, table in zip("ab", tables, strict=True):
            write_frame(pl.DataFrame(table), folder / f"features_{name}")
        order = [t.name for t in tests]
        pages = save_pages(feature_pages(names, (tables[0], tables[1]), order), folder / "comparison.pdf")[1:]
        _write_report(found, pages, folder / "report.html")
        publish_json(folder / "comparison.json", as_json(found))
        return found


def _name(parts: Sequence[Part]) -> str:
    return parts[0].name if len(parts) == 1 else f"{parts[0].name} … {parts[-1].name}"


def features(events: RawEvents) -> dict[str, Array]:
    """Numbers of each event, (n,): light, hit sensors and median time of each face and of all, log₁₀ of the light."""
    npho, time = events.npho.astype(np.float64), 1e9 * events.time.astype(np.float64)
    light = np.nan_to_num(np.maximum(npho, 0))
    hit = light >= BRIGHT
    face = np.asarray(geo.nominal_faces())
    found = {"dead_sensors": np.isnan(npho).sum(axis=1).astype(np.float64)}
    masks = {"all": np.ones(geo.N_SENSORS, dtype=bool), **{n: face == c for c, n in enumerate(geo.FACE_NAMES)}}
    for name, on in masks.items():
        found[f"log10_light_{name}"] = np.log10(np.maximum(light[:, on].sum(axis=1), 1.0))
        found[f"hit_sensors_{name}"] = hit[:, on].sum(axis=1).astype(np.float64)
        timed = np.where(hit[:, on], time[:, on], np.nan)
        some = ~np.isnan(timed).all(axis=1)
        median = np.full(len(timed), np.nan)
        median[some] = np.nanmedian(timed[some], axis=1)
        found[f"time_ns_{name}"] = median
    found["log10_brightest"] = np.log10(np.maximum(light.max(axis=1), 1.0))
    return found


def two_sample_tests(first: Mapping[str, Array], second: Mapping[str, Array]) -> tuple[FeatureTest, ...]:
    """Every feature's two-sample test, the largest distance first."""
    found = []
    for name in first:
        a, b = (x[np.isfinite(x)] for x in (first[name], second[name]))
        if not a.size or not b.size:
            continue
        result = ks_2samp(a, b)
        chance = min(1.0, float(result.pvalue) * len(first))
        medians = (float(np.median(a)), float(np.median(b)))
        found.append(FeatureTest(name, float(result.statistic), chance, medians))
    return tuple(sorted(found, key=lambda test: -test.distance))


def _features(
    parts: Sequence[Part], settings: ReadOptions, norm: Normalization, events: int, name: str
) -> tuple[dict[str, Array], dict[int, tuple[int, ...]]]:
    """Features of the first events of a set, and dead-channel candidates by run."""
    wanted = Wanted(512, "cpu", norm)
    tables: list[dict[str, Array]] = []
    lost: dict[int, NDArray[np.int64]] = {}
    seen: dict[int, int] = {}
    done = 0
    with progress(name, min(events, sum(part.events for part in parts))) as bar:
        for part in parts:
            for chunk in part.read(wanted, settings):
                raw = chunk[: events - done].photons(norm)
                tables.append(features(raw))
                runs = np.nan_to_num(raw.columns.get("run", np.zeros(len(raw))), nan=-1).astype(np.int64)
                for run in np.unique(runs):
                    own = np.isnan(raw.npho[runs == run])
                    lost[int(run)] = lost.get(int(run), np.zeros(geo.N_SENSORS, np.int64)) + own.sum(axis=0)
                    seen[int(run)] = seen.get(int(run), 0) + len(own)
                done += len(raw)
                bar.advance(len(raw))
                if done >= events:
                    break
            if done >= events:
                break
    if not tables:
        raise InputError("no events are left to compare", file=name, found=settings.select)
    joined = {key: np.concatenate([t[key] for t in tables]) for key in tables[0]}
    dead = {run: tuple(np.flatnonzero(lost[run] >= DEAD_SHARE * count).tolist()) for run, count in seen.items()}
    return joined, dead


def _write_report(found: DataComparison, pages: Sequence[Path], path: Path) -> None:
    rows = [
        Row(
            (
                "{} [{}]".format(*feature_words(t.name)),
                digits(t.medians[0]),
                digits(t.medians[1]),
                f"{t.distance:.3f}",
                f"{t.chance:.2g}",
            ),
            "strong" if t.differs else "",
        )
        for t in found.tests
    ]
    heads = ("feature", *(f"median, {name}" for name in found.names), "distance", "p-value if equal")
    differing = sum(t.differs for t in found.tests)
    note = (
        f"Kolmogorov–Smirnov test of each feature; the p-value is that of equal samples, times the number of features. "
        f"{differing} of {len(found.tests)} features differ (below {LEVEL:g}), in red."
    )
    dead = [
        Table(
            ("run", "channels", "which"),
            tuple(
                Row(
                    (
                        str(run),
                        str(len(channels)),
                        ", ".join(map(str, channels[:40])) + (" …" if len(channels) > 40 else ""),
                    )
                )
                for run, channels in by_run.items()
            ),
            name,
        )
        for name, by_run in found.dead.items()
    ]
    sections = [
        Section("Features", (Table(heads, tuple(rows)),), tuple(pages), note),
        Section(
            "Dead-channel candidates by run",
            tuple(dead),
            note=f"Without a value in {100 * DEAD_SHARE:.0f} % of the run's events.",
        ),
    ]
    one, other = (f"{n} ({counted(e, 'event')})" for n, e in zip(found.names, found.events, strict=True))
    lead = f"{one} against {other}"
    write_page(path, "Comparison of data", lead, sections)


def as_json(found: DataComparison) -> dict[str, object]:
    """Every number."""
    return {
        "data": dict(zip(found.names, found.events, strict=True)),
        "features": {
            t.name: {"distance": t.distance, "chance": t.chance, "medians": list(t.medians), "differs": t.differs}
            for t in found.tests
        },
        "dead_candidates": {
            name: {str(run): list(channels) for run, channels in by_run.items()} for name, by_run in found.dead.items()
        },
    }
