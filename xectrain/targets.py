"""What a network learns for each task: targets from truth columns, and what standardizes them.

Truth arrives as float64 (B, columns) in the dataset's column order; targets stay float64 until they are standardized,
because a run's absolute times need more digits than float32 has. B events, K values of a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shards.base import ConfigError, nearest
from shards.geometry import LIGHT_SPEED
from shards.normalization import HUGE
from xectrain.tasks import N_GAMMA_CLASSES, Task, find_task

SMALLEST_SPREAD = 1e-4
"""Of differences to a reference, in their unit: what a handful of equal events must not be divided by."""
RANGE_QUANTILES = (0.0, 0.001, 0.01, 0.05, 0.16, 0.5, 0.84, 0.95, 0.99, 0.999, 1.0)
"""Quantiles of the targets and input summaries that a model keeps of its training set."""


@dataclass(frozen=True)
class TargetOptions:
    """What the targets of a dataset depend on apart from its columns."""

    relative_time: bool = True
    """Sensor times are relative to `time_min_used` (the manifest says so): then so is the target of `timing`."""
    timing_at: Literal["conversion", "vertex"] = "conversion"
    """The time to learn: at the conversion point, or at the vertex."""


def required_columns(task: Task, options: TargetOptions, absolute: bool = False) -> tuple[str, ...]:
    """Truth columns that the target of `task` is made of (`absolute`: the value that `true_*` shows)."""
    if task.name != "timing":
        return task.columns
    relative = ("time_min_used",) if options.relative_time and not absolute else ()
    flight = ("x", "y", "z", "vtx_x", "vtx_y", "vtx_z") if options.timing_at == "conversion" else ()
    return (*task.columns, *relative, *flight)


def check_columns(tasks: Iterable[str], columns: Sequence[str], options: TargetOptions) -> None:
    """Refuse tasks whose truth a dataset does not have.

    Raises:
        ConfigError: naming the first column that is missing.
    """
    for name in tasks:
        task = find_task(name)
        for column in required_columns(task, options):
            if column not in columns:
                flight = column.startswith("vtx_") or (task.name == "timing" and column in ("x", "y", "z"))
                raise ConfigError(
                    f"needs the truth column {column!r}, which the data do not have",
                    item=f"tasks.{task.name}",
                    remedy="set tasks.timing_at=vertex"
                    if flight
                    else f"switch the task off, or add {column} to the schema",
                )


def targets(task: Task, truth_BX: Tensor, columns: Sequence[str], options: TargetOptions) -> Tensor:
    """What the network is to learn, in physical units.

    Args:
        truth_BX: float64 (B, columns).
        columns: their names.

    Returns:
        float64 (B, K), or (B, 1) class numbers for `n_gamma`; a row with a missing value is NaN throughout. The
        target of `timing` is relative to `time_min_used` where the sensor times are.
    """
    return _values(task, truth_BX, columns, options, options.relative_time)


def true_values(task: Task, truth_BX: Tensor, columns: Sequence[str], options: TargetOptions) -> Tensor:
    """As `targets`, but the time as an absolute one: what the `true_*` columns of predictions show."""
    return _values(task, truth_BX, columns, options, relative=False)


def _values(task: Task, truth_BX: Tensor, columns: Sequence[str], options: TargetOptions, relative: bool) -> Tensor:
    where = {name: i for i, name in enumerate(columns)}
    for column in required_columns(task, options, absolute=not relative):
        if column not in where:
            raise ConfigError(
                f"needs the truth column {column!r}", item=f"tasks.{task.name}", remedy=nearest(column, columns)
            )

    def pick(*names: str) -> Tensor:
        return truth_BX[:, [where[name] for name in names]].double()

    value_BK = pick(*task.columns)
    if task.name == "timing":
        if relative:
            value_BK = value_BK - 1e9 * pick("time_min_used")
        if options.timing_at == "conversion":
            value_BK = value_BK + _flight_time(pick("x", "y", "z"), pick("vtx_x", "vtx_y", "vtx_z"))
    good_B1 = value_BK.isfinite().all(dim=1, keepdim=True)
    if task.kind == "classes":
        known = (value_BK >= 0) & (value_BK < N_GAMMA_CLASSES) & (value_BK == value_BK.round())
        good_B1 = good_B1 & known
    return torch.where(good_B1, value_BK, torch.full_like(value_BK, float("nan")))


def _flight_time(point_B3: Tensor, vertex_B3: Tensor) -> Tensor:
    """Time of light from the vertex to the conversion point: (B, 1), ns."""
    distance_B1 = (point_B3 - vertex_B3).square().sum(dim=1, keepdim=True).sqrt()
    return distance_B1 / LIGHT_SPEED


def absolute_time(
    relative_B: npt.NDArray[np.float64], time_min_used_B: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """A predicted relative time (ns) as an absolute one (ns), given `time_min_used` (s); float64. NaN where that is
    not finite or beyond ±9e9, which means unknown.
    """
    earliest = np.asarray(time_min_used_B, np.float64)
    known = np.abs(earliest) <= HUGE
    return np.asarray(relative_B, np.float64) + 1e9 * np.where(known, earliest, np.nan)


@dataclass(frozen=True, eq=False)
class TargetStatistics:
    """What standardizes a task's targets."""

    mean: npt.NDArray[np.float64]
    """(K,), of the logarithms with `log_transform`."""
    spread: npt.NDArray[np.float64]
    """(K,), standard deviation."""
    quantiles: npt.NDArray[np.float64]
    """(K, len(RANGE_QUANTILES)), in physical units."""
    count: int
    """Events with truth for the task."""


def fit_statistics(task: Task, target_NK: npt.NDArray[np.float64], log_transform: bool = False) -> TargetStatistics:
    """Mean, spread and quantiles of a training set's targets; events without truth (NaN) are left out.

    Raises:
        ConfigError: no event has truth, a target has no spread, or the logarithm of a value that is not positive is
            required.
    """
    good = target_NK[np.isfinite(target_NK).all(axis=1)]
    item = f"tasks.{task.name}"
    if not len(good):
        raise ConfigError("no event has truth for this task", item=item, remedy="switch the task off")
    for column, values in zip(task.columns, good.T, strict=True):
        if log_transform and values.min() <= 0:
            raise ConfigError(
                f"log_transform needs positive values of {column!r}", item=item, found=f"{values.min():g}"
            )
        if np.ptp(values) <= 1e-6 * max(abs(values).max(), 1e-12):
            raise ConfigError(
                f"the truth column {column!r} has no spread, so there is nothing to learn",
                item=item,
                found=f"{values[0]:g} in all {len(values)} events",
                remedy="switch the task off, or train on a sample where it varies",
            )
    scaled = np.log(good) if log_transform else good
    quantiles = np.quantile(good, RANGE_QUANTILES, axis=0).T
    if task.kind != "values" and task.kind != "unit_vector":
        return TargetStatistics(np.zeros(task.size), np.ones(task.size), quantiles, len(good))
    return TargetStatistics(scaled.mean(axis=0), scaled.std(axis=0), quantiles, len(good))


def fit_differences(
    task: Task, difference_NK: npt.NDArray[np.float64], left_NK: npt.NDArray[np.float64]
) -> TargetStatistics:
    """Median of target − reference, and what it is measured in: half of the central 68 % of what a regression leaves.

    So every value's loss is in units of how well it can be known, and neither a wrong photon nor a tail sets the scale.

    Args:
        difference_NK: (n, K), of logarithms where those are learned; NaN without truth.
        left_NK: (n, K), what a regression on the light's facts leaves of it; used where it is the smaller.
    """
    known = np.isfinite(difference_NK).all(axis=1)
    good, left = difference_NK[known], left_NK[known]
    if not len(good):
        raise ConfigError("no event of the sample has a usable target for this task", item=f"tasks.{task.name}")
    spread = np.minimum(*(np.subtract(*np.quantile(values, (0.84, 0.16), axis=0)) / 2 for values in (good, left)))
    quantiles = np.quantile(good, RANGE_QUANTILES, axis=0).T
    return TargetStatistics(np.median(good, axis=0), np.maximum(spread, SMALLEST_SPREAD), quantiles, len(good))
