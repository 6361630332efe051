"""A toy mode: the mean normalized light of an event, by one weight per sensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from shards.normalization import Normalization
from xectrain.modes.base import EventBatch, EventMode, StepResult


class LightNetwork(nn.Module):
    """One weight per sensor."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(4760, 1)

    def forward(self, x_BN2: torch.Tensor, mask_BN: torch.Tensor) -> torch.Tensor:
        light_B: torch.Tensor = self.weights(x_BN2[..., 0].masked_fill(mask_BN, 0.0))[:, 0]
        return light_B


class TotalLight(EventMode):
    """Predicts the total light in normalized units, by one weight per sensor."""

    name, columns = "light", ("pred_light",)

    def __init__(self) -> None:
        super().__init__()
        self.model = LightNetwork()

    @classmethod
    def network(cls, config: Any, normalization: Normalization) -> nn.Module:
        return LightNetwork()

    @classmethod
    def build(cls, config: Any, data: Any, rules: Any, before: Any = None) -> TotalLight:
        return cls()

    @classmethod
    def of_checkpoint(cls, config: Any, state: Any, tensors: Any) -> TotalLight:
        mode = cls()
        mode.load_state_dict(tensors)
        return mode

    def predict(self, x_BN2: torch.Tensor, mask_BN: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pred_light": self.model(x_BN2, mask_BN)}

    def forward(self, batch: EventBatch) -> StepResult:
        seen_BN = batch.x_BN2[..., 0].masked_fill(batch.mask_BN, 0.0)
        error_B = self.predict(batch.x_BN2, batch.mask_BN)["pred_light"] - seen_BN.mean(dim=1)
        return StepResult(error_B.square(), {}, {} if self.training else {"error": error_B})

    def summarize(self, outputs: Any) -> dict[str, float]:
        return {"bias_light": float(outputs["error"].mean())}
