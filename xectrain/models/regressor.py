"""The regressor: one head per task on the flattened tokens, and the way from its outputs to physical units.

Shape suffixes: see `xectrain.models.blocks`; here K values of a task and R parameters per value (value and log
variance, quantiles, or the value alone), stored parameter by parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards import geometry as geo
from shards.normalization import Normalization
from xectrain.config.networks import ModelConfig, RegressorConfig, TaskConfig
from xectrain.models.blocks import EPSILON, full_precision, init_linear
from xectrain.models.calibration import ReferenceCorrection
from xectrain.models.differences import MULTIPLIED, LearnedMean, reference_values, referenced
from xectrain.models.encoder import Encoder
from xectrain.models.ranges import Stray, TrainingRange, input_summaries
from xectrain.models.reference import Scene, facts
from xectrain.models.standardization import Standardization
from xectrain.tasks import TASKS, Task, output_columns, parameters_per_value, resolve_tasks

LOG_VARIANCE_LIMIT = 12.0
"""Predicted log variances stay within ±this (in standardized units: σ between 0.0025 and 400)."""


class Head(nn.Module):
    """Linear → LayerNorm (`head_norm`) → GELU → dropout → Linear → GELU → Linear, the last one in float32."""

    def __init__(self, inputs: int, outputs: int, config: RegressorConfig) -> None:
        super().__init__()
        hidden = config.head_hidden
        self.body = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.LayerNorm(hidden, eps=EPSILON) if config.head_norm else nn.Identity(),
            nn.GELU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(hidden, hidden),
            nn.GELU(),
        )
        self.last = nn.Linear(hidden, outputs)
        init_linear(self)

    def forward(self, flat_BX: Tensor) -> Tensor:
        """(B, outputs), float32, of the event's tokens side by side."""
        h_BX = self.body(flat_BX)
        with full_precision(h_BX):
            out: Tensor = self.last(h_BX.float())
        return out


class Regressor(nn.Module):
    """Encoder and heads.

    Args:
        config: sizes; the sections `encoder` and `regressor` are used.
        tasks: settings by task name, or names, which then take the default settings.
        normalization: of the input.
        geometry: sensor positions; nominal when not given.
    """

    def __init__(
        self,
        config: ModelConfig,
        tasks: Mapping[str, TaskConfig] | Sequence[str],
        normalization: Normalization,
        geometry: geo.Geometry | None = None,
    ) -> None:
        super().__init__()
        self.config, self.tasks, self.normalization = config, resolve_tasks(tasks), normalization
        self.encoder = Encoder(config.encoder, normalization, geometry)
        flat = self.encoder.token_count * config.encoder.width
        self.heads = nn.ModuleDict(
            {
                name: Head(flat, TASKS[name].size * parameters_per_value(TASKS[name], task), config.regressor)
                for name, task in self.tasks.items()
            }
        )
        self.references = referenced(config.encoder, self.tasks)
        correctable = tuple(name for name in self.references if name not in MULTIPLIED)
        self.correction = ReferenceCorrection(correctable, facts(config.encoder.focus_fit)) if correctable else None
        learns_time = config.regressor.time_mean > 0 and "timing" in self.references
        self.time_mean = LearnedMean(flat, config.regressor.time_mean) if learns_time else None
        for name in self.references:  # training begins at the reference and can only improve on it
            head = self.heads[name]
            assert isinstance(head, Head)
            nn.init.zeros_(head.last.weight)
        self.standardization = Standardization(self.tasks, self.references)
        self.ranges = TrainingRange(self.tasks)

    def keep(self, tasks: Sequence[str]) -> None:
        """Drop the heads of all other tasks."""
        for name in set(self.tasks) - set(tasks):
            del self.heads[name]
        self.tasks = {name: task for name, task in self.tasks.items() if name in tasks}
        self.references = tuple(name for name in self.references if name in tasks)
        self.ranges.tasks = tuple(self.tasks)

    def forward(self, x_BN2: Tensor, mask_BN: Tensor | None = None) -> dict[str, Tensor]:
        """Standardized outputs by task.

        Args:
            x_BN2: float32 (B, 4760, 2), normalized, sentinel-marked.
            mask_BN: bool (B, 4760), true for sensors without valid npho; found from the sentinels when not given.

        Returns:
            float32 (B, R·K) by task: values first, then log variances or further quantiles; logits for `n_gamma`.
            `direction` is a unit vector (standardized like its targets).
        """
        scene = self.encoder.look(x_BN2, mask_BN)
        flat_BX = self.encoder(x_BN2, mask_BN, scene).flatten(1)
        outputs = {}
        for name, head in self.heads.items():
            out_BX = head(flat_BX)
            if name in self.references:
                assert scene is not None
                out_BX = self._referred(name, out_BX, scene, flat_BX)
            outputs[name] = self._shaped(TASKS[name], out_BX)
        return outputs

    def _referred(self, name: str, out_BX: Tensor, scene: Scene, flat_BX: Tensor) -> Tensor:
        """A head's output with the reference added, in units of the spread of the differences."""
        value_BK = self.reference_values(name, scene)
        if name == "timing" and self.time_mean is not None:
            value_BK = value_BK + self.time_mean(scene, flat_BX)[:, None]
        value_BK = value_BK / self.standardization.spread(name).float()
        out_BRK: Tensor = out_BX.float().unflatten(1, (-1, TASKS[name].size))
        values = out_BRK.shape[1] if self.tasks[name].loss == "quantile" else 1
        return torch.cat([out_BRK[:, :values] + value_BK[:, None], out_BRK[:, values:]], dim=1).flatten(1)

    def reference_values(self, name: str, scene: Scene) -> Tensor:
        """What the light alone says about a task, corrected: float32 (B, K), in its unit (or of its logarithm)."""
        with full_precision(scene.facts_BA):
            values_BK = reference_values(name, scene)
            if self.correction is not None and name in self.correction.tasks:
                values_BK = values_BK + self.correction(name, scene.facts_BA)
        return values_BK

    def _shaped(self, task: Task, out_BX: Tensor) -> Tensor:
        """Constraints that hold for the outputs themselves: unit length, bounded log variance."""
        config = self.tasks[task.name]
        if task.kind == "classes" or (task.kind == "values" and config.loss != "gaussian_nll"):
            return out_BX
        out_BRK = out_BX.unflatten(1, (-1, task.size))
        value_BK = out_BRK[:, 0]
        if task.kind == "unit_vector" and config.loss != "quantile":
            vector_BK = F.normalize(self.standardization.physical(task.name, value_BK), dim=1)
            mean_K, spread_K = self.standardization.mean(task.name), self.standardization.spread(task.name)
            value_BK = (vector_BK - mean_K.float()) / spread_K.float()
        rest = out_BRK[:, 1:]
        if config.loss == "gaussian_nll":
            rest = LOG_VARIANCE_LIMIT * (rest / LOG_VARIANCE_LIMIT).tanh()
        return torch.cat([value_BK[:, None], rest], dim=1).flatten(1)

    def predict(self, x_BN2: Tensor, mask_BN: Tensor | None = None) -> dict[str, Tensor]:
        """Predictions in physical units: float32 (B,) by column name (`tasks.output_columns`).

        `pred_timing` is relative to `time_min_used` where the sensor times are; `tasks.absolute_time` adds it.
        """
        outputs = self(x_BN2, mask_BN)
        columns: dict[str, Tensor] = {}
        for name, out_BX in outputs.items():
            names = output_columns(TASKS[name], self.tasks[name])
            columns.update(zip(names, self.physical(name, out_BX).unbind(dim=1), strict=True))
        return columns

    def physical(self, name: str, out_BX: Tensor) -> Tensor:
        """A task's standardized outputs in physical units: float32 (B, columns) in the order of `output_columns`."""
        task, config = TASKS[name], self.tasks[name]
        out_BX = out_BX.float()
        if task.kind == "classes":
            return torch.cat([out_BX.argmax(dim=1, keepdim=True).float(), out_BX.softmax(dim=1)], dim=1)
        out_BRK = out_BX.unflatten(1, (-1, task.size))
        if config.loss == "quantile":
            return self._physical_quantiles(task, config, out_BRK)
        value_BK = self.standardization.physical(name, out_BRK[:, 0])
        if config.loss != "gaussian_nll":
            return value_BK
        return torch.cat([value_BK, self.standardization.physical_sigma(name, out_BRK[:, 1], out_BRK[:, 0])], dim=1)

    def _physical_quantiles(self, task: Task, config: TaskConfig, out_BRK: Tensor) -> Tensor:
        """The median, then the others; put in rising order, since nothing keeps a network from crossing them."""
        median = config.quantiles.index(0.5)
        middle_B1K = out_BRK[:, median : median + 1]
        factor_BRK = self.standardization.factor(task.name, out_BRK[:, median])
        scaled_BRK = middle_B1K + (out_BRK - middle_B1K) * factor_BRK
        rising_BRK = self.standardization.physical(task.name, scaled_BRK.sort(dim=1).values)
        value_BK = rising_BRK[:, median]
        if task.kind == "unit_vector":
            value_BK = F.normalize(value_BK, dim=1)
        others = [rising_BRK[:, i] for i in range(len(config.quantiles)) if i != median]
        return torch.cat([value_BK, *others], dim=1)

    def in_training_range(self, x_BN2: Tensor, mask_BN: Tensor | None, predictions: Mapping[str, Tensor]) -> Tensor:
        """Whether each event's input and predictions lie within what the model was trained on: bool (B,)."""
        return self.ranges.inside(input_summaries(x_BN2, mask_BN, self.normalization), predictions)

    def strays(self, x_BN2: Tensor, mask_BN: Tensor | None, predictions: Mapping[str, Tensor]) -> list[Stray]:
        """What puts most of some events outside of it."""
        return self.ranges.strays(input_summaries(x_BN2, mask_BN, self.normalization), predictions)
