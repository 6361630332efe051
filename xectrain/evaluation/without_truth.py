"""What can be said of data without truth: distributions, trends by run, and the conventional reconstruction."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from shards.identity import IDENTITY
from xectrain.display.event import event_figure
from xectrain.evaluation.plots import save_pages
from xectrain.evaluation.plots.distributions import distribution_pages
from xectrain.evaluation.plots.insight import TITLE_WIDTH
from xectrain.evaluation.results import Disagreement, Trend, WithoutTruth
from xectrain.evaluation.wording import digits
from xectrain.inference.model import ModelFacts
from xectrain.inference.sources import Part, ReadOptions, Wanted
from xectrain.metrics import half_width_68
from xectrain.tasks import QUANTITIES

Array = NDArray[np.float64]

CONVENTIONAL: dict[str, str] = {
    "energy": "energyReco",
    "timing": "timeReco",
    **{axis: f"uvwRecoFI_{axis}" for axis in "uvw"},
    **{axis: f"xyzRecoFI_{axis}" for axis in "xyz"},
}
"""Canonical column → the conventional reconstruction's, in the same unit."""
MIN_EVENTS = 20
WORST = 5


def describe(
    facts: ModelFacts,
    name: str,
    part: Part,
    table: Mapping[str, NDArray[Any]],
    place: Path,
    settings: ReadOptions,
    by: Sequence[str],
) -> WithoutTruth:
    """Pages of distributions and trends, and displays of the worst disagreements, written into `place`.

    Args:
        table: predictions, and the columns that the data carry.
        by: columns to show trends against, in addition to the run.
    """
    predicted, conventional = predicted_columns(table), conventional_columns(table)
    groups = {c: np.asarray(table[c], dtype=np.float64) for c in ("run", *by) if c in table}
    moved = {c: found for c, values in groups.items() if (found := trends(predicted, values, c))}
    pages = distribution_pages(predicted, conventional, moved, name)
    images = save_pages(pages, place / "distributions.pdf")[1:]
    apart = distance(predicted, conventional)
    if apart is not None:
        rows = np.argsort(-apart)[:WORST]
        images += _displays(
            facts, part, [int(r) for r in rows if apart[r] > 0], predicted, conventional, place, settings
        )
    return WithoutTruth(images, moved, disagreements(predicted, conventional))


def _displays(
    facts: ModelFacts,
    part: Part,
    rows: Sequence[int],
    predicted: Mapping[str, Array],
    conventional: Mapping[str, Array],
    place: Path,
    settings: ReadOptions,
) -> list[Path]:
    """Event displays of some rows of the table, worst first."""
    wanted = Wanted(256, "cpu", facts.normalization)
    found: dict[int, Figure] = {}
    start = 0
    for events in part.read(wanted, settings):
        own = [row for row in rows if start <= row < start + len(events)]
        raw = events.photons(facts.normalization) if own else None
        for row in own:
            assert raw is not None
            k = row - start
            which = ", ".join(f"{c} {int(raw.columns[c][k])}" for c in IDENTITY if c in raw.columns)
            told = ", ".join(
                f"{c} {digits(predicted[c][row])} (conventional {digits(conventional[c][row])}) {QUANTITIES[c].unit}"
                for c in predicted
                if c in conventional
            )
            title = "\n".join([f"disagreement {rows.index(row) + 1}: {which}", *textwrap.wrap(told, TITLE_WIDTH)])
            found[row] = event_figure(
                raw.npho[k],
                raw.time[k],
                dead=np.isnan(raw.npho[k]),
                prediction=_point(predicted, row),
                conventional=_point(conventional, row),
                title=title,
            )
        start += len(events)
    written = []
    for rank, row in enumerate(rows, 1):
        written += save_pages([found[row]], place / "disagreements" / f"disagreement_{rank:02d}.pdf")[1:]
    return written


def _point(columns: Mapping[str, Array], row: int) -> Array | None:
    """(u, v, w) of a row, where there are all three."""
    return np.array([columns[a][row] for a in "uvw"]) if all(a in columns for a in "uvw") else None


def predicted_columns(table: Mapping[str, NDArray[np.floating]]) -> dict[str, Array]:
    """Predictions by canonical column, in the unit people use; all-NaN ones left out."""
    found = {c: show.scale * np.asarray(table[f"pred_{c}"]) for c, show in QUANTITIES.items() if f"pred_{c}" in table}
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def conventional_columns(table: Mapping[str, NDArray[np.floating]]) -> dict[str, Array]:
    """The conventional reconstruction by canonical column, in the unit people use, where the data carry it."""
    found = {
        column: QUANTITIES[column].scale * np.asarray(table[name], dtype=np.float64)
        for column, name in CONVENTIONAL.items()
        if name in table
    }
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def trends(predicted: Mapping[str, Array], group: NDArray[np.floating], by: str) -> dict[str, Trend]:
    """Median, its error and half-68 of each prediction per value of `group`; groups of fewer than 20 events left out.

    Returns:
        Nothing when fewer than two groups are left.
    """
    values, counts = np.unique(group[np.isfinite(group)], return_counts=True)
    kept = values[counts >= MIN_EVENTS]
    if len(kept) < 2:
        return {}
    found = {}
    for name, column in predicted.items():
        rows = []
        for value in kept:
            x = np.sort(column[(group == value) & np.isfinite(column)])
            width = half_width_68(x)
            rows.append((np.median(x) if x.size else np.nan, width, 1.2533 * width / np.sqrt(max(x.size, 1)), x.size))
        median, half, error, count = np.array(rows).T
        found[name] = Trend(by, kept, median, error, half, count)
    return found


def disagreements(predicted: Mapping[str, Array], conventional: Mapping[str, Array]) -> list[Disagreement]:
    """Network against conventional, one entry per column that both have."""
    found = []
    for name in (n for n in predicted if n in conventional):
        difference = np.sort(predicted[name] - conventional[name])
        difference = difference[np.isfinite(difference)]
        if difference.size:
            width = half_width_68(difference)
            beyond = float(np.mean(np.abs(difference - np.median(difference)) > 5 * width)) if width > 0 else 0.0
            entry = Disagreement(name, float(np.median(difference)), width, beyond, int(difference.size))
            found.append(entry)
    return found


def distance(predicted: Mapping[str, Array], conventional: Mapping[str, Array]) -> Array | None:
    """How far apart the two are in each event, (n,): mean square difference in half-68 widths; None without any."""
    terms = []
    for name in (n for n in predicted if n in conventional):
        difference = predicted[name] - conventional[name]
        good = np.sort(difference[np.isfinite(difference)])
        if good.size and half_width_68(good) > 0:
            terms.append(((difference - np.median(good)) / half_width_68(good)) ** 2)
    if not terms:
        return None
    return np.asarray(np.nan_to_num(np.mean(terms, axis=0), nan=-1.0))
