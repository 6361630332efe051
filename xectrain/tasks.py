"""The regression tasks: which truth columns they learn, in which unit, how targets are made of them, and what comes
out.

Truth arrives as float64 (B, columns) in the dataset's column order; targets stay float64 until they are standardized,
because a run's absolute times need more digits than float32 has. B events, K values of a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shards.base import ConfigError, nearest
from shards.geometry import LIGHT_SPEED
from shards.normalization import HUGE
from xectrain.config.networks import TaskConfig

N_GAMMA_CLASSES = 5
SMALLEST_SPREAD = 1e-4
"""Of differences to a reference, in their unit: what a handful of equal events must not be divided by."""
RANGE_QUANTILES = (0.0, 0.001, 0.01, 0.05, 0.16, 0.5, 0.84, 0.95, 0.99, 0.999, 1.0)
"""Quantiles of the targets and input summaries that a model keeps of its training set."""
MEAN = "mean"
"""The rival that predicts the mean of the training set, whatever the event."""


@dataclass(frozen=True)
class Quantity:
    """One value that a task predicts: its truth column, and how people want it to be shown."""

    column: str
    """Truth column; predictions are `pred_` + this. In canonical units (degree, GeV, ns, cm)."""
    prefix: str
    """Of the names of its metrics."""
    symbol: str
    """In plots."""
    unit: str
    """It is shown in; empty for pure numbers."""
    scale: float = 1.0
    """Shown value = canonical value × scale."""


@dataclass(frozen=True)
class Task:
    """What a head predicts, and everything that depends on the task: there is no other table of tasks."""

    name: str
    quantities: tuple[Quantity, ...]
    unit: str
    """Canonical unit of all its values."""
    description: str
    kind: Literal["values", "unit_vector", "classes"] = "values"
    strong: str = MEAN
    """The classical method that a network has to beat (`xectrain.baselines`)."""
    simple: str = MEAN
    """A simple one, for orientation."""
    headline: tuple[str, ...] = ()
    """The few metrics that fit into one table."""
    tile: str = ""
    """The one metric that heads a report."""
    bins: tuple[int, ...] = ()
    """Of its first columns, where the task can be reweighted; empty: it cannot."""
    directional: bool = False
    """Whether the `angular` loss makes sense."""
    loss: str = "smooth_l1"
    """Default loss."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Truth columns, one per value."""
        return tuple(quantity.column for quantity in self.quantities)

    @property
    def size(self) -> int:
        """K, values per event before a loss multiplies them: logits for `classes`."""
        return N_GAMMA_CLASSES if self.kind == "classes" else len(self.quantities)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "angle",
            (Quantity("theta", "theta", "θ", "degree"), Quantity("phi", "phi", "φ", "degree")),
            "degree",
            "emission angles",
            headline=("angle_resolution_68pct", "theta_bias", "theta_res_68pct", "phi_bias", "phi_res_68pct"),
            tile="angle_resolution_68pct",
            bins=(20, 20),
            directional=True,
            strong="local_fit_corrected",
            simple="light_weighted",
        ),
        Task(
            "energy",
            (Quantity("energy", "energy", "E", "MeV", 1e3),),
            "GeV",
            "gamma energy",
            strong="face_weights",
            simple="photon_sum",
            headline=(
                *("energy_bias", "energy_core_sigma", "energy_half_width_68", "energy_upper_half_width"),
                *("energy_res_68pct", "energy_relative_effective_sigma"),
            ),
            tile="energy_relative_effective_sigma",
            bins=(30,),
        ),
        Task(
            "timing",
            (Quantity("timing", "timing", "t", "ps", 1e3),),
            "ns",
            "gamma time",
            strong="light_path",
            simple="mean_time",
            headline=("timing_bias", "timing_res_68pct", "timing_effective_sigma", "timing_core_sigma"),
            tile="timing_core_sigma",
            bins=(30,),
        ),
        Task(
            "uvwFI",
            tuple(Quantity(c, f"uvw_{c}", c, "cm") for c in "uvw"),
            "cm",
            "first interaction, detector coordinates",
            headline=(
                *(f"uvw_{axis}_{name}" for name in ("bias", "core_sigma", "res_68pct") for axis in "uvw"),
                "uvw_dist_68pct",
            ),
            tile="uvw_dist_68pct",
            bins=(10, 10),
            strong="local_fit_corrected",
            simple="light_weighted",
        ),
        Task(
            "xyzFI",
            tuple(Quantity(c, f"xyz_{c}", c, "cm") for c in "xyz"),
            "cm",
            "first interaction",
            headline=(
                *(f"xyz_{axis}_{name}" for name in ("bias", "core_sigma", "res_68pct") for axis in "xyz"),
                "xyz_dist_68pct",
            ),
            tile="xyz_dist_68pct",
            strong="local_fit_corrected",
            simple="light_weighted",
        ),
        Task(
            "direction",
            tuple(Quantity(f"emi_{c}", f"emi_{c}", f"emission {c}", "") for c in "xyz"),
            "",
            "emission unit vector",
            kind="unit_vector",
            headline=("angle_resolution_68pct",),
            tile="angle_resolution_68pct",
            directional=True,
            strong="local_fit_corrected",
            simple="light_weighted",
        ),
        Task(
            "n_gamma",
            (Quantity("n_gamma", "n_gamma", "n", ""),),
            "",
            "number of gammas, 0-4",
            kind="classes",
            headline=("n_gamma_accuracy",),
            tile="n_gamma_accuracy",
            loss="cross_entropy",
        ),
    )
}
ALIASES = {"angleVec": "direction"}
QUANTITIES: dict[str, Quantity] = {q.column: q for task in TASKS.values() for q in task.quantities}
"""Every predicted value by its truth column."""


def find_task(name: str) -> Task:
    """The task of this name or alias.

    Raises:
        ConfigError: there is none.
    """
    canonical = ALIASES.get(name, name)
    if canonical not in TASKS:
        raise ConfigError("is not a task", item=name, remedy=nearest(name, [*TASKS, *ALIASES]))
    return TASKS[canonical]


@dataclass(frozen=True)
class TargetOptions:
    """What the targets of a dataset depend on beside its columns."""

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
                    f"needs the truth column {column!r}, which the data does not have",
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
        ConfigError: no event has truth, a target has no spread, or a logarithm is asked of a value that is not
            positive.
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
                f"the truth column {column!r} has no spread, there is nothing to learn",
                item=item,
                found=f"{values[0]:g} in all {len(values)} events",
                remedy="switch the task off, or train on a sample where it varies",
            )
    scaled = np.log(good) if log_transform else good
    quantiles = np.quantile(good, RANGE_QUANTILES, axis=0).T
    if task.kind != "values" and task.kind != "unit_vector":
        return TargetStatistics(np.zeros(task.size), np.ones(task.size), quantiles, len(good))
    return TargetStatistics(scaled.mean(axis=0), scaled.std(axis=0), quantiles, len(good))


def fit_differences(task: Task, difference_NK: npt.NDArray[np.float64]) -> TargetStatistics:
    """Median and half of the central 68 % of target − reference; what a wrong photon or a tail does must not set the
    scale.

    Args:
        difference_NK: (n, K), of logarithms where those are learned; NaN without truth.
    """
    good = difference_NK[np.isfinite(difference_NK).all(axis=1)]
    if not len(good):
        raise ConfigError("no event of the sample has a usable target for this task", item=f"tasks.{task.name}")
    low, middle, high = np.quantile(good, (0.16, 0.5, 0.84), axis=0)
    quantiles = np.quantile(good, RANGE_QUANTILES, axis=0).T
    return TargetStatistics(middle, np.maximum((high - low) / 2, SMALLEST_SPREAD), quantiles, len(good))


def quantile_suffix(quantile: float) -> str:
    """Column suffix of a quantile: 0.16 → "q16", 0.025 → "q2p5"."""
    return f"q{100 * quantile:g}".replace(".", "p")


def parameters_per_value(task: Task, config: TaskConfig) -> int:
    """Outputs per value: 2 with `gaussian_nll`, one per quantile with `quantile`, else 1."""
    if task.kind == "classes":
        return 1
    return {"gaussian_nll": 2, "quantile": len(config.quantiles)}.get(config.loss, 1)


def output_columns(task: Task, config: TaskConfig) -> list[str]:
    """Names of the prediction columns of a task, in the order `Regressor.predict` gives them."""
    names = [f"pred_{column}" for column in task.columns]
    if task.kind == "classes":
        return names + [f"prob_{task.columns[0]}_{k}" for k in range(task.size)]
    if config.loss == "gaussian_nll":
        names += [f"sigma_{column}" for column in task.columns]
    if config.loss == "quantile":
        others = [q for q in config.quantiles if q != 0.5]
        names += [f"pred_{column}_{quantile_suffix(q)}" for q in others for column in task.columns]
    return names


def check_loss(task: Task, config: TaskConfig) -> None:
    """Refuse a loss that a task cannot have.

    Raises:
        ConfigError: `angular` without a direction, or `cross_entropy` without classes (and the reverse).
    """
    fits = {"angular": task.directional, "cross_entropy": task.kind == "classes"}.get(
        config.loss, task.kind != "classes"
    )
    if not fits:
        expected = "cross_entropy" if task.kind == "classes" else "a loss for values"
        raise ConfigError(
            "does not suit this task", item=f"tasks.{task.name}.loss", found=config.loss, expected=expected
        )
    if config.log_transform and task.kind != "values":
        raise ConfigError("does not suit this task", item=f"tasks.{task.name}.log_transform", found=True)


def resolve_tasks(tasks: Mapping[str, TaskConfig] | Sequence[str]) -> dict[str, TaskConfig]:
    """Task settings by canonical name; plain names take the defaults. Settings are checked.

    Raises:
        ConfigError: an unknown task, one named twice, none at all, or a loss that does not suit one.
    """
    given = tasks if isinstance(tasks, Mapping) else dict.fromkeys(tasks)
    resolved: dict[str, TaskConfig] = {}
    for name, config in given.items():
        task = find_task(name)
        if task.name in resolved:
            raise ConfigError("is named twice", item=f"tasks.{task.name}")
        default = TaskConfig.model_validate({"enabled": True, "loss": task.loss})
        resolved[task.name] = config or default
        check_loss(task, resolved[task.name])
    if not resolved:
        raise ConfigError("no task is enabled", item="tasks", remedy=f"enable one of {', '.join(TASKS)}")
    return resolved
