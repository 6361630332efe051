"""What a mode is: a network, what it hides from the network, its loss and its metrics. The trainer does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn


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
    model: nn.Module

    @abstractmethod
    def forward(self, batch: EventBatch) -> StepResult:
        """Losses (and, in evaluation, predictions) of a micro-batch."""

    @abstractmethod
    def summarize(self, outputs: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
        """Metrics of a whole validation set from its concatenated `StepResult.outputs`."""
