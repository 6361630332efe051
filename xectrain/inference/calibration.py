"""The calibration of a model's energy on lines: a file beside its checkpoint, applied to what it predicts.

A measured energy is multiplied by a factor whose logarithm is a polynomial in the predicted position, plus a broken
line over the run numbers, plus a slope in the energy's own logarithm. `xec calibrate` fits it
(`xectrain.evaluation.calibrate`); a run without the file predicts as it was trained. Shape suffix: B events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from shards.base import ConfigError
from shards.base.documents import read_document

SUFFIX = ".calibration.json"
POSITION = ("pred_u", "pred_v", "pred_w")
ENERGY = "pred_energy"
HIGHEST_DEGREE = 4


class CalibratedLine(BaseModel):
    """A line on which a calibration was fitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    energy: float
    """MeV."""
    expression: str
    """Expression for the events that belong to it; empty: all."""
    events: int
    """Events within the window of the fit."""


class EnergyFactor(BaseModel):
    """The factor for the energy, as the parts of its logarithm."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    constant: float = 0.0
    degree: int = 0
    """Of the polynomial in the position, in which every variable is scaled to −1 … 1; 0: none."""
    low: tuple[float, float, float] = (-1.0, -1.0, -1.0)
    """Predicted u, v, w [cm] below which the correction stays constant."""
    high: tuple[float, float, float] = (1.0, 1.0, 1.0)
    position: tuple[float, ...] = ()
    """Coefficients, in the order of `powers`."""
    runs: tuple[float, ...] = ()
    """Run numbers between which the correction is linear; it is constant beyond them."""
    run: tuple[float, ...] = ()
    """Its values at these; events of an unknown run take 0, which is the mean over the events of the fit."""
    slope: float = 0.0
    """In the logarithm of (predicted energy / `energy`)."""
    energy: float = 0.05
    """GeV."""
    energies: tuple[float, float] = (0.05, 0.05)
    """GeV; beyond them the slope's part stays constant."""

    @property
    def uses_run(self) -> bool:
        """Whether it depends on the run number."""
        return len(self.runs) > 0

    @property
    def uses_position(self) -> bool:
        """Whether it depends on the predicted position."""
        return self.degree > 0


class EnergyCalibration(BaseModel):
    """The calibration of a model's energy, and where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["xec-calibration-1"] = "xec-calibration-1"
    model: str
    """SHA-256 of the checkpoint that it was made for."""
    request: str
    """SHA-256 of data, lines and options."""
    factor: EnergyFactor
    lines: tuple[CalibratedLine, ...]
    code_version: str

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class CalibratedEnergy(nn.Module):
    """Multiplies the energies among predictions (and their uncertainties and quantiles). Exported with the network."""

    low_3: Tensor
    high_3: Tensor
    position_P: Tensor
    runs_K: Tensor
    run_K: Tensor

    def __init__(self, factor: EnergyFactor) -> None:
        super().__init__()
        self.factor = factor
        first = factor.runs[0] if factor.runs else 0.0
        self.first_run = first
        for name, values in (
            ("low_3", factor.low),
            ("high_3", factor.high),
            ("position_P", factor.position),
            ("runs_K", [run - first for run in factor.runs]),
            ("run_K", factor.run),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, found: Mapping[str, Tensor], run_B: Tensor | None = None) -> dict[str, Tensor]:
        """Predictions with calibrated energies.

        Args:
            found: float32 (B,) by column.
            run_B: float64 run numbers, (B,) or (1,); NaN, or None: unknown.
        """
        energy_B = found[ENERGY]
        log_B = self.factor.constant + self.factor.slope * energy_term(energy_B, self.factor)
        if self.factor.uses_position:
            uvw_B3 = torch.stack([found[name] for name in POSITION], dim=1)
            terms_BP = position_terms(uvw_B3, self.low_3, self.high_3, self.factor.degree)
            log_B = log_B + (terms_BP * self.position_P).sum(dim=1)
        if self.factor.uses_run and run_B is not None:
            since_B = (run_B - self.first_run).float()
            log_B = log_B + (run_terms(since_B, self.runs_K) * self.run_K).sum(dim=1)
        factor_B = log_B.exp()
        return {name: values * factor_B if is_energy(name) else values for name, values in found.items()}


def is_energy(column: str) -> bool:
    """Whether a column of predictions scales with the energy."""
    return column.startswith((ENERGY, "sigma_energy"))


def powers(degree: int) -> list[tuple[int, int, int]]:
    """Degrees in u, v and w of the polynomial's terms, the constant one left out."""
    one = range(degree + 1)
    every = [(i, j, k) for i in one for j in one for k in one]
    return sorted((p for p in every if 0 < sum(p) <= degree), key=lambda p: (sum(p), p))


def position_terms(uvw_B3: Tensor, low_3: Tensor, high_3: Tensor, degree: int) -> Tensor:
    """Products of Legendre polynomials of the position, held at its limits: (B, P), in the order of `powers`."""
    middle_3, half_3 = (high_3 + low_3) / 2, (high_3 - low_3) / 2
    x_B3 = torch.minimum(torch.maximum((uvw_B3 - middle_3) / half_3, -torch.ones_like(half_3)), torch.ones_like(half_3))
    legendre = [torch.ones_like(x_B3), x_B3]
    for n in range(1, degree):
        legendre.append(((2 * n + 1) * x_B3 * legendre[n] - n * legendre[n - 1]) / (n + 1))
    columns = [legendre[i][:, 0] * legendre[j][:, 1] * legendre[k][:, 2] for i, j, k in powers(degree)]
    return torch.stack(columns, dim=1)


def run_terms(run_B: Tensor, runs_K: Tensor) -> Tensor:
    """How near each run is to each of the knots, linear in between, of sum 1: (B, K); 0 for an unknown run."""
    known_B = torch.where(run_B.isnan(), runs_K[0], run_B)
    held_B1 = torch.minimum(torch.maximum(known_B, runs_K[0]), runs_K[-1])[:, None]
    gaps = runs_K[1:] - runs_K[:-1]
    ones = torch.ones_like(held_B1)
    rising = torch.cat([ones, (held_B1 - runs_K[:-1]) / gaps], dim=1)
    falling = torch.cat([(runs_K[1:] - held_B1) / gaps, ones], dim=1)
    hats_BK = torch.minimum(rising, falling).clamp(0.0, 1.0)
    return torch.where(run_B.isnan()[:, None], torch.zeros_like(hats_BK), hats_BK)


def energy_term(energy_B: Tensor, factor: EnergyFactor) -> Tensor:
    """Logarithm of the energy over the reference energy, held at its limits: (B,)."""
    return (energy_B.clamp(*factor.energies) / factor.energy).log()


def calibration_path(checkpoint: Path) -> Path:
    """Where the calibration of a checkpoint is."""
    return checkpoint.with_name(checkpoint.stem + SUFFIX)


def read_calibration(checkpoint: Path, digest: str) -> EnergyCalibration | None:
    """The calibration beside a checkpoint; None where there is none.

    Args:
        digest: SHA-256 of the checkpoint.

    Raises:
        CorruptError: the file holds something else.
        ConfigError: it was made for an earlier state of the checkpoint, which training has since replaced.
    """
    path = calibration_path(checkpoint)
    if not path.exists():
        return None
    found = read_document(path, EnergyCalibration, "calibration")
    if found.model != digest:
        raise ConfigError(
            "was made for an earlier state of the checkpoint",
            file=path,
            found=f"{found.model:.12}…",
            expected=f"{digest:.12}…",
            remedy=f"`xec calibrate {checkpoint} --undo` removes it; then calibrate again",
        )
    return found


def of_columns(calibration: EnergyCalibration | None, columns: tuple[str, ...], file: Path) -> EnergyCalibration | None:
    """The calibration for a model that predicts only some columns; None where no energy is among them.

    Raises:
        ConfigError: it needs a position that is no longer predicted.
    """
    if calibration is None or ENERGY not in columns:
        return None
    if calibration.factor.uses_position and not set(POSITION) <= set(columns):
        raise ConfigError("its energy calibration needs the position", file=file, remedy="keep the task uvwFI")
    return calibration


def summary(calibration: EnergyCalibration | None) -> str:
    """In one line, for reports."""
    if calibration is None:
        return "none"
    parts = [f"{line.energy:g} MeV ({line.events} events)" for line in calibration.lines]
    factor = calibration.factor
    depends = [f"position, degree {factor.degree}"] if factor.uses_position else []
    depends += [f"run, {len(factor.runs)} knots"] if factor.uses_run else []
    depends += ["energy"] if factor.slope else []
    return f"on {', '.join(parts)}; constant{''.join(', ' + d for d in depends)}; {calibration.digest:.12}…"


def as_document(calibration: EnergyCalibration | None) -> dict[str, Any] | None:
    """For JSON."""
    return None if calibration is None else calibration.model_dump(mode="json")
