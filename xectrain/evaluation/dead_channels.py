"""What dead channels cost, and what each way of filling them recovers: every strategy on the same events.

Working sensors are removed from each event, in addition to those already dead; a regressor then sees the event as it
was, with the sensors missing (`raw`), and with them filled by each strategy.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from shards import geometry as geo
from shards.base import ConfigError, InputError, locked, nearest, progress, publish_json
from shards.dead import DeadList
from shards.identity import IDENTITY
from xectrain.baselines import RawEvents, fill
from xectrain.evaluation.pages import Row, Section, Table, write_page
from xectrain.evaluation.plots import save_pages
from xectrain.evaluation.plots.dead_channels import dead_pages
from xectrain.evaluation.results import DeadStudy
from xectrain.evaluation.tables import BASELINE, TaskTable, task_table, write_frame
from xectrain.evaluation.wording import digits, finite, headline_label, model_name, plus_minus
from xectrain.inference.events import Events
from xectrain.inference.regressor import Predictor
from xectrain.inference.rows import truth_columns
from xectrain.inference.sensors import SensorPredictor
from xectrain.inference.sources import Part, ReadOptions, Wanted
from xectrain.metrics import equal_count_edges, percentile_68
from xectrain.modes.masking import event_key, uniform
from xectrain.tasks import QUANTITIES, TASKS

Array = NDArray[np.float64]
RAW, WHOLE = "raw", "network"
"""Sensors left missing; and no sensor removed, which is the network as every other table shows it."""
CLASSICAL = {
    "neighbours": "ring_mean",
    "solid-angle": "ring_solid_angle",
    "near": "near_solid_angle",
    "local-fit": "local_fit",
}
"""Strategies that need no model → filling."""
LOST = "light_lost"
SEED, STREAM = 0, 9


class Strategy(Protocol):
    """Events with sensors missing → events as the network is to see them."""

    def __call__(self, events: RawEvents) -> RawEvents: ...


@dataclass(frozen=True)
class DeadOptions:
    """Which sensors are removed: those of a list, or a fraction of all, different ones in each event."""

    listed: DeadList | None = None
    fraction: float = 0.0

    def missing(self, columns: Mapping[str, Array], count: int) -> NDArray[np.bool_]:
        """bool (n, 4760).

        Raises:
            ConfigError: a fraction without run and event numbers, from which the choice is made.
        """
        if self.listed is not None:
            found = self.listed.mask(columns.get("run", np.full(count, np.nan)))
            return np.zeros((count, geo.N_SENSORS), dtype=bool) if found is None else found
        if "run" not in columns or "event" not in columns:
            raise ConfigError("which sensors are removed follows from run and event number, which the data do not have")
        run, event = (torch.from_numpy(columns[name].astype(np.int64)) for name in IDENTITY)
        chance = uniform(event_key(SEED, None, run, event), STREAM, geo.N_SENSORS)
        return np.asarray(chance.numpy() < self.fraction)


def strategy(name: str, fillers: Mapping[str, SensorPredictor]) -> Strategy:
    """The strategy of this name: one of `CLASSICAL`, or `inpaint:RUN`.

    Args:
        fillers: by such a name.

    Raises:
        ConfigError: there is none.
    """
    if name in fillers:
        model = fillers[name]

        def inpainted(events: RawEvents) -> RawEvents:
            found = model.fill_events(Events.of_raw(events.npho, events.time, columns=events.columns))
            return RawEvents(found.npho, found.time, events.columns)

        return inpainted
    if name not in CLASSICAL:
        valid = [RAW, *CLASSICAL, "inpaint:RUN"]
        raise ConfigError(
            "is not a way to treat dead sensors", item="strategy", found=name, remedy=nearest(name, valid)
        )
    filling = CLASSICAL[name]
    return lambda events: fill(events, filling)


def study_dead(
    predictor: Predictor,
    parts: Sequence[Part],
    folder: Path,
    strategies: Mapping[str, Strategy],
    options: DeadOptions,
    settings: ReadOptions,
    max_events: int,
) -> DeadStudy:
    """Predict with every strategy; write tables, plots, `dead.json` and `report.html` into `folder`.

    Args:
        strategies: by name; `raw` and the network without missing sensors are always there.
        max_events: of all parts together.

    Raises:
        InputError: no event, or none with truth.
    """
    facts = predictor.facts
    for part in parts:
        part.check(facts.normalization)
    with locked(folder / ".lock", f"studying dead channels into {folder}"):
        table = _predicted(predictor, parts, strategies, options, settings, max_events)
        tasks = {task: task_table(task, table, (LOST, "n_missing")) for task in facts.tasks}
        tasks = {name: own for name, own in tasks.items() if own.has_truth and name != "n_gamma"}
        if not tasks:
            raise InputError("has no truth for any task of the model", file=parts[0].name)
        methods = (WHOLE, RAW, *strategies)
        shifts = {name: {m: _moved(own, m) for m in methods[1:]} for name, own in tasks.items()}
        metrics = {
            name: {method: own.metrics(method, resamples=50) for method in methods} for name, own in tasks.items()
        }
        lost, missing = table[LOST], table["n_missing"]
        study = DeadStudy(methods, len(lost), float(np.mean(missing)), float(np.mean(lost)), metrics, shifts)
        write_frame(pl.DataFrame(table), folder / "dead_events")
        pages = {
            name: save_pages(dead_pages(own, methods, lost), folder / f"dead_{name}.pdf") for name, own in tasks.items()
        }
        sections = [
            Section(
                name,
                (_shifts(study, name), _summary(study, name), *_binned(own, methods, lost)),
                tuple(pages[name][1:]),
            )
            for name, own in tasks.items()
        ]
        lead = (
            f"{model_name(facts)} · {study.events} events, of each {study.missing:.0f} sensors removed with "
            f"{100 * study.lost:.2f} % of the light on average"
        )
        write_page(
            folder / "report.html",
            "Dead channels",
            lead,
            sections,
            (("model", facts.file.name), ("sha256", facts.digest)),
        )
        publish_json(folder / "dead.json", as_json(study))
    return study


def _predicted(
    predictor: Predictor,
    parts: Sequence[Part],
    strategies: Mapping[str, Strategy],
    options: DeadOptions,
    settings: ReadOptions,
    max_events: int,
) -> dict[str, NDArray[Any]]:
    """A row per event: truth, the fraction of the light that was removed, and every strategy's predictions."""
    wanted = Wanted.of(predictor)
    tables: list[dict[str, NDArray[Any]]] = []
    done = 0
    with progress("dead channels", min(max_events, sum(part.events for part in parts))) as bar:
        for part in parts:
            if done >= max_events:
                break
            for events in part.read(wanted, settings):
                raw = events[: max_events - done].photons(predictor.facts.normalization)
                tables.append(_rows(predictor, raw, strategies, options))
                done += len(raw)
                bar.advance(len(raw))
                if done >= max_events:
                    break
    if not tables:
        raise InputError("no events are left to study", found=settings.select)
    return {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}


def _rows(
    predictor: Predictor, whole: RawEvents, strategies: Mapping[str, Strategy], options: DeadOptions
) -> dict[str, NDArray[Any]]:
    """The rows of some events."""
    taken = options.missing(whole.columns, len(whole)) & ~np.isnan(whole.npho)
    light = np.maximum(np.nan_to_num(whole.npho), 0).astype(np.float64)
    cut = RawEvents(np.where(taken, np.nan, whole.npho), np.where(taken, np.nan, whole.time), whole.columns)
    table: dict[str, NDArray[Any]] = {n: whole.columns[n] for n in IDENTITY if n in whole.columns}
    table.update({f"true_{n}": v for n, v in truth_columns(predictor.facts, dict(whole.columns)).items()})
    table["n_missing"] = taken.sum(axis=1)
    table[LOST] = (light * taken).sum(axis=1) / np.maximum(light.sum(axis=1), 1.0)
    table.update(_numbers(predictor, whole, ""))
    table.update(_numbers(predictor, cut, RAW))
    for name, treat in strategies.items():
        table.update(_numbers(predictor, treat(cut), name))
    return table


def _numbers(predictor: Predictor, events: RawEvents, method: str) -> dict[str, NDArray[Any]]:
    """The network's predictions, named as those of a method of `TaskTable`."""
    found = predictor.predict_events(Events.of_raw(events.npho, events.time, columns=events.columns))
    own = {n: v for n, v in found.items() if n.startswith("pred_")}
    return own if not method else {f"{BASELINE}{method}_{n.removeprefix('pred_')}": v for n, v in own.items()}


def _moved(table: TaskTable, method: str) -> dict[str, float]:
    """Column → 68 % of |prediction − prediction without missing sensors|, in the unit people use."""
    found = {}
    for column in table.names:
        shift = np.abs(table.residuals(column, method) - table.residuals(column))
        found[column] = percentile_68(np.sort(shift[np.isfinite(shift)]))
    return found


def _shifts(study: DeadStudy, task: str) -> Table:
    """How far predictions move when sensors go missing, event by event, which is the sharpest comparison."""
    shifts = study.shifts[task]
    columns = list(shifts[RAW])
    rows = [
        Row((strategy_label(m), *(digits(shifts[m][c]) for c in columns)), "strong" if m == RAW else "") for m in shifts
    ]
    heads = (f"{c} [{QUANTITIES[c].unit}]".replace(" []", "") for c in columns)
    return Table(
        ("", *heads), tuple(rows), "How far predictions move from those without missing sensors: 68 % of |shift|"
    )


def _summary(study: DeadStudy, task: str) -> Table:
    """Headline numbers of every strategy."""
    heads = [name for name in TASKS[task].headline if name in study.metrics[task][WHOLE]]
    unit = {name: study.metrics[task][WHOLE][name].unit for name in heads}
    rows = []
    for method in study.methods:
        found = study.metrics[task][method]
        cells = (plus_minus(found[name].value, found[name].error) for name in heads)
        rows.append(Row((strategy_label(method), *cells), {WHOLE: "network", RAW: "strong"}.get(method, "")))
    titles = (f"{headline_label(name)} [{unit[name]}]".replace(" []", "") for name in heads)
    return Table(("", *titles), tuple(rows), "All events")


def _binned(table: TaskTable, methods: Sequence[str], lost: Array) -> list[Table]:
    """68 % of |residual| in bins of the light that was lost, one table per column."""
    edges = equal_count_edges(lost, 4)
    heads = tuple(f"{100 * low:.1f}–{100 * high:.1f} %" for low, high in itertools.pairwise(edges))
    found = []
    for column in table.names:
        rows = []
        for method in methods:
            cells = []
            for low, high in itertools.pairwise(edges):
                chosen = table.selected((lost >= low) & (lost <= high))
                r = np.abs(chosen.residuals(column, method))
                r = r[np.isfinite(r)]
                cells.append(digits(float(np.quantile(r, 0.68))) if r.size >= 10 else "")
            rows.append(Row((strategy_label(method), *cells), {WHOLE: "network", RAW: "strong"}.get(method, "")))
        found.append(Table(("", *heads), tuple(rows), f"{column}: 68 % of |r| against the light that was lost"))
    return found


def strategy_label(method: str) -> str:
    """As tables and legends call it."""
    return {WHOLE: "no sensor missing", RAW: "raw: sensors missing"}.get(method, f"filled: {method}")


def as_json(study: DeadStudy) -> dict[str, Any]:
    """Every number: task → strategy → metric → [value, error, unit]."""
    return {
        "events": study.events,
        "missing_sensors": study.missing,
        "light_lost": study.lost,
        "shift_68pct": {
            task: {method: {c: finite(v) for c, v in columns.items()} for method, columns in methods.items()}
            for task, methods in study.shifts.items()
        },
        "tasks": {
            task: {
                method: {m.name: [m.value, m.error, m.unit] for m in found.metrics if np.isfinite(m.value + m.error)}
                for method, found in methods.items()
            }
            for task, methods in study.metrics.items()
        },
    }
