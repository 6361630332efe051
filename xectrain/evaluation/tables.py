"""Prediction tables: truth, network and classical predictions of each event, saved so that plots need no model.

Columns: `run`, `event`, `true_*`, `pred_*`, `sigma_*`, `in_training_range`, `base_<method>_<column>`, `limit_*` (toy),
carried columns.
Values are in canonical units (degree, GeV, ns, cm).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shards.base import CorruptError, InputError, published
from shards.expressions import evaluate
from shards.identity import IDENTITY
from xectrain.metrics import TaskMetrics, residual, task_metrics
from xectrain.metrics.statistics import FRACTION_1SIGMA
from xectrain.metrics.tasks import Intervals
from xectrain.metrics.uncertainty import FRACTION_2SIGMA
from xectrain.tasks import QUANTITIES, find_task, quantile_of

NETWORK = "network"
BASELINE = "base_"
BINNING = ("energy", "u", "v", "w", "theta", "phi")
"""Truth against which resolutions are drawn, where the data have it."""
LIMIT = "limit_"
"""Prefix of the columns with the toy's limit."""
WIDTHS = ("core_sigma", "effective_sigma", "half_width_68", "upper_half_width", "res_68pct")
"""Metrics that are σ for a Gaussian."""
ALWAYS = (*IDENTITY, "in_training_range")


@dataclass(frozen=True, eq=False)
class TaskTable:
    """The predictions of one task."""

    task: str
    columns: Mapping[str, NDArray[Any]]
    """(n,) each."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def names(self) -> tuple[str, ...]:
        """The task's truth columns."""
        return find_task(self.task).columns

    @property
    def methods(self) -> tuple[str, ...]:
        """`network` and the classical methods that predict every column of the task."""
        first = self.names[0]
        found = [n[len(BASELINE) : -len(first) - 1] for n in self.columns if _is_baseline(n, first)]
        return (NETWORK, *(m for m in found if all(f"{BASELINE}{m}_{c}" in self.columns for c in self.names)))

    @property
    def has_truth(self) -> bool:
        """Whether there is truth to compare with in any event."""
        return all(f"true_{c}" in self.columns and np.isfinite(self.columns[f"true_{c}"]).any() for c in self.names)

    def truth(self) -> dict[str, NDArray[np.float64]]:
        """Truth by column."""
        return {c: self.columns[f"true_{c}"] for c in self.names}

    def prediction(self, method: str = NETWORK) -> dict[str, NDArray[np.float64]]:
        """A method's predictions by column."""
        prefix = "pred_" if method == NETWORK else f"{BASELINE}{method}_"
        return {c: self.columns[prefix + c] for c in self.names}

    def residuals(self, column: str, method: str = NETWORK) -> NDArray[np.float64]:
        """Prediction − truth of a column (n,), in the unit people use."""
        return QUANTITIES[column].scale * residual(column, self.prediction(method)[column], self.truth()[column])

    def sigma(self) -> dict[str, NDArray[np.float64]]:
        """The network's uncertainties, of the columns that have one."""
        return {c: self.columns[f"sigma_{c}"] for c in self.names if f"sigma_{c}" in self.columns}

    def quantile_intervals(self) -> dict[str, Intervals]:
        """The intervals between pairs of predicted quantiles, of the columns that have some."""
        found: dict[str, Intervals] = {}
        for c in self.names:
            prefix = f"pred_{c}_q"
            by_q = {quantile_of(n[len(prefix) - 1 :]): v for n, v in self.columns.items() if n.startswith(prefix)}
            for q in sorted(by_q):
                other = next((p for p in by_q if q < 0.5 and math.isclose(p, 1 - q)), None)
                if other is not None:
                    found.setdefault(c, {})[round(1 - 2 * q, 12)] = (by_q[q], by_q[other])
        return found

    def intervals(self) -> dict[str, Intervals]:
        """The predicted intervals of every column that has some, of quantiles or of one and two σ."""
        found = self.quantile_intervals()
        for c, sigma in self.sigma().items():
            middle = self.prediction()[c]
            widths = {FRACTION_1SIGMA: sigma, 0.95: FRACTION_2SIGMA * sigma}
            found[c] = {nominal: (middle - width, middle + width) for nominal, width in widths.items()}
        return found

    def limit(self, column: str) -> NDArray[np.float64] | None:
        """What the toy allows for a column, (n,) standard deviations in the unit people use; None where not asked."""
        found = self.columns.get(f"{LIMIT}{column}")
        return None if found is None else QUANTITIES[column].scale * found

    def limits(self) -> dict[str, float]:
        """Metric → what the toy allows, as the RMS over the events."""
        found = {}
        for column in self.names:
            limit = self.limit(column)
            if limit is not None and np.isfinite(limit).any():
                rms = float(np.sqrt(np.nanmean(limit**2)))
                found.update({f"{QUANTITIES[column].prefix}_{name}": rms for name in WIDTHS})
                if column == "energy":
                    relative = 100 * self.columns[f"{LIMIT}energy"] / self.truth()["energy"]
                    found["energy_relative_effective_sigma"] = float(np.nanmean(relative))
        return found

    def selected(self, mask: NDArray[np.bool_]) -> TaskTable:
        """The events in `mask`."""
        return TaskTable(self.task, {name: values[mask] for name, values in self.columns.items()})

    def metrics(self, method: str = NETWORK, **options: Any) -> TaskMetrics:
        """`metrics.task_metrics` of a method."""
        if method == NETWORK:
            options |= {"sigma": self.sigma(), "intervals": self.quantile_intervals()}
        return task_metrics(self.task, self.prediction(method), self.truth(), **options)

    def write(self, folder: Path) -> list[Path]:
        """Publish `predictions_<task>.csv` and `.parquet` in `folder`."""
        return write_frame(_frame(self.columns), folder / f"predictions_{self.task}")


def write_frame(frame: pl.DataFrame, stem: Path) -> list[Path]:
    """Publish a table as `STEM.csv` and `STEM.parquet`."""
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".csv", ".parquet")]
    with published(paths[0]) as part:
        frame.write_csv(part)
    with published(paths[1]) as part:
        frame.write_parquet(part)
    return paths


def _is_baseline(name: str, column: str) -> bool:
    return name.startswith(BASELINE) and name.endswith(f"_{column}")


def task_table(task: str, columns: Mapping[str, NDArray[Any]], carry: Sequence[str] = ()) -> TaskTable:
    """The part of a whole table that belongs to one task.

    Args:
        columns: of all tasks.
        carry: further columns to keep.
    """
    own = find_task(task).columns
    kept = [n for n in (*ALWAYS, *(f"true_{c}" for c in (*own, *BINNING)), *carry) if n in columns]
    kept += [n for n in (f"{LIMIT}{c}" for c in own) if n in columns]
    for name in columns:
        is_own = any(name in (f"pred_{c}", f"sigma_{c}") or name.startswith(f"pred_{c}_q") for c in own)
        if is_own or any(_is_baseline(name, c) for c in own) or name.startswith(f"prob_{own[0]}_"):
            kept.append(name)
    return TaskTable(task, {name: columns[name] for name in dict.fromkeys(kept)})


def read_table(path: Path) -> TaskTable:
    """Read `predictions_<task>.parquet`.

    Raises:
        InputError: it does not exist. CorruptError: it is damaged.
    """

    if not path.is_file():
        raise InputError("there is no such prediction table", file=path, remedy="`xec evaluate` writes it")
    try:
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CorruptError(f"cannot be read: {error}", file=path) from error
    task = path.stem.removeprefix("predictions_")
    return TaskTable(find_task(task).name, {name: frame[name].to_numpy() for name in frame.columns})


def _frame(columns: Mapping[str, NDArray[Any]]) -> pl.DataFrame:
    """The columns as a frame, with run and event numbers as integers where every event has one."""

    table = {}
    for name, values in columns.items():
        whole = name in IDENTITY and values.dtype.kind == "f" and bool(np.all(np.isfinite(values)))
        table[name] = values.astype(np.int64) if whole else values
    return pl.DataFrame(table)


def selected_by(table: TaskTable, expression: str | None) -> TaskTable:
    """The rows that pass an expression on the table's columns; all without one."""
    if expression is None:
        return table

    return table.selected(evaluate(expression, _frame(table.columns)))
