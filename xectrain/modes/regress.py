"""Regression: event quantities from the light pattern."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shards import geometry as geo
from shards.base import ConfigError
from shards.normalization import Normalization
from xectrain.config.networks import ModelConfig, TasksConfig
from xectrain.metrics import task_metrics
from xectrain.metrics.statistics import FRACTION_1SIGMA
from xectrain.models.calibration import ReferenceCorrection
from xectrain.models.differences import is_corrected
from xectrain.models.factors import fit_factor
from xectrain.models.ranges import Stray, input_summaries
from xectrain.models.regressor import Regressor
from xectrain.models.standardization import UNCERTAIN
from xectrain.modes.base import EventBatch, EventMode, StepResult
from xectrain.modes.losses import Balance, task_loss
from xectrain.modes.losses_physics import VERTEX, angle_position, check_physics, energy_light
from xectrain.modes.reweight import fit_weights
from xectrain.targets import (
    TargetOptions,
    TargetStatistics,
    check_columns,
    fit_differences,
    fit_statistics,
    required_columns,
    targets,
)
from xectrain.tasks import TASKS, find_task, output_columns, quantile_suffix
from xectrain.workers import in_order, workers_for

if TYPE_CHECKING:
    from shards.dataset import Dataset
    from xectrain.config.tree import Config
    from xectrain.data import TrainingData
    from xectrain.model_input import InputRules

RANGE_SAMPLE = 20_000
"""Training events whose sensors are used for the range of inputs and for the references."""


@dataclass(frozen=True)
class Sample:
    """What is learned about the training set from the sensors of some of its events."""

    summaries: npt.NDArray[Any]
    """(n, S), of `ranges.input_summaries`."""
    differences: Mapping[str, TargetStatistics]
    """Target minus reference, by task with a reference."""


class Regress(EventMode):
    """A regressor, its targets and its losses."""

    name = "regress"
    model: Regressor

    def __init__(
        self,
        config: ModelConfig,
        settings: TasksConfig,
        normalization: Normalization,
        columns: list[str],
        options: TargetOptions,
        geometry: geo.Geometry | None = None,
    ) -> None:
        super().__init__()
        self.model = Regressor(config, settings.enabled(), normalization, geometry)
        weights = {name: task.weight for name, task in self.model.tasks.items()}
        self.balance = Balance(weights, learned=settings.balance == "auto")
        self.reweight = nn.ModuleDict()
        self.settings, self.truth_columns, self.options = settings, columns, options
        self._name_outputs()

    def _name_outputs(self) -> None:
        self.tasks = tuple(self.model.tasks)
        self.columns = tuple(c for name, task in self.model.tasks.items() for c in output_columns(TASKS[name], task))

    @classmethod
    def network(cls, config: Config, normalization: Normalization) -> Regressor:
        return Regressor(config.model, config.tasks.enabled(), normalization)

    @classmethod
    def build(
        cls, config: Config, data: TrainingData, rules: InputRules, before: Mapping[str, Any] | None = None
    ) -> Regress:
        """The mode for a training set: target statistics and ranges are taken from it.

        Raises:
            ConfigError: a task's truth column is absent, empty or without spread.
        """
        columns = list(data.first.columns)
        options = target_options(config, data)
        check_columns(config.tasks.enabled(), columns, options)
        check_physics(config.tasks, columns)
        mode = cls(config.model, config.tasks, rules.model, columns, options, data.first.geometry)
        statistics = {}
        for name, task in mode.model.tasks.items():
            values = training_targets(data, name, options)
            statistics[name] = fit_statistics(TASKS[name], values, task.log_transform)
            if config.reweight.by == "loss" and name in config.reweight.tasks:
                mode.reweight[name] = fit_weights(name, values, config.reweight.limit)
        sample = mode._sample(data, rules)
        mode.model.standardization.load(statistics, sample.differences)
        mode.model.ranges.load(statistics, sample.summaries)
        return mode

    @classmethod
    def of_checkpoint(cls, config: Config, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Regress:
        norm = Normalization.from_dict(state["normalization"])
        options = TargetOptions(bool(state["relative_time"]), config.tasks.timing_at)
        where = geo.geometry_of(state.get("survey"))  # earlier versions computed with the nominal one
        mode = cls(config.model, config.tasks, norm, list(state["columns"]), options, where)
        network = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        mode.model.load_state_dict(network)  # the balance of the losses stays behind: nothing is trained
        return mode.eval()

    def predict(self, x_BN2: Tensor, mask_BN: Tensor) -> dict[str, Tensor]:
        return self.model.predict(x_BN2, mask_BN)

    def in_training_range(self, x_BN2: Tensor, mask_BN: Tensor, predictions: Mapping[str, Tensor]) -> Tensor:
        return self.model.in_training_range(x_BN2, mask_BN, predictions)

    def strays(self, x_BN2: Tensor, mask_BN: Tensor, predictions: Mapping[str, Tensor]) -> list[Stray]:
        return self.model.strays(x_BN2, mask_BN, predictions)

    def means(self) -> dict[str, float]:
        return {
            column: float(self.model.standardization.target_mean(name)[k])
            for name, config in self.model.tasks.items()
            if TASKS[name].kind != "classes" and not config.log_transform
            for k, column in enumerate(TASKS[name].columns)
        }

    def spread(self, column: str) -> float:
        for name in self.model.tasks:
            if TASKS[name].kind == "classes":
                continue
            for k, truth in enumerate(TASKS[name].columns):
                if column == f"pred_{truth}" or column.startswith((f"pred_{truth}_q", f"sigma_{truth}")):
                    return float(self.model.standardization.physical_spread(name)[k])
        return 1.0

    def restrict(self, tasks: Sequence[str]) -> None:
        wanted = [find_task(task).name for task in tasks]
        for task in wanted:
            if task not in self.model.tasks:
                raise ConfigError(f"the model does not predict {task!r}", found=", ".join(self.model.tasks))
        self.model.keep(wanted)
        self._name_outputs()

    def _sample(self, data: TrainingData, rules: InputRules) -> Sample:
        """Read the sensors of a sample of the training events, taken evenly over the datasets."""

        def pieces() -> Iterator[tuple[Dataset, npt.NDArray[Any], npt.NDArray[Any]]]:
            for view in data.train:
                rows = view.rows[:: max(1, len(view.rows) * len(data.train) // RANGE_SAMPLE)]
                for part in np.array_split(rows, max(1, len(rows) // 256)):
                    yield view.dataset, *view.dataset.read(part)

        looked = list(in_order(lambda piece: self._look(*piece, rules), pieces(), workers_for("cpu")))
        summaries, facts, differences = zip(*looked, strict=True)
        fitted = self._fit_references(
            torch.cat(facts),
            {name: torch.cat([d[name] for d in differences]).numpy() for name in self.model.references},
        )
        return Sample(np.concatenate(summaries), fitted)

    def _fit_references(
        self, facts_NA: Tensor, differences: Mapping[str, npt.NDArray[np.float64]]
    ) -> dict[str, TargetStatistics]:
        """Correct the references that are to be, and what the differences to them are measured in."""
        form = self.model.correction or ReferenceCorrection((), facts_NA.shape[-1])
        corrected = {name for name, task in self.model.tasks.items() if is_corrected(name, task)}
        left = form.fit(facts_NA, differences, corrected)
        return {
            name: fit_differences(TASKS[name], left[name] if name in corrected else difference, left[name])
            for name, difference in differences.items()
        }

    @torch.no_grad()
    def _look(
        self, dataset: Dataset, sensors: npt.NDArray[Any], truth: npt.NDArray[Any], rules: InputRules
    ) -> tuple[npt.NDArray[Any], Tensor, dict[str, Tensor]]:
        """Summaries of the input, facts, and target minus reference by task, of some events."""
        x_BN2, mask_BN = rules.apply(torch.from_numpy(sensors.astype(np.float32)))
        summaries = input_summaries(x_BN2, mask_BN, rules.model).numpy()
        scene = self.model.encoder.look(x_BN2, mask_BN)
        if scene is None:
            return summaries, torch.empty(0), {}
        differences = {}
        for name in self.model.references:
            target_BK = targets(TASKS[name], torch.from_numpy(truth), list(dataset.columns), self.options)
            target_BK = target_BK.log() if name in self.model.standardization.logarithmic else target_BK
            differences[name] = target_BK - self.model.reference_values(name, scene).double()
        return summaries, scene.facts_BA, differences

    def forward(self, batch: EventBatch) -> StepResult:
        out = self.model(batch.x_BN2, batch.mask_BN)
        device = batch.x_BN2.device.type
        with torch.autocast(device, enabled=False):
            return self._losses(out, batch)

    def _losses(self, out: Mapping[str, Tensor], batch: EventBatch) -> StepResult:
        losses: dict[str, Tensor] = {}
        parts: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        for name, config in self.model.tasks.items():
            target_BK = targets(TASKS[name], batch.truth_BC, self.truth_columns, self.options)
            losses[name], good_B = task_loss(TASKS[name], config, self.model.standardization, out[name], target_BK)
            parts[f"loss_{name}"] = losses[name].detach().masked_fill(~good_B, float("nan"))
            if self.training and name in self.reweight:
                losses[name] = losses[name] * self.reweight[name](target_BK).float()
            if not self.training:
                predicted_BK = self.model.physical(name, out[name])
                outputs |= dict(zip(output_columns(TASKS[name], config), predicted_BK.unbind(dim=1), strict=True))
                outputs |= {f"true_{column}": target_BK[:, k] for k, column in enumerate(TASKS[name].columns)}
        if self.training:
            loss_B = self.balance(losses)
        else:  # comparable between epochs: the learned weights change
            loss_B = torch.stack([w * losses[name] for name, w in self.balance.weights.items()]).sum(dim=0)
        for name, penalty_B in self._physics(out, batch).items():
            parts[f"loss_{name}"], loss_B = penalty_B.detach(), loss_B + penalty_B
        return StepResult(loss_B, parts, outputs)

    def _physics(self, out: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """The physics terms that are on, (B,) each, weights included."""
        config, terms = self.settings, dict[str, Tensor]()
        if not (config.angle_position or config.energy_light):
            return terms
        predicted = {name: self.model.physical(name, value)[:, : TASKS[name].size] for name, value in out.items()}
        if config.angle_position:
            vertex_B3 = batch.truth_BC[:, [self.truth_columns.index(c) for c in VERTEX]]
            terms["angle_position"] = config.angle_position * angle_position(predicted, vertex_B3)[0]
        if config.energy_light:
            energy_B = predicted["energy"][:, 0]
            excess_B = energy_light(config, energy_B, batch.x_BN2, batch.mask_BN, self.model.normalization)
            terms["energy_light"] = config.energy_light * excess_B
        return terms

    def calibrate(self, outputs: Mapping[str, npt.NDArray[np.float64]]) -> None:
        """Scale the predicted uncertainties by the validation events (`xectrain.models.factors`).

        68.27 % of them then lie within σ, and the fraction below every quantile is its own. What is fitted to the
        training set is overconfident elsewhere, and non-Gaussian tails widen σ.
        """
        for name, task in self.model.tasks.items():
            if task.loss not in UNCERTAIN:
                continue
            scales = self.model.standardization
            physical_BK = torch.from_numpy(np.stack([outputs[f"pred_{c}"] for c in TASKS[name].columns], axis=1))
            value_BK = scales.standardized(name, physical_BK.to(scales.mean(name).device))
            before_BRK = scales.factor(name, value_BK).double().cpu().numpy()  # what the outputs have in them
            value_NK = value_BK.double().cpu().numpy()
            rows = [(0, None)] if task.loss == "gaussian_nll" else [*enumerate(task.quantiles)]
            for k, column in enumerate(TASKS[name].columns):
                for row, quantile in rows:
                    if quantile != 0.5:
                        ratio = _ratio(outputs, column, quantile, name in scales.logarithmic) * before_BRK[:, row, k]
                        fraction = FRACTION_1SIGMA if quantile is None else max(quantile, 1 - quantile)
                        scales.set_factor(name, row, k, fit_factor(value_NK[:, k], ratio, fraction))

    def summarize(self, outputs: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name in self.model.tasks:
            columns = TASKS[name].columns
            predicted = {c: outputs[f"pred_{c}"] for c in columns}
            true = {c: outputs[f"true_{c}"] for c in columns}
            metrics |= task_metrics(name, predicted, true, resamples=0).values()
        return metrics


def _ratio(
    outputs: Mapping[str, npt.NDArray[np.float64]], column: str, quantile: float | None, logarithmic: bool
) -> npt.NDArray[np.float64]:
    """True distance from the prediction over the predicted one, of a quantile or (None) of σ; NaN without any."""
    true, predicted = outputs[f"true_{column}"], outputs[f"pred_{column}"]
    if quantile is None:
        return np.abs(predicted - true) / outputs[f"sigma_{column}"]
    edge = outputs[f"pred_{column}_{quantile_suffix(quantile)}"]
    if logarithmic:
        true, predicted, edge = (np.log(values) for values in (true, predicted, edge))
    distance = edge - predicted
    apart = distance * (quantile - 0.5) > 0
    return np.where(apart, (true - predicted) / np.where(apart, distance, 1), np.nan)


def training_targets(data: TrainingData, task: str, options: TargetOptions) -> npt.NDArray[np.float64]:
    """Physical targets of a task over all training events, float64 (n, K), NaN where unknown."""
    needed = list(required_columns(TASKS[task], options))
    truth = torch.from_numpy(data.table(needed).to_numpy().astype(np.float64))
    return targets(TASKS[task], truth, needed, options).numpy()


def target_options(config: Config, data: TrainingData) -> TargetOptions:
    """How targets are made of a training set's columns."""
    relative = data.first.manifest.settings.time_reference == "relative"
    return TargetOptions(relative_time=relative, timing_at=config.tasks.timing_at)
