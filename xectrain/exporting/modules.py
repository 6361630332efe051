"""What is exported: a regressor with everything that stands between it and a user inside.

Shape suffixes: B events, N = 4760 sensors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shards.base import ConfigError
from shards.normalization import HUGE, normalize
from xectrain.inference.metadata import EARLIEST, NORMALIZED_INPUT, RAW_INPUTS
from xectrain.inference.model import IN_RANGE, ModelFacts
from xectrain.model_input import InputRules
from xectrain.modes.base import EventMode, Mode, SensorMode

TRACE_BATCH = 3
"""Events traced; more than one, so that no dimension is mistaken for a constant 1."""


class ExportModule(nn.Module):
    """Outputs are the columns of `facts` in their order, then `in_training_range`, (B,) each."""

    inputs: tuple[str, ...]

    def __init__(self, mode: EventMode, facts: ModelFacts) -> None:
        super().__init__()
        self.mode, self.facts = mode, facts
        self.rules = InputRules(facts.normalization, facts.normalization, facts.npho_threshold)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return (*self.facts.columns, IN_RANGE)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        raise NotImplementedError

    def predicted(self, sensors_BN2: Tensor) -> dict[str, Tensor]:
        """Predictions from float32 (B, N, 2), normalized and sentinel-marked."""
        x_BN2, mask_BN = self.rules.apply(sensors_BN2)
        found = self.mode.predict(x_BN2, mask_BN)
        inside_B = self.mode.in_training_range(x_BN2, mask_BN, found)
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
    """As `RawInput`, and the earliest time, which makes the predicted time absolute; that output is float64, and NaN
    where the earliest time is unknown.
    """

    inputs = (*RAW_INPUTS, EARLIEST)

    def example(self) -> tuple[Tensor, ...]:
        return (*super().example(), torch.zeros(TRACE_BATCH, dtype=torch.float64))

    def forward(  # type: ignore[override]  # one input more
        self, npho_BN: Tensor, time_BN: Tensor, dead_BN: Tensor, earliest_B: Tensor
    ) -> tuple[Tensor, ...]:
        known_B = earliest_B.abs() <= HUGE  # false for NaN; what is unknown stays so, as in `tasks.absolute_time`
        shift_B = 1e9 * torch.where(known_B, earliest_B, torch.nan)
        found = self.from_raw(npho_BN, time_BN, dead_BN)
        return tuple(v.double() + shift_B if n.startswith("pred_timing") else v for n, v in found.items())


class SensorInput(nn.Module):
    """An autoencoder or inpainter behind raw sensors.

    Outputs, (B, N) each: of an inpainter `filled_*`, the sensors as they came in with the dead ones predicted, and
    `filled`, which they are; of an autoencoder `pred_*`, its prediction of every sensor from those not dead.
    """

    inputs = RAW_INPUTS

    def __init__(self, mode: SensorMode, facts: ModelFacts) -> None:
        super().__init__()
        self.model, self.fills, self.facts = mode.model, mode.fills, facts
        self.rules = InputRules(facts.normalization, facts.normalization, facts.npho_threshold)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        if not self.fills:
            return tuple(f"pred_{channel}" for channel in self.facts.channels)
        return (*(f"filled_{channel}" for channel in self.facts.channels), "filled")

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        dead_BN = torch.zeros(TRACE_BATCH, 4760, dtype=torch.bool)
        return 100 * torch.rand(TRACE_BATCH, 4760), 1e-7 * torch.rand(TRACE_BATCH, 4760), dead_BN

    def forward(self, npho_BN: Tensor, time_BN: Tensor, dead_BN: Tensor) -> tuple[Tensor, ...]:
        norm = self.facts.normalization
        sensors_BN2 = normalize(npho_BN, time_BN, norm, dead_BN).sensors
        x_BN2, mask_BN = self.rules.apply(sensors_BN2)
        value_BNX = self.model(x_BN2, mask_BN)
        given = {"npho": npho_BN, "time": time_BN}
        inverse = {"npho": norm.inverse_npho, "time": norm.inverse_time}
        predicted = {c: inverse[c](value_BNX[..., i].float()) for i, c in enumerate(self.facts.channels)}
        if not self.fills:
            return tuple(predicted.values())
        return (*(torch.where(mask_BN, p, given[c]) for c, p in predicted.items()), mask_BN)


def module_for(mode: Mode, facts: ModelFacts, normalized: bool = False) -> ExportModule | SensorInput:
    """The module to export, on the CPU, in evaluation mode.

    Args:
        normalized: take normalized sensors instead of raw ones; for modes that predict numbers of an event.

    Raises:
        ConfigError: `normalized` for a mode that predicts sensors.
    """
    if isinstance(mode, SensorMode):
        if normalized:
            raise ConfigError("fills raw sensors, so its input cannot be normalized", file=facts.file, found=facts.mode)
        return SensorInput(mode.cpu(), facts).eval()
    assert isinstance(mode, EventMode)
    relative = facts.targets.relative_time and any(c.startswith("pred_timing") for c in facts.columns)
    kind = NormalizedInput if normalized else RawInputRelativeTime if relative else RawInput
    return kind(mode.cpu(), facts).eval()
