"""What a calibration on lines found: the record, its page and its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xectrain.evaluation.line_fit import Form
from xectrain.evaluation.pages import Row, Section, Table, write_page
from xectrain.evaluation.peaks import PeakFit
from xectrain.evaluation.plots.calibration import Uniformity
from xectrain.evaluation.wording import finite, fit_numbers, fit_quality, model_name, plus_minus
from xectrain.inference.calibration import EnergyCalibration, summary
from xectrain.inference.model import ModelFacts


@dataclass(frozen=True)
class Trial:
    """A form that was tried."""

    form: Form
    gain: float
    """Mean gain of the log-likelihood per 1000 events that were not fitted, over the constant."""
    error: float
    taken: bool


@dataclass(frozen=True)
class CalibrationStudy:
    """What a calibration found."""

    calibration: EnergyCalibration
    trials: tuple[Trial, ...]
    before: tuple[PeakFit | None, ...]
    """The peak of each line [MeV] as the model predicts it."""
    after: tuple[PeakFit | None, ...]
    """After the correction found on other events."""
    uniformity: tuple[Uniformity, ...]


def write_report(study: CalibrationStudy, facts: ModelFacts, rule: str, pages: Sequence[Path], path: Path) -> None:
    """Publish tables and plots as one page.

    Args:
        rule: by which the form was chosen, a sentence.
        pages: of the plots, PNG files.
    """
    heads = ("line [MeV]", "", "peak [MeV]", "peak / line − 1 [%]", "σ [MeV]", "events in window", "χ² / ndf")
    rows = []
    for line, before, after in zip(study.calibration.lines, study.before, study.after, strict=True):
        for name, fit in (("before", before), ("after, on other events", after)):
            rows.append(Row((f"{line.energy:g}", name, *_cells(fit, line.energy)), "network" if fit is after else ""))
    spread = tuple(
        Row((u.name, *(plus_minus(*u.spread(after=a)) for a in (False, True)), str(int(np.isfinite(u.after).sum()))))
        for u in study.uniformity
    )
    trials = tuple(
        Row((t.form.name, plus_minus(t.gain, t.error), "taken" if t.taken else ""), "network" if t.taken else "")
        for t in study.trials
    )
    note = f"{rule} Every number after the calibration is for events that it was not fitted to."
    sections = [
        Section("Lines", (Table(heads, tuple(rows)),), tuple(pages)),
        Section(
            "Uniformity",
            (Table(("over", "spread of the peak before [%]", "after [%]", "bins"), spread),),
            note="Standard deviation of the peak position over the bins, beyond what its errors explain.",
        ),
        Section(
            "What was tried",
            (Table(("correction", "gain of log-likelihood per 1000 events", ""), trials),),
            note=note,
        ),
    ]
    lead = f"{model_name(facts)} · {summary(study.calibration)}"
    write_page(
        path, "Calibration of the energy", lead, sections, (("model", facts.file.name), ("sha256", facts.digest))
    )


def _cells(fit: PeakFit | None, line: float) -> tuple[str, ...]:
    if fit is None:
        return ("no fit", "", "", "", "")
    return (
        plus_minus(fit.mean, fit.mean_error),
        plus_minus(100 * (fit.mean / line - 1), 100 * fit.mean_error / line),
        plus_minus(fit.sigma, fit.sigma_error),
        str(fit.events),
        fit_quality(fit),
    )


def as_json(study: CalibrationStudy) -> dict[str, Any]:
    """Every number [MeV; spreads in percent]."""

    def plain(fit: PeakFit | None) -> dict[str, float | None] | None:
        return None if fit is None else fit_numbers(fit)

    return {
        "calibration": study.calibration.model_dump(mode="json"),
        "lines": [
            {"energy": line.energy, "before": plain(before), "after": plain(after)}
            for line, before, after in zip(study.calibration.lines, study.before, study.after, strict=True)
        ],
        "spread": {
            u.name: {name: [finite(x) for x in u.spread(after=name == "after")] for name in ("before", "after")}
            for u in study.uniformity
        },
        "tried": [
            {"degree": t.form.degree, "knots": t.form.knots, "gain": t.gain, "error": t.error, "taken": t.taken}
            for t in study.trials
        ],
    }
