"""`xec calibrate`: the energy of a model calibrated on lines, cross-validated, and stored beside its checkpoint.

How much the correction may vary (degree in the position, knots over the runs) is decided on events that it was not
fitted to. The numbers before and after are for such events, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shards.base import ConfigError, InputError, OutputError, code_version, locked, progress, publish_json
from shards.base.documents import json_digest
from shards.expressions import evaluate as passing
from shards.identity import IDENTITY
from xectrain.evaluation.calibration_report import CalibrationStudy, Trial, as_json, write_report
from xectrain.evaluation.line_fit import (
    Form,
    LineEvents,
    corrected,
    fit_factor,
    losses,
    shape_of,
)
from xectrain.evaluation.peaks import fit_peak
from xectrain.evaluation.plots import save_pages
from xectrain.evaluation.plots.calibration import Uniformity, calibration_pages
from xectrain.evaluation.tables import write_frame
from xectrain.inference.calibration import (
    ENERGY,
    HIGHEST_DEGREE,
    POSITION,
    CalibratedLine,
    EnergyCalibration,
    calibration_path,
    read_calibration,
)
from xectrain.inference.model import ModelFacts
from xectrain.inference.regressor import Predictor
from xectrain.inference.sources import Part, ReadOptions, Wanted
from xectrain.metrics import equal_count_edges

Array = NDArray[np.float64]

FOLDS = 5
KNOTS = (2, 3, 5, 9, 17)
"""Numbers of knots over the runs that are tried, as far as there are runs."""
WORTH = 3.0
"""Errors by which a more variable form must be better on other events to be chosen."""
BINS = 6
"""Bins of each coordinate, and of the runs at most, in which the peak is located."""


@dataclass(frozen=True)
class LineChoice:
    """A line, and which events belong to it."""

    energy: float
    """MeV."""
    expression: str = ""
    """Empty: all."""


def calibrate(
    predictor: Predictor, parts: Sequence[Part], lines: Sequence[LineChoice], folder: Path, settings: ReadOptions
) -> CalibrationStudy | None:
    """Find the calibration, write its report into `folder`, and publish it beside the model's checkpoint at the end.

    Args:
        predictor: without a calibration (`load(…, calibrated=False)`).

    Returns:
        None where the same calibration exists already.

    Raises:
        ConfigError: no energy is predicted, or an event would belong to two lines.
        InputError: too few events of a line.
        OutputError: the checkpoint has another calibration.
    """
    facts = predictor.facts
    if ENERGY not in facts.columns:
        raise ConfigError("does not predict energies", file=facts.file, found=", ".join(facts.tasks or (facts.mode,)))
    for part in parts:
        part.check(facts.normalization)
    request = _request(facts, parts, lines, settings)
    target = calibration_path(facts.file)
    with locked(target.with_name(f".{target.name}.lock"), f"calibrating {facts.file.name}"):
        there = read_calibration(facts.file, facts.digest)
        if there is not None and there.request == request:
            return None
        if there is not None:
            raise OutputError(
                "the model is already calibrated, with other lines, data or options",
                file=target,
                remedy=f"xec calibrate {facts.file} --undo",
            )
        events, identity = read_lines(predictor, parts, lines, settings)
        study, other = _study(events, lines, facts, request)
        with locked(folder / ".lock", f"writing the calibration's report into {folder}"):
            table = {**identity, "line": events.true, "before": events.energy, "after": other, "run": events.run}
            table |= {axis: events.uvw[:, k] for k, axis in enumerate("uvw")}
            write_frame(pl.DataFrame(table), folder / "calibration_events")
            pages = save_pages(calibration_pages(events, other, study.uniformity), folder / "calibration.pdf")[1:]
            rule = (
                f"A more variable form is chosen where other events gain by more than {WORTH:g} errors; {FOLDS} folds."
            )
            write_report(study, facts, f"{rule}; {FOLDS} folds.", pages, folder / "report.html")
            publish_json(folder / "calibration.json", as_json(study))
        publish_json(target, study.calibration.model_dump(mode="json"))
    return study


def undo(checkpoint: Path) -> bool:
    """Remove the calibration of a checkpoint; whether there was one."""
    path = calibration_path(checkpoint)
    there = path.exists()
    path.unlink(missing_ok=True)
    return there


def _study(
    events: LineEvents, lines: Sequence[LineChoice], facts: ModelFacts, request: str
) -> tuple[CalibrationStudy, Array]:
    """The study, and the energies [MeV] of the events after the correction found without them."""
    form, trials = choose(events)
    factor = fit_factor(events, form)
    other = out_of_fold(events, form)[0]
    before, after = (
        tuple(fit_peak(values[events.line == k], line) for k, line in enumerate(events.lines))
        for values in (events.energy, other)
    )
    known = tuple(
        CalibratedLine(energy=line.energy, expression=line.expression, events=0 if fit is None else fit.events)
        for line, fit in zip(lines, after, strict=True)
    )
    calibration = EnergyCalibration(
        model=facts.digest, request=request, factor=factor, lines=known, code_version=code_version()
    )
    return CalibrationStudy(calibration, trials, before, after, uniformity(events, other)), other


def read_lines(
    predictor: Predictor, parts: Sequence[Part], lines: Sequence[LineChoice], settings: ReadOptions
) -> tuple[LineEvents, dict[str, Array]]:
    """Predictions for the events of all lines, and (run, event) where they are known.

    Raises:
        ConfigError: an event would belong to two lines. InputError: a line has no events.
    """
    wanted = Wanted.of(predictor)
    tables: list[dict[str, Array]] = []
    with progress("lines", sum(part.events for part in parts)) as bar:
        for part in parts:
            for events in part.read(wanted, settings):
                bar.advance(len(events))
                number = _line_of(lines, events.columns, len(events), part.name)
                found = predictor.predict_events(events)
                unknown = np.full(len(events), np.nan)
                table = {n: np.asarray(events.columns.get(n, unknown), dtype=np.float64) for n in IDENTITY}
                table |= {n: np.asarray(found.get(n, unknown), dtype=np.float64) for n in (ENERGY, *POSITION)}
                table["line"] = number
                tables.append({name: values[number >= 0] for name, values in table.items()})
    if not tables:
        raise InputError("no event passes the cut", found=settings.select)
    table = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    table = {name: values[np.isfinite(table[ENERGY])] for name, values in table.items()}
    for k, line in enumerate(lines):
        if not np.any(table["line"] == k):
            raise InputError(
                f"no event belongs to the line at {line.energy:g} MeV", found=line.expression or "no event"
            )
    uvw = np.column_stack([table[name] for name in POSITION])
    energies = tuple(line.energy for line in lines)
    found_events = LineEvents(1e3 * table[ENERGY], uvw, table["run"], table["line"].astype(np.int64), energies)
    return found_events, {"event": table["event"]}


def _line_of(lines: Sequence[LineChoice], columns: Any, count: int, name: str) -> Array:
    """Which line each event belongs to, −1 for none."""
    found = np.full(count, -1.0)
    frame = pl.DataFrame(dict(columns))
    for k, line in enumerate(lines):
        own = passing(line.expression, frame) if line.expression else np.ones(count, dtype=bool)
        if np.any(own & (found >= 0)):
            raise ConfigError(
                "an event belongs to two lines",
                file=name,
                item=f"--line {line.energy:g}",
                remedy="say which events belong to a line with MeV=EXPRESSION",
            )
        found[own] = k
    return found


def choose(events: LineEvents) -> tuple[Form, tuple[Trial, ...]]:
    """The form that predicts other events best: first its degree, then its knots over the runs."""
    shapes = _reference_shapes(events)
    plain = out_of_fold(events, Form(), shapes)[1]
    trials: list[Trial] = []
    best, best_losses = Form(), plain
    degrees = range(1, HIGHEST_DEGREE + 1) if np.all(np.isfinite(events.uvw)) else ()
    runs = np.unique(events.run[np.isfinite(events.run)])
    for group in ("degree", "knots"):
        candidates = (
            [Form(d, 0) for d in degrees]
            if group == "degree"
            else [Form(best.degree, k) for k in KNOTS if k <= len(runs)]
        )
        for form in candidates:
            own = out_of_fold(events, form, shapes)[1]
            gain, error = _gain(best_losses - own)
            taken = gain > WORTH * error
            if taken:
                best, best_losses = form, own
            trials.append(Trial(form, *_gain(plain - own), taken))
    return best, tuple(Trial(t.form, t.gain, t.error, t.form == best) for t in trials)


def _gain(per_event: Array) -> tuple[float, float]:
    """Mean and its error, per 1000 events."""
    return 1e3 * float(per_event.mean()), 1e3 * float(per_event.std() / np.sqrt(len(per_event)))


def _reference_shapes(events: LineEvents) -> list[Any]:
    """The shapes that all forms are judged by: those of the constant correction."""
    values = corrected(events, fit_factor(events, Form()))
    return [shape_of(values[events.line == k], line) for k, line in enumerate(events.lines)]


def out_of_fold(events: LineEvents, form: Form, shapes: Sequence[Any] | None = None) -> tuple[Array, Array]:
    """Energies [MeV] of all events, each after the factor fitted to the other folds; and their losses, if `shapes`."""
    fold = np.random.default_rng(0).permutation(len(events)) % FOLDS
    values, found = np.empty(len(events)), np.empty(len(events))
    for k in range(FOLDS):
        factor = fit_factor(events[fold != k], form)
        values[fold == k] = corrected(events[fold == k], factor)
        if shapes is not None:
            found[fold == k] = losses(events[fold == k], factor, shapes)
    return values, found


def uniformity(events: LineEvents, after: Array) -> tuple[Uniformity, ...]:
    """The peak in bins of the position and of the run, as the mean over lines of peak / line."""
    found = []
    axes = {name: events.uvw[:, k] for k, name in enumerate("uvw")} | {"run": events.run}
    for name, x in axes.items():
        known = x[np.isfinite(x)]
        if len(np.unique(known)) < 2:
            continue
        edges = equal_count_edges(known, BINS)
        if name == "run":
            runs = np.unique(known)
            edges = np.append(runs if len(runs) <= BINS else np.unique(np.round(edges[:-1])), runs[-1] + 1)
        number = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
        values = [_places(events, values, number, len(edges) - 1) for values in (events.energy, after)]
        centre = np.array([np.median(x[number == b]) if np.any(number == b) else np.nan for b in range(len(edges) - 1)])
        found.append(Uniformity(name, centre, *values[0], *values[1]))
    return tuple(found)


def _places(events: LineEvents, values: Array, number: NDArray[np.int64], bins: int) -> tuple[Array, Array]:
    """Peak over line − 1, and its error, of each bin; NaN where there are too few events."""
    place, error = np.full(bins, np.nan), np.full(bins, np.nan)
    for b in range(bins):
        own = [(fit_peak(values[(number == b) & (events.line == k)], e), e) for k, e in enumerate(events.lines)]
        fits = [(f.mean / e - 1, f.mean_error / e) for f, e in own if f is not None and f.mean_error > 0]
        if fits:
            p, s = np.array(fits).T
            place[b], error[b] = np.average(p, weights=1 / s**2), np.sqrt(1 / np.sum(1 / s**2))
    return place, error


def _request(facts: ModelFacts, parts: Sequence[Part], lines: Sequence[LineChoice], settings: ReadOptions) -> str:
    identity = {
        "model": facts.digest,
        "data": [part.identity() for part in parts],
        "lines": [[line.energy, line.expression] for line in lines],
        "select": settings.select,
    }
    return json_digest(identity)
