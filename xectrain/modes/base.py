"""What a mode is: a network, what it hides from the network, its loss and its metrics. The trainer does the rest.

There are two kinds: an `EventMode` predicts numbers of an event, a `SensorMode` predicts sensors. Training, inference,
export and evaluation know these two kinds and no single mode.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shards.base import ConfigError
from shards.normalization import Normalization

if TYPE_CHECKING:
    from xectrain.config.networks import Channel
    from xectrain.config.sensors import MaskingConfig
    from xectrain.config.tree import Config
    from xectrain.data import TrainingData
    from xectrain.model_input import InputRules
    from xectrain.models.ranges import Stray
    from xectrain.modes.masking import Masker


class EventBatch(NamedTuple):
    """A micro-batch as a mode sees it, on the run's device. B events, N = 4760 sensors, C truth columns."""

    x_BN2: Tensor
    """float32: [npho, time] in the model's normalization, sentinel-marked, the npho threshold applied."""
    mask_BN: Tensor
    """bool: sensors whose npho is not valid."""
    truth_BC: Tensor
    """float64: the dataset's columns."""
    epoch: int | None
    """Training epoch, which draws of masks depend on; None in validation, whose draws are the same every time."""


class StepResult(NamedTuple):
    """Per-event results of a mode on a micro-batch."""

    loss_B: Tensor
    """float32: the trained loss of each event."""
    parts: dict[str, Tensor]
    """Named per-event values (B,) for the log; NaN where an event has none."""
    outputs: dict[str, Tensor]
    """Per-event predictions and truths (B,) in physical units; filled in evaluation only."""


class Mode(nn.Module, ABC):
    """One training mode. Its parameters are those of `model` and of any learned loss balance."""

    name: str
    """As in the table of modes."""
    model: nn.Module
    truth_columns: Sequence[str] = ()
    """The dataset's columns, in the order of `EventBatch.truth_BC`."""
    tasks: tuple[str, ...] = ()
    """Regression tasks (`xectrain.tasks`) that it predicts, if any."""
    columns: tuple[str, ...] = ()
    """What it predicts of an event, one number each."""
    channels: tuple[Channel, ...] = ()
    """What it predicts of a sensor, out of npho and time."""

    @classmethod
    @abstractmethod
    def network(cls, config: Config, normalization: Normalization) -> nn.Module:
        """The untrained network, called with (x_BN2, mask_BN): what `xec model describe` counts."""

    @classmethod
    @abstractmethod
    def build(
        cls, config: Config, data: TrainingData, rules: InputRules, before: Mapping[str, Any] | None = None
    ) -> Self:
        """The mode for a training set, its network freshly initialized from torch's generator.

        Args:
            before: the checkpoint that training continues from, if any.

        Raises:
            ConfigError: the data cannot serve it (a truth column is absent or has no spread).
        """

    @classmethod
    @abstractmethod
    def of_checkpoint(cls, config: Config, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The mode of a checkpoint, on the CPU; nothing outside the checkpoint is read.

        Args:
            config: of the checkpoint's run.
            state: the checkpoint.
            tensors: its weights or their moving average, by name.
        """

    @abstractmethod
    def forward(self, batch: EventBatch) -> StepResult:
        """Losses (and, in evaluation, predictions) of a micro-batch."""

    def calibrate(self, outputs: Mapping[str, npt.NDArray[np.float64]]) -> None:
        """Adjust to a validation set's outputs what is stored with the weights but not trained; by default nothing."""
        del outputs

    @abstractmethod
    def summarize(self, outputs: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
        """Metrics of a whole validation set from its concatenated `StepResult.outputs`."""


class EventMode(Mode):
    """Predicts numbers of an event: `columns`, one row of the output each."""

    @abstractmethod
    def predict(self, x_BN2: Tensor, mask_BN: Tensor) -> dict[str, Tensor]:
        """Predictions in physical units: float32 (B,) by column, all of `columns`."""

    def in_training_range(self, x_BN2: Tensor, mask_BN: Tensor, predictions: Mapping[str, Tensor]) -> Tensor:
        """Whether input and predictions lie within what the mode was trained on, bool (B,); true in a mode
        that does not judge."""
        return torch.ones_like(x_BN2[:, 0, 0], dtype=torch.bool)

    def strays(self, x_BN2: Tensor, mask_BN: Tensor, predictions: Mapping[str, Tensor]) -> list[Stray]:
        """What puts most of some events outside of that range."""
        return []

    def means(self) -> dict[str, float]:
        """Mean of each target over the training set, by truth column."""
        return {}

    def spread(self, column: str) -> float:
        """Scale of a predicted column, in its unit; 1 where the mode knows none. Tolerances are relative to it."""
        return 1.0

    def restrict(self, tasks: Sequence[str]) -> None:
        """Keep only some of the tasks (changed in place).

        Raises:
            ConfigError: a task that the mode does not have.
        """
        raise ConfigError("has no tasks to choose from", item=self.name, found=", ".join(tasks))


class SensorMode(Mode):
    """Predicts the sensors that it does not see: `channels` of each."""

    normalization: Normalization
    masker: Masker
    fills: bool
    """Whether it is for filling dead sensors of real events; else its predictions matter where sensors were hidden."""

    @classmethod
    @abstractmethod
    def masks(
        cls, masking: MaskingConfig, normalization: Normalization, seed: int, patterns: Tensor | None = None
    ) -> Masker:
        """What hides sensors in training and validation.

        Args:
            patterns: dead-channel patterns, bool (patterns, 4760); None: those of the files that the options name.

        Raises:
            InputError: such a file cannot be read.
        """
