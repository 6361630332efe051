"""What is exported: a regressor with everything that stands between it and a user inside.

Shape suffixes: B events, N = 4760 sensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from shards.normalization import apply_threshold, normalize, valid
from xectrain.inference.metadata import EARLIEST, NORMALIZED_INPUT, RAW_INPUTS
from xectrain.inference.model import IN_RANGE, ModelFacts

if TYPE_CHECKING:
    from xectrain.models.regressor import Regressor
    from xectrain.modes.masked import MaskedSensors

TRACE_BATCH = 3
"""Events traced; more than one, so that no dimension is mistaken for a constant 1."""


class ExportModule(nn.Module):
    """Outputs are the columns of `facts` in their order, then `in_training_range`, (B,) each."""

    inputs: tuple[str, ...]

    def __init__(self, network: Regressor, facts: ModelFacts) -> None:
        super().__init__()
        self.network, self.facts = network, facts

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return (*self.facts.columns, IN_RANGE)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        raise NotImplementedError

    def predicted(self, sensors_BN2: Tensor) -> dict[str, Tensor]:
        """Predictions from float32 (B, N, 2), normalized and sentinel-marked."""
        npho_valid_BN, _ = valid(sensors_BN2, self.facts.normalization)
        x_BN2 = apply_threshold(sensors_BN2, self.facts.normalization, self.facts.npho_threshold)
        found = self.network.predict(x_BN2, ~npho_valid_BN)
        inside_B = self.network.in_training_range(x_BN2, ~npho_valid_BN, found)
        return {**{name: found[name] for name in self.facts.columns}, IN_RANGE: inside_B}


class NormalizedInput(ExportModule):
    """The bare network: normalized, sentinel-marked sensors in."""

    inputs = (NORMALIZED_INPUT,)

    def example(self) -> tuple[Tensor, ...]:
        return (torch.rand(TRACE_BATCH, 4760, 2),)

    def forward(self, sensors_BN2: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.predicted(sensors_BN2).values())


class RawInput(ExportModule):
    """Photons, seconds and a list of dead sensors in."""

    inputs: tuple[str, ...] = RAW_INPUTS

    def example(self) -> tuple[Tensor, ...]:
        dead_BN = torch.zeros(TRACE_BATCH, 4760, dtype=torch.bool)
        return 100 * torch.rand(TRACE_BATCH, 4760), 1e-7 * torch.rand(TRACE_BATCH, 4760), dead_BN

    def from_raw(self, npho_BN: Tensor, time_BN: Tensor, dead_BN: Tensor) -> dict[str, Tensor]:
        """Cleaned, normalized, predicted."""
        return self.predicted(normalize(npho_BN, time_BN, self.facts.normalization, dead_BN).sensors)

    def forward(self, npho_BN: Tensor, time_BN: Tensor, dead_BN: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.from_raw(npho_BN, time_BN, dead_BN).values())


class RawInputRelativeTime(RawInput):
    """As `RawInput`, and the earliest time, which makes the predicted time absolute; that output is float64."""

    inputs = (*RAW_INPUTS, EARLIEST)

    def example(self) -> tuple[Tensor, ...]:
        return (*super().example(), torch.zeros(TRACE_BATCH, dtype=torch.float64))

    def forward(  # type: ignore[override]  # one input more
        self, npho_BN: Tensor, time_BN: Tensor, dead_BN: Tensor, earliest_B: Tensor
    ) -> tuple[Tensor, ...]:
        shift_B = 1e9 * earliest_B
        found = self.from_raw(npho_BN, time_BN, dead_BN)
        return tuple(v.double() + shift_B if n.startswith("pred_timing") else v for n, v in found.items())


def module_for(network: Regressor, facts: ModelFacts, normalized: bool) -> ExportModule:
    """The module to export, on the CPU, in evaluation mode."""
    relative = "timing" in facts.tasks and facts.targets.relative_time
    kind = NormalizedInput if normalized else RawInputRelativeTime if relative else RawInput
    return kind(network.cpu(), facts).eval()


class SensorInput(nn.Module):
    """An autoencoder or inpainter behind raw sensors.

    Outputs, (B, N) each: of an inpainter `filled_*`, the sensors as they came in with the dead ones predicted, and
    `filled`, which they are; of an autoencoder `pred_*`, its prediction of every sensor from those not dead.
    """

    inputs = RAW_INPUTS

    def __init__(self, mode: MaskedSensors, facts: ModelFacts) -> None:
        super().__init__()
        self.model, self.facts = mode.model, facts

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        if self.facts.mode == "mae":
            return tuple(f"pred_{channel}" for channel in self.facts.channels)
        return (*(f"filled_{channel}" for channel in self.facts.channels), "filled")

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        dead_BN = torch.zeros(TRACE_BATCH, 4760, dtype=torch.bool)
        return 100 * torch.rand(TRACE_BATCH, 4760), 1e-7 * torch.rand(TRACE_BATCH, 4760), dead_BN

    def forward(self, npho_BN: Tensor, time_BN: Tensor, dead_BN: Tensor) -> tuple[Tensor, ...]:
        norm = self.facts.normalization
        sensors_BN2 = normalize(npho_BN, time_BN, norm, dead_BN).sensors
        npho_valid_BN, _ = valid(sensors_BN2, norm)
        value_BNX = self.model(apply_threshold(sensors_BN2, norm, self.facts.npho_threshold), ~npho_valid_BN)
        given = {"npho": npho_BN, "time": time_BN}
        inverse = {"npho": norm.inverse_npho, "time": norm.inverse_time}
        predicted = {c: inverse[c](value_BNX[..., i].float()) for i, c in enumerate(self.facts.channels)}
        if self.facts.mode == "mae":
            return tuple(predicted.values())
        return (*(torch.where(npho_valid_BN, given[c], p) for c, p in predicted.items()), ~npho_valid_BN)


def sensor_module_for(mode: MaskedSensors, facts: ModelFacts) -> SensorInput:
    """The module to export of an autoencoder or inpainter, on the CPU, in evaluation mode."""
    return SensorInput(mode.cpu(), facts).eval()
