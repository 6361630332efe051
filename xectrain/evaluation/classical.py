"""Network and classical methods on the same events: calibration on the training set, and one table of predictions."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from shards.base import InputError, XecError, progress
from shards.dataset import Dataset
from shards.identity import IDENTITY
from shards.opening import open_dataset
from xectrain.baselines import Baselines, RawEvents, calibrate
from xectrain.data import located, open_training_data
from xectrain.evaluation.results import CALIBRATION_EVENTS
from xectrain.evaluation.tables import BASELINE
from xectrain.inference.events import Columns, Events
from xectrain.inference.model import IN_RANGE, ModelFacts, config_of
from xectrain.inference.regressor import Predictor
from xectrain.inference.rows import truth_columns
from xectrain.inference.sources import Part, ReadOptions, Wanted
from xectrain.inference.unlike import Watch
from xectrain.targets import absolute_time, required_columns, targets
from xectrain.tasks import TASKS
from xectrain.workers import in_order

logger = logging.getLogger(__name__)

CHUNK = 512
"""Events on which the classical methods are calibrated at a time."""


def calibrated_baselines(facts: ModelFacts, data: Path | None = None, events: int = CALIBRATION_EVENTS) -> Baselines:
    """Classical methods calibrated on the model's own training events, or on another dataset.

    Args:
        data: dataset to calibrate on; None: the training views of the model's configuration.
        events: how many events to use, taken evenly.

    Returns:
        The calibrated methods; only the mean of the training set (which the model knows) if its data are unavailable.
    """
    try:
        views = training_views(facts, data)
    except XecError as error:
        if data is not None:
            raise
        logger.warning("the training data cannot be read (%s): the network is only compared with their mean", error)
        return Baselines(dict(facts.means), None, None, None)
    total = sum(len(rows) for _, rows in views)
    step = max(1, total // events)
    chosen = [(dataset, rows[::step]) for dataset, rows in views]
    count = sum(len(rows) for _, rows in chosen)
    logger.info("classical methods are calibrated on %d of %d training events", count, total)
    columns = [c for task in facts.tasks for c in TASKS[task].columns]
    with progress("calibration", 2 * count) as bar:

        def batches() -> Iterator[RawEvents]:
            for dataset, rows in chosen:
                for part in np.array_split(rows, max(1, -(-len(rows) // CHUNK))):
                    sensors, truth = dataset.read(part)
                    named = {name: truth[:, i] for i, name in enumerate(dataset.columns)}
                    yield RawEvents.from_sensors(sensors, dataset.normalization, sensor_frame(facts, named))
                    bar.advance(len(part))

        found = calibrate(batches, columns, chosen[0][0].geometry)
    return replace(found, means={**found.means, **facts.means})


def training_views(facts: ModelFacts, data: Path | None = None) -> list[tuple[Dataset, NDArray[np.int64]]]:
    """(dataset, rows) that the model was trained on, or all of another dataset.

    Raises:
        InputError, ConfigError: it cannot be read.
    """

    if data is not None:
        dataset = open_dataset(data)
        return [(dataset, dataset.rows())]

    config = config_of(facts)
    views = open_training_data(located(config.data, facts.file.parent), config.train.seed).train
    return [(view.dataset, view.rows) for view in views]


def known_events(facts: ModelFacts, columns: Mapping[str, NDArray[Any]], data: Path | None = None) -> int:
    """How many of some events the model was trained on (or are in another dataset, as for `training_views`).

    Args:
        columns: (n,) each, canonical units. Run and event number and the truth must agree: productions share numbers.

    Returns:
        0 also where the events have no numbers or no truth, or the training data are not there.
    """
    try:
        views = training_views(facts, data)
    except XecError:
        return 0
    known = np.zeros(len(next(iter(columns.values()))), dtype=bool)
    for dataset, rows in views:
        truth = [c for c in ("energy", "u", "v", "theta") if c in columns and c in dataset.columns]
        keys = [*IDENTITY, *truth]
        if not truth or not all(c in columns and c in dataset.columns for c in IDENTITY):
            continue
        learned = dataset.table(keys, rows).cast(pl.Float64)
        own = pl.DataFrame({c: columns[c] for c in keys}).cast(pl.Float64).with_row_index("row")
        known[own.join(learned, on=keys, how="semi")["row"].to_numpy()] = True
    return int(np.count_nonzero(known))


def training_sample(
    facts: ModelFacts, data: Path | None, events: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Some raw training events, photons and seconds (n, 4760), NaN where a sensor gave none.

    Raises:
        InputError, ConfigError: the training data (or `data`) cannot be read.
    """
    dataset, rows = training_views(facts, data)[0]
    sensors, _ = dataset.read(rows[:: max(1, len(rows) // events)][:events])
    raw = RawEvents.from_sensors(sensors, dataset.normalization, {})
    return raw.npho, raw.time


def sensor_frame(facts: ModelFacts, columns: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The columns with `timing` as the sensors see it: at the model's point, relative where the sensor times are."""
    task = TASKS["timing"]
    needed = required_columns(task, facts.targets)
    if "timing" not in facts.tasks or not all(c in columns for c in needed):
        return {name: values for name, values in columns.items() if name != "timing"}

    table = torch.from_numpy(np.column_stack([columns[c] for c in needed]))
    return {**columns, "timing": targets(task, table, needed, facts.targets).numpy()[:, 0]}


def predict_part(
    predictor: Predictor, part: Part, settings: ReadOptions, baselines: Baselines | None
) -> tuple[Columns, Columns]:
    """Everything predicted for a part.

    Returns:
        The prediction table (`xectrain.evaluation.tables`), and the input's own columns, both in input order.

    Raises:
        InputError: no event passes the selection.
    """
    tables: list[Columns] = []
    inputs: list[Columns] = []
    facts = predictor.facts
    part.check(facts.normalization)
    comparable, watch = _times_compare(facts, part), Watch(predictor)

    def predict(chunk: Events) -> tuple[Columns, Events]:
        truth = truth_columns(facts, chunk.columns)
        if not comparable:
            truth["timing"] = np.full(len(chunk), np.nan)
        table: Columns = {name: chunk.columns[name] for name in IDENTITY if name in chunk.columns}
        table.update({f"true_{n}": v for n, v in truth.items() if _is_truth(part, n)})
        table.update({n: v for n, v in chunk.columns.items() if n not in table and not _is_truth(part, n)})
        table.update(predictor.predict_events(chunk))
        if baselines is not None:
            table.update(_classical(facts, baselines, chunk))
        return table, chunk

    with progress(part.name, part.events) as bar:
        for table, chunk in in_order(predict, part.read(Wanted.of(predictor), settings), predictor.workers):
            tables.append(table)
            inputs.append(dict(chunk.columns))
            first = slice(predictor.batch_size)
            watch.look(part, chunk[first], int(np.count_nonzero(~table[IN_RANGE][first])))
            bar.advance(len(chunk))
    if not tables:
        raise InputError("no events are left to evaluate", file=part.name, found=settings.select)
    return _joined(tables), _joined(inputs)


def _times_compare(facts: ModelFacts, part: Part) -> bool:
    """Whether predicted and true times have the same origin; a warning says where they do not."""
    relative = "timing" in facts.tasks and "timing" in part.columns and facts.targets.relative_time
    if not relative or "time_min_used" in part.columns:
        return True
    logger.warning(
        "%s has no time_min_used, so predicted times are relative and true ones absolute; "
        "the timing is not compared (a schema that names the branch of time_min_used makes it comparable)",
        part.name,
    )
    return False


def _joined(tables: list[Columns]) -> Columns:
    return {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}


def _is_truth(part: Part, column: str) -> bool:
    return column in part.columns and part.columns[column].role == "truth"


def _classical(facts: ModelFacts, baselines: Baselines, events: Events) -> Columns:
    """The predictions of the model's tasks by every classical method, times made absolute as the network's are."""
    wanted = {c for task in facts.tasks for c in TASKS[task].columns}
    table: Columns = {}
    for method, found in baselines.predict(events.photons(facts.normalization)).items():
        for column in (c for c in found if c in wanted):
            values = found[column]
            if column == "timing" and facts.targets.relative_time and events.earliest is not None:
                values = absolute_time(values, events.earliest)
            table[f"{BASELINE}{method}_{column}"] = values
    return table
