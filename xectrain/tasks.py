"""The regression tasks: which truth columns they learn, in which unit, how they are shown and judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shards.base import ConfigError, nearest
from xectrain.config.networks import TaskConfig

N_GAMMA_CLASSES = 5
MEAN = "mean"
"""The rival that predicts the mean of the training set, whatever the event."""


@dataclass(frozen=True)
class Quantity:
    """One value that a task predicts: its truth column, and how people want it to be shown."""

    column: str
    """Truth column; predictions are `pred_` + this. In canonical units (degree, GeV, ns, cm)."""
    prefix: str
    """Prefix of the names of its metrics."""
    symbol: str
    """Symbol in plots."""
    unit: str
    """Unit in which it is shown; empty for pure numbers."""
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
    """Bins of its first columns, if the task can be reweighted; empty: it cannot."""
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
        ConfigError: there is no such task.
    """
    canonical = ALIASES.get(name, name)
    if canonical not in TASKS:
        raise ConfigError("is not a task", item=name, remedy=nearest(name, [*TASKS, *ALIASES]))
    return TASKS[canonical]


def quantile_suffix(quantile: float) -> str:
    """Column suffix of a quantile: 0.16 → "q16", 0.025 → "q2p5"."""
    return f"q{100 * quantile:g}".replace(".", "p")


def quantile_of(suffix: str) -> float:
    """The quantile of a column suffix: "q2p5" → 0.025."""
    return round(float(suffix.removeprefix("q").replace("p", ".")) / 100, 12)


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
        ConfigError: a task is unknown or named twice, there is none at all, or a loss does not suit one.
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
        raise ConfigError("no task is enabled", item="tasks", remedy=f"enable at least one of {', '.join(TASKS)}")
    return resolved
