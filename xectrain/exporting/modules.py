"""What is exported: a regressor together with everything between it and its user.

Shape suffixes: B events, N = 4760 sensors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shards.base import ConfigError
from shards.normalization import HUGE, normalize
from xectrain.inference.calibration import CalibratedEnergy
from xectrain.inference.metadata import EARLIEST, NORMALIZED_INPUT, RAW_INPUTS, RUN
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
        self.calibrated = None if facts.calibration is None else CalibratedEnergy(facts.calibration.factor)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return (*self.facts.columns, IN_RANGE)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace with."""
        raise NotImplementedError

    def predicted(self, sensors_BN2: Tensor, run_B: Tensor | None = None) -> dict[str, Tensor]:
        """Predictions, calibrated, from float32 (B, N, 2), normalized and sentinel-marked."""
        x_BN2, mask_BN = self.rules.apply(sensors_BN2)
        found = self.mode.predict(x_BN2, mask_BN)
        inside_B = self.mode.in_training_range(x_BN2, mask_BN, found)
        if self.calibrated is not None:
            found = self.calibrated(found, run_B)
        return {**{name: found[name] for name in self.facts.columns}, IN_RANGE: inside_B}


class NormalizedInput(ExportModule):
    """The bare network: normalized, sentinel-marked sensors in. Its calibration does not know the run."""

    inputs = (NORMALIZED_INPUT,)

    def example(self) -> tuple[Tensor, ...]:
        return (torch.rand(TRACE_BATCH, 4760, 2),)

    def forward(self, sensors_BN2: Tensor) -> tuple[Tensor, ...]:
        """The outputs in their order, (B,) each, of normalized sensors (B, 4760, 2)."""
        return tuple(self.predicted(sensors_BN2).values())


class RawInput(ExportModule):
    """Photons, seconds and a list of dead sensors in; float64 (B,) of each of the `further` inputs, which are optional.

    The earliest time makes the predicted time absolute (that output is float64 then, and NaN where it is unknown); a
    calibration may depend on the run.
    """

    def __init__(self, mode: EventMode, facts: ModelFacts) -> None:
        super().__init__(mode, facts)
        relative = facts.targets.relative_time and any(c.startswith("pred_timing") for c in facts.columns)
        by_run = facts.calibration is not None and facts.calibration.factor.uses_run
        self.further = (*((EARLIEST,) if relative else ()), *((RUN,) if by_run else ()))
        self.inputs = (*RAW_INPUTS, *self.further)

    def example(self) -> tuple[Tensor, ...]:
        dead_BN = torch.zeros(TRACE_BATCH, 4760, dtype=torch.bool)
        sensors = 100 * torch.rand(TRACE_BATCH, 4760), 1e-7 * torch.rand(TRACE_BATCH, 4760), dead_BN
        return *sensors, *(torch.zeros(TRACE_BATCH, dtype=torch.float64) for _ in self.further)

    def forward(
        self,
        npho_BN: Tensor,
        time_BN: Tensor,
        dead_BN: Tensor,
        first_B: Tensor | None = None,
        second_B: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        further = zip(self.further, (first_B, second_B), strict=False)
        given = {name: values for name, values in further if values is not None}
        sensors_BN2 = normalize(npho_BN, time_BN, self.facts.normalization, dead_BN).sensors
        found = self.predicted(sensors_BN2, given.get(RUN))
        if EARLIEST in given:
            known_B = given[EARLIEST].abs() <= HUGE  # false for NaN; the unknown stays so, as in `tasks.absolute_time`
            shift_B = 1e9 * torch.where(known_B, given[EARLIEST], torch.nan)
            found = {n: v.double() + shift_B if n.startswith("pred_timing") else v for n, v in found.items()}
        return tuple(found.values())


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
        """What each sensor is filled with, photons and s (B, 4760), and which were filled; the others as they came."""
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
    kind = NormalizedInput if normalized else RawInput
    return kind(mode.cpu(), facts).eval()
