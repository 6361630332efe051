"""Line studies (charge exchange, calibration): one known energy, fitted per group of events for several estimators.

Peak position and width with errors per group; the groups' biases removed; and all estimators overlaid: the network on
events as they are, on events whose dead sensors were filled (from neighbours, by an inpainter), photon sums, and the
conventional reconstruction where the data carry it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.base import ConfigError, InputError, locked, nearest, progress, publish_json
from xectrain.baselines import Baselines, RawEvents, fill_from_neighbours
from xectrain.evaluation.peaks import PeakFit, fit_peak
from xectrain.inference.events import Events
from xectrain.inference.regressor import Predictor
from xectrain.inference.sensors import Filler
from xectrain.inference.sources import Part, Settings, Wanted

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
CONVENTIONAL = "energyReco"
GEV_TO_MEV = 1e3


@dataclass(frozen=True)
class Line:
    """What to study."""

    energy: float
    """MeV."""
    group: str | None = None
    """Column whose values make the groups (`patch`, `run`); None: all events are one."""
    shape: str = "expgauss"


@dataclass(frozen=True)
class LineResult:
    """One estimator."""

    name: str
    groups: Mapping[float, PeakFit]
    """By group value, those with enough events; MeV."""
    together: PeakFit | None
    """All groups, each moved so that its peak lies on the line."""
    values: Array
    """Energies [MeV], the groups' biases removed; NaN in groups without a fit."""


def study_line(
    predictor: Predictor,
    parts: Sequence[Part],
    line: Line,
    folder: Path,
    settings: Settings,
    baselines: Baselines | None = None,
    inpainter: Filler | None = None,
) -> list[LineResult]:
    """Predict, fit per group, and write `line.json`, `line.pdf` and PNGs into `folder`.

    Args:
        settings: its selection is the cut (`gstatus < 2 and Ebgo > 65`).
        baselines: calibrated classical methods to overlay.
        inpainter: fills dead sensors for one of the estimators.

    Raises:
        ConfigError: the model predicts no energy, or the data have no column `group`.
    """
    if "energy" not in predictor.facts.tasks:
        raise ConfigError("predicts no energy", file=predictor.facts.file, found=", ".join(predictor.facts.tasks))
    with locked(folder / ".lock", f"studying a line into {folder}"):
        energies, groups = _energies(predictor, parts, line, settings, baselines, inpainter)
        results = [_fitted(name, values, groups, line) for name, values in energies.items()]
        from xectrain.evaluation.plots import save_pages
        from xectrain.evaluation.plots.lines import line_pages

        save_pages(line_pages(results, line), folder / "line.pdf")
        publish_json(folder / "line.json", as_json(results, line))
    return results


def _energies(
    predictor: Predictor,
    parts: Sequence[Part],
    line: Line,
    settings: Settings,
    baselines: Baselines | None,
    inpainter: Filler | None,
) -> tuple[dict[str, Array], Array]:
    """Energies [MeV] of every estimator, and the group of each event."""
    norm = predictor.facts.normalization
    wanted = Wanted(max(predictor.batch_size, 256), predictor.device, norm)
    columns: dict[str, list[Array]] = {}
    groups: list[Array] = []
    with progress("line", sum(part.events for part in parts)) as bar:
        for part in parts:
            part.check(norm)
            if line.group is not None and line.group not in part.columns:
                raise ConfigError(
                    f"has no column {line.group!r}", file=part.name, remedy=nearest(line.group, part.columns)
                )
            for events in part.read(wanted, settings):
                for name, values in _estimates(predictor, events, baselines, inpainter).items():
                    columns.setdefault(name, []).append(np.asarray(values, dtype=np.float64) * GEV_TO_MEV)
                groups.append(np.zeros(len(events)) if line.group is None else events.columns[line.group])
                bar.advance(len(events))
    if not groups:
        raise InputError("no event passes the cut", found=settings.select)
    return {name: np.concatenate(values) for name, values in columns.items()}, np.concatenate(groups)


def _estimates(
    predictor: Predictor, events: Events, baselines: Baselines | None, inpainter: Filler | None
) -> dict[str, NDArray[Any]]:
    """Energies [GeV] by estimator."""
    raw = events.photons(predictor.facts.normalization)
    found = {"network": predictor.predict_events(events)["pred_energy"]}
    filled = fill_from_neighbours(raw.npho)
    found["network, neighbours filled"] = _predicted(predictor, filled, raw)
    if inpainter is not None:
        found["network, inpainted"] = _predicted(predictor, inpainter.fill_events(events).npho, raw)
    if baselines is not None:
        classical = baselines.predict(raw)
        found.update({name: classical[name]["energy"] for name in ("photon_sum", "face_weights") if name in classical})
    if CONVENTIONAL in events.columns:
        found[CONVENTIONAL] = events.columns[CONVENTIONAL]
    return found


def _predicted(predictor: Predictor, npho: NDArray[Any], raw: RawEvents) -> NDArray[Any]:
    """The network on events whose dead sensors have photons again (and no time)."""
    return predictor.predict_events(Events.of_raw(npho, raw.time, columns=raw.columns))["pred_energy"]


def _fitted(name: str, values: Array, groups: Array, line: Line) -> LineResult:
    fits: dict[float, PeakFit] = {}
    moved = np.full(len(values), np.nan)
    for group in np.unique(groups[np.isfinite(groups)]):
        chosen = groups == group
        fit = fit_peak(values[chosen], line.energy, line.shape)
        if fit is not None:
            fits[float(group)] = fit
            moved[chosen] = values[chosen] - fit.mean + line.energy
    if len(fits) < len(np.unique(groups)):
        logger.info("%s: %d of %d groups have enough events for a fit", name, len(fits), len(np.unique(groups)))
    return LineResult(name, fits, fit_peak(moved, line.energy, line.shape), moved)


def as_json(results: Sequence[LineResult], line: Line) -> dict[str, Any]:
    """Every fit in numbers [MeV]."""
    return {
        "line": line.energy,
        "group": line.group,
        "shape": line.shape,
        "estimators": {
            result.name: {
                "together": None if result.together is None else _plain(result.together),
                "groups": {f"{group:g}": _plain(fit) for group, fit in result.groups.items()},
            }
            for result in results
        },
    }


def _plain(fit: PeakFit) -> dict[str, float | None]:
    numbers = {
        "mean": fit.mean,
        "mean_error": fit.mean_error,
        "sigma": fit.sigma,
        "sigma_error": fit.sigma_error,
        "events": float(fit.events),
    }
    return {name: value if np.isfinite(value) else None for name, value in numbers.items()}
