"""Line studies (charge exchange, calibration): one known energy, fitted per group of events for several estimators.

Peak position and width with errors per group; the groups' biases removed; and all estimators on the same events: the
network on events as they are, on events whose dead sensors were filled (from neighbours, by an inpainter), photon
sums, and the conventional reconstruction where the data carry it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shards.base import ConfigError, InputError, locked, nearest, progress, publish_json
from shards.identity import IDENTITY
from xectrain.baselines import STRONG_FILL, Baselines, RawEvents, fill
from xectrain.evaluation.pages import Row, Section, Table, write_page
from xectrain.evaluation.peaks import MIN_EVENTS, PeakFit, fit_peak, too_few
from xectrain.evaluation.plots import save_pages
from xectrain.evaluation.plots.lines import line_pages
from xectrain.evaluation.results import Line, LineResult, LineStudy
from xectrain.evaluation.tables import write_frame
from xectrain.evaluation.wording import fit_numbers, fit_quality, method_label, model_name, plus_minus
from xectrain.inference.events import Events
from xectrain.inference.model import ModelFacts
from xectrain.inference.regressor import Predictor
from xectrain.inference.sensors import SensorPredictor
from xectrain.inference.sources import Part, ReadOptions, Wanted

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
FILLED = {"neighbours": "network, neighbours filled", "inpainter": "network, inpainted"}
"""Estimators that differ from the network's where sensors are dead."""
CONVENTIONAL = "energyReco"
CLASSICAL = ("photon_sum", "face_weights")
GEV_TO_MEV = 1e3
NOTHING_TO_FILL = " No sensor of these events is dead, so that filling would change nothing."


def study_line(
    predictor: Predictor,
    parts: Sequence[Part],
    line: Line,
    folder: Path,
    settings: ReadOptions,
    baselines: Baselines | None = None,
    inpainter: SensorPredictor | None = None,
) -> LineStudy:
    """Predict, fit per group, and write tables, plots, `line.json` and `report.html` into `folder`.

    Args:
        settings: its selection is the cut (`gstatus < 2 and Ebgo > 65`).
        baselines: calibrated classical methods to overlay.
        inpainter: fills dead sensors for one of the estimators.

    Raises:
        ConfigError: the model does not predict energies, or the data have no column `group`.
        InputError: no event passes the cut, or no estimator has a peak that can be fitted.
    """
    if "energy" not in predictor.facts.tasks:
        raise ConfigError(
            "does not predict energies", file=predictor.facts.file, found=", ".join(predictor.facts.tasks)
        )
    for part in parts:
        part.check(predictor.facts.normalization)
        if line.group is not None and line.group not in part.columns:
            raise ConfigError(f"has no column {line.group!r}", file=part.name, remedy=nearest(line.group, part.columns))
    with locked(folder / ".lock", f"studying a line into {folder}"):
        table = _events(predictor, parts, line, settings, baselines, inpainter)
        names = [name for name in table if name not in (*IDENTITY, "group")]
        common = np.all([np.isfinite(table[name]) for name in names], axis=0)
        results = tuple(_fitted(name, table[name][common], table["group"][common], line) for name in names)
        if all(result.as_is is None and not result.groups for result in results):
            raise too_few(table["network"][common], line.energy)
        study = LineStudy(line, int(np.count_nonzero(common)), len(common), results)
        write_frame(pl.DataFrame(table), folder / "line_events")
        pages = save_pages(line_pages(results, line), folder / "line.pdf")[1:]
        _write_report(study, predictor.facts, pages, folder / "report.html")
        publish_json(folder / "line.json", as_json(study))
    return study


def _events(
    predictor: Predictor,
    parts: Sequence[Part],
    line: Line,
    settings: ReadOptions,
    baselines: Baselines | None,
    inpainter: SensorPredictor | None,
) -> dict[str, Array]:
    """A row per event: `run`, `event` where known, `group`, and the energy [MeV] of every estimator."""
    wanted = Wanted.of(predictor)
    tables: list[dict[str, Array]] = []
    with progress("line", sum(part.events for part in parts)) as bar:
        for part in parts:
            seen = 0
            for events in part.read(wanted, settings):
                count, columns = len(events), events.columns
                unknown = np.full(count, np.nan)
                table = {name: columns.get(name, unknown) for name in IDENTITY}
                table["group"] = np.zeros(count) if line.group is None else columns[line.group]
                found = _estimates(predictor, events, baselines, inpainter)
                table.update({n: np.asarray(v, dtype=np.float64) * GEV_TO_MEV for n, v in found.items()})
                tables.append(table)
                bar.advance(count)
                seen += count
            bar.advance(part.events - seen)  # those that fail the cut
    if not tables:
        raise InputError("no event passes the cut", found=settings.select)
    names = dict.fromkeys(name for table in tables for name in table)
    whole = {name: np.concatenate([t.get(name, np.full(len(t["group"]), np.nan)) for t in tables]) for name in names}
    if all(np.array_equal(whole["network"], whole[name], equal_nan=True) for name in FILLED.values() if name in whole):
        logger.info("no sensor of these events is dead, so that there is nothing to fill")
        return {name: values for name, values in whole.items() if name not in FILLED.values()}
    return whole


def _estimates(
    predictor: Predictor, events: Events, baselines: Baselines | None, inpainter: SensorPredictor | None
) -> dict[str, NDArray[Any]]:
    """Energies [GeV] by estimator."""
    raw = events.photons(predictor.facts.normalization)
    found = {"network": predictor.predict_events(events)["pred_energy"]}
    dead = bool(np.isnan(raw.npho).any())
    found[FILLED["neighbours"]] = _predicted(predictor, fill(raw, STRONG_FILL)) if dead else found["network"]
    if inpainter is not None:
        found[FILLED["inpainter"]] = found["network"]
        if dead:
            filled = inpainter.fill_events(events)
            found[FILLED["inpainter"]] = _predicted(predictor, RawEvents(filled.npho, filled.time, raw.columns))
    if baselines is not None:
        classical = baselines.predict(raw)
        found.update({method_label(name): classical[name]["energy"] for name in CLASSICAL if name in classical})
    if CONVENTIONAL in events.columns:
        found[CONVENTIONAL] = events.columns[CONVENTIONAL]
    return found


def _predicted(predictor: Predictor, filled: RawEvents) -> NDArray[Any]:
    """The network's energies [GeV] of events whose dead sensors were filled."""
    events = Events.of_raw(filled.npho, filled.time, columns=filled.columns)
    return predictor.predict_events(events)["pred_energy"]


def _fitted(name: str, values: Array, groups: Array, line: Line) -> LineResult:
    """Fits of one estimator. When no group is large enough, all events are one group."""
    as_is = fit_peak(values, line.energy, line.shape)
    known = np.unique(groups[np.isfinite(groups)])
    found = [as_is if len(known) == 1 else fit_peak(values[groups == g], line.energy, line.shape) for g in known]
    fits = {float(group): fit for group, fit in zip(known, found, strict=True) if fit is not None}
    if as_is is not None and (len(known) == 1 or not fits):
        if not fits:
            logger.warning(
                "%s: no %s has %d events within the fit's window, so all are fitted together",
                *(name, line.group, MIN_EVENTS),
            )
        return LineResult(name, as_is, fits, as_is.moved_to(line.energy), values - as_is.mean + line.energy)
    if len(fits) < len(known):
        logger.info(
            "%s: only %d of %d groups have the %d events within the window that a fit needs",
            *(name, len(fits), len(known), MIN_EVENTS),
        )
    moved = np.full(len(values), np.nan)
    for group, fit in fits.items():
        moved[groups == group] = values[groups == group] - fit.mean + line.energy
    return LineResult(name, as_is, fits, fit_peak(moved, line.energy, line.shape), moved)


def _write_report(study: LineStudy, facts: ModelFacts, pages: Sequence[Path], path: Path) -> None:
    """Tables and plots on one page."""
    line = study.line
    numbers = ("peak [MeV]", "σ [MeV]", "σ / E [%]", "FWHM / 2.355 [MeV]", "events in window", "χ² / ndf")
    heads = ("estimator", *numbers, "σ, groups' biases removed [MeV]")
    rows = []
    for result in study.results:
        kind = "network" if result.name == "network" else ""
        fit, after = result.as_is, result.together
        told = ("no fit", *[""] * (len(numbers) - 1)) if fit is None else _cells(fit)
        rows.append(
            Row((result.name, *told, "" if after is None else plus_minus(after.sigma, after.sigma_error)), kind)
        )
    sections = [
        Section(
            "All events",
            (Table(heads, tuple(rows)),),
            tuple(pages),
            f"Every estimator on the same {study.events} events of the {study.passed} that pass the cut. A fit needs "
            f"{MIN_EVENTS} events within its window; shape: {line.shape}. σ is that of the core, FWHM / 2.355 that of "
            "the whole curve. Where χ² is far above ndf, the shape does not describe the peak."
            + ("" if any(result.name in FILLED.values() for result in study.results) else NOTHING_TO_FILL),
        )
    ]
    if line.group is not None:
        tables = []
        for result in study.results:
            own = tuple(Row((f"{group:g}", *_cells(fit))) for group, fit in sorted(result.groups.items()))
            tables.append(Table((line.group, *numbers), own, result.name))
        sections.append(Section(f"Per {line.group}", tuple(tables)))
    lead = f"{model_name(facts)} · {study.events} events"
    write_page(
        path, f"Line at {line.energy:g} MeV", lead, sections, (("model", facts.file.name), ("sha256", facts.digest))
    )


def _cells(fit: PeakFit) -> tuple[str, ...]:
    return (
        plus_minus(fit.mean, fit.mean_error),
        plus_minus(fit.sigma, fit.sigma_error),
        plus_minus(100 * fit.sigma / fit.mean, 100 * fit.sigma_error / fit.mean),
        plus_minus(fit.width, fit.width_error),
        str(fit.events),
        fit_quality(fit),
    )


def as_json(study: LineStudy) -> dict[str, Any]:
    """Every fit in numbers [MeV]."""
    return {
        "line": study.line.energy,
        "group": study.line.group,
        "shape": study.line.shape,
        "events": study.events,
        "passed": study.passed,
        "estimators": {
            result.name: {
                "as_is": None if result.as_is is None else fit_numbers(result.as_is),
                "together": None if result.together is None else fit_numbers(result.together),
                "groups": {f"{group:g}": fit_numbers(fit) for group, fit in result.groups.items()},
            }
            for result in study.results
        },
    }
