"""Typed configuration of the networks. Imports no torch, so that a config is checked before anything heavy is loaded.

`ModelConfig` holds one section per part; `PRESETS` the named sizes; `model_config` a preset with overrides. Sizes
follow from the token width D: base channels C = D/32, so that 4×4 pooled cells of 2C channels make one token of D
numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from shards.base import ConfigError, nearest

FaceName = Literal["inner", "outer", "upstream", "downstream", "top", "bottom"]
Channel = Literal["npho", "time"]
PresetName = Literal["reference", "small", "large", "tiny"]


class Section(BaseModel):
    """A frozen group of options that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class EncoderConfig(Section):
    """The shared encoder: faces to tokens, then a Transformer over the tokens."""

    width: int = Field(default=1024, ge=64, multiple_of=32)
    """Token width D, a multiple of 32, at least 64: the LayerNorm of a single channel would see nothing. The
    rectangular faces' backbone has C = D/32 channels, then 2C."""
    stage_blocks: tuple[int, int] = (2, 3)
    """ConvNeXt V2 blocks at C and at 2C channels."""
    outer: Literal["finegrid", "split"] = "finegrid"
    """Outer face: `finegrid` is the exact common refinement of the coarse grid and the centre patch (one token);
    `split` takes the 24×9 grid and the 6×5 patch as two faces (two tokens)."""
    outer_pool: tuple[int, int] = (3, 3)
    """Cells of the 72×45 outer fine grid pooled together (φ, z), in photon space; (1, 1) pools none."""
    pool: Literal["area", "bilinear", "attention"] = "area"
    """How a feature map becomes 4×4 cells: `area` averages every position; `bilinear` samples four neighbours per
    cell (64 of the 966 positions of the inner face); `attention` learns which positions each cell looks at, starting
    near `area`."""
    inner_tokens: int = Field(default=1, ge=1, le=64)
    """Tokens of the inner face, each a 4×4 pooled block of it."""
    multiscale: bool = False
    """Also make tokens (8×4 pooled cells of C channels) from the backbone's first stage, one beside each token."""
    hex_channels: int = Field(default=96, ge=1)
    """Channels of the encoder of the hexagonal (top and bottom) faces."""
    hex_blocks: int = Field(default=4, ge=1)
    """HexNeXt blocks."""
    mixer: Literal["depthwise", "attention"] = "depthwise"
    """Hexagonal mixing: seven learned taps per channel, or the same taps modulated by attention between neighbours."""
    position: Literal["learned", "sinusoidal", "geometric"] = "learned"
    """Position code of the tokens; `geometric` is a small network of the token's centre r, sin φ, cos φ, z and sensor
    type."""
    fusion_layers: int = Field(default=2, ge=0)
    """Transformer layers over the tokens."""
    fusion_heads: int = Field(default=8, ge=1)
    """Attention heads; must divide the width."""
    fusion_norm: Literal["post", "pre"] = "post"
    """LayerNorm after each residual sum (`post`, as in the reference) or before each branch (`pre`)."""
    fusion_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout probability in the Transformer."""
    validity_channel: bool = False
    """A third input channel, 1 where the sensor is not masked, tells a dead sensor from one with 0 photons."""
    invalid_time: Literal["sentinel", "zero"] = "sentinel"
    """What the encoder reads as the time of a sensor with good npho but no valid time."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth: probability of skipping the last block's branch; it rises linearly from 0 at the first
    block."""
    focus: int = Field(default=0, ge=0, le=43)
    """Side, in sensors, of the window of the inner face around its brightest spot that is read at full resolution in
    coordinates of its own; odd, at least 9; 0: no window."""
    focus_channels: tuple[int, int] = (32, 64)
    """Channels of the window's convolutions, at full and at half resolution."""
    focus_blocks: tuple[int, int] = (2, 2)
    """Residual blocks of the window, at full and at half resolution."""
    focus_tokens: int = Field(default=2, ge=1)
    """Tokens that the window and the summary of the event become."""
    focus_fit: int = Field(default=0, ge=0, le=20)
    """With a focus: steps of the classical local fit of a point source, whose results the network is given
    and with which the references are corrected; 0: no fit."""
    inner_resolution: int = Field(default=1, ge=1, le=8)
    """1: every face goes through the backbones at full resolution; k: with a focus, the inner face is read as sums of
    k×k sensors and the other faces by one layer each, which is several times as fast."""
    rest_channels: tuple[int, int] = (16, 32)
    """Channels of the convolutions on the coarse inner face."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.width % self.fusion_heads:
            raise ValueError(f"fusion_heads {self.fusion_heads} does not divide width {self.width}")
        rows, columns = self.outer_pool
        if rows < 1 or columns < 1 or 72 % rows or 45 % columns:
            raise ValueError(f"outer_pool {rows}×{columns} does not divide the 72×45 fine grid")
        if min(self.stage_blocks) < 1:
            raise ValueError("stage_blocks needs at least one block per stage")
        if self.focus and (self.focus % 2 == 0 or self.focus < 9):
            raise ValueError(f"focus {self.focus} must be odd and at least 9, or 0")
        if self.inner_resolution > 1:
            if not self.focus:
                raise ValueError("inner_resolution above 1 needs a focus, since something must see single sensors")
            if self.outer != "finegrid" or self.inner_tokens != 1 or self.multiscale:
                raise ValueError(
                    "inner_resolution above 1 makes one token per face, so neither split nor multiscale is possible"
                )
        return self

    @property
    def base_channels(self) -> int:
        """C, the channels of the backbone's first stage."""
        return self.width // 32


LossName = Literal[
    "smooth_l1",
    "l1",
    "mse",
    "huber",
    "relative_l1",
    "relative_smooth_l1",
    "relative_mse",
    "quantile",
    "gaussian_nll",
    "angular",
    "cross_entropy",
]


class TaskConfig(Section):
    """One regression task: whether it is on, its loss and its weight."""

    enabled: bool = False
    """Whether the model has this head."""
    loss: LossName = "smooth_l1"
    """Pointwise loss. `gaussian_nll` doubles the outputs (value, log variance) and gives `sigma_*` columns;
    `quantile` gives one output per quantile; `angular` is only for `angle` and `direction`, `cross_entropy` only for
    `n_gamma`."""
    loss_beta: float = Field(default=1.0, gt=0)
    """Where `smooth_l1` (β) and `huber` (δ) turn from quadratic to linear, in the unit of `loss_beta_unit`; for
    `relative_smooth_l1` a relative deviation."""
    loss_beta_unit: Literal["standardized", "physical"] = "standardized"
    """`standardized`: spreads of the training targets; `physical`: the unit of the target (degree, GeV, ns, cm)."""
    nll_beta: float = Field(default=0.5, ge=0, le=1)
    """β of `gaussian_nll`: 0 is the plain likelihood, 1 weights all events as `mse` does."""
    quantiles: tuple[float, ...] = (0.16, 0.5, 0.84)
    """Quantiles of the `quantile` loss, rising, 0.5 among them: it is the prediction, the others get `_q16` columns."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of the task in the sum, with the `manual` balance."""
    reference: Literal["auto", "none", "light", "corrected"] = "auto"
    """What the head predicts a difference to: `light`, a value that the network computes from the light alone (see
    `docs/model.md`), so that an untrained network is a simple classical method; `corrected`, that value after a
    regression on what else the light says, fitted before training; `none`: nothing. `auto`: with a focus `corrected`
    for `timing` and `light` for all others that have one, else `none`."""
    log_transform: bool = False
    """Learn the logarithm of the target (before standardization); the target must be positive."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        q = self.quantiles
        if 0.5 not in q or list(q) != sorted(set(q)) or q[0] <= 0 or q[-1] >= 1:
            raise ValueError(f"quantiles {q} must rise strictly between 0 and 1 and include 0.5")
        return self


class TasksConfig(Section):
    """The tasks of `--mode regress`."""

    angle: TaskConfig = TaskConfig(enabled=True)
    """Emission angles θ, φ [degree]."""
    energy: TaskConfig = TaskConfig()
    """Gamma energy [GeV]."""
    timing: TaskConfig = TaskConfig()
    """Gamma time [ns]."""
    uvwFI: TaskConfig = TaskConfig()
    """First interaction u, v, w [cm]."""
    xyzFI: TaskConfig = TaskConfig()
    """First interaction x, y, z [cm]."""
    direction: TaskConfig = Field(default=TaskConfig(), validation_alias=AliasChoices("direction", "angleVec"))
    """Emission unit vector; the name `angleVec` is accepted, too."""
    n_gamma: TaskConfig = TaskConfig(loss="cross_entropy")
    """Number of gammas, 0–4."""
    timing_at: Literal["conversion", "vertex"] = "conversion"
    """The time to predict: at the conversion point, which the sensors measure, or at the vertex."""
    balance: Literal["manual", "auto"] = "manual"
    """How tasks are summed: fixed weights, or learned ones (½e^{−s}·loss + ½s)."""

    angle_position: float = Field(default=0.0, ge=0)
    """Weight of a penalty on a predicted emission direction that disagrees with the line from the true vertex to the
    predicted first interaction; needs `direction` or `angle`, and `uvwFI` or `xyzFI`. 0: off."""
    energy_light: float = Field(default=0.0, ge=0)
    """Weight of a penalty on a predicted energy that disagrees with the detected light by more than a factor
    1 ± `energy_light_tolerance`; needs `energy`. 0: off."""
    energy_light_yield: float = Field(default=1.43e7, gt=0)
    """Coverage-weighted photons per GeV that `energy_light` expects."""
    energy_light_tolerance: float = Field(default=0.3, gt=0, lt=1)
    """Relative disagreement of energy and light that is not penalized."""

    def enabled(self) -> dict[str, TaskConfig]:
        """The tasks that are on, by canonical name, in the order above."""
        every = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: task for name, task in every.items() if isinstance(task, TaskConfig) and task.enabled}


class RegressorConfig(Section):
    """The heads on the flattened tokens, one per enabled task."""

    head_hidden: int = Field(default=256, ge=1)
    """Width of the two hidden layers of a head."""
    head_dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout probability after a head's first hidden layer."""
    head_norm: bool = True
    """LayerNorm after a head's first layer. Without it a head finds small differences to a reference sooner."""
    time_mean: int = Field(default=0, ge=0)
    """With a reference: hidden width of the network that weights and corrects each sensor's time in a mean that is
    added to the head of `timing`; 0: none."""


class MaeConfig(Section):
    """The decoders of the masked autoencoder."""

    decoder_channels: tuple[int, int, int] = (256, 128, 64)
    """Channels of the rectangular decoders at 4×4, 8×8 and 16×16."""
    hex_decoder_channels: int = Field(default=96, ge=1)
    """Channels of the hexagonal decoder."""
    hex_decoder_blocks: int = Field(default=2, ge=1)
    """HexNeXt blocks of the hexagonal decoder."""


class InpainterConfig(Section):
    """The heads that fill masked sensors from the surviving ones."""

    head: Literal["per_face", "cross_attention", "neighbours"] = "per_face"
    """`neighbours` (in the presets `small` and `large`): a mean of the nearest sensors of the face, corrected for the
    solid angle, whose weights and correction are learned; `per_face`: local convolutional features joined with the
    face's token; `cross_attention`: each masked sensor attends to its nearest sensors on any face and to the tokens."""
    local_channels: int = Field(default=64, ge=1)
    """Channels of the local features on rectangular faces."""
    local_blocks: int = Field(default=2, ge=1)
    """ConvNeXt V2 blocks of the local features on rectangular faces."""
    hex_local_channels: int = Field(default=96, ge=1)
    """Channels of the local features on hexagonal faces."""
    hex_local_blocks: int = Field(default=3, ge=1)
    """HexNeXt blocks of the local features on hexagonal faces."""
    neighbours: int = Field(default=32, ge=1, le=512)
    """Nearest sensors that a masked sensor attends to: on any face (`cross_attention`), on its own (`neighbours`, at
    most 72)."""
    query_width: int = Field(default=128, ge=8)
    """Width of a masked sensor's query (`cross_attention`)."""
    query_heads: int = Field(default=4, ge=1)
    """Attention heads of the query; must divide `query_width`."""
    hidden: int = Field(default=128, ge=1)
    """Hidden width of the network that turns features into values."""
    residual: bool = False
    """`per_face`, `cross_attention`: predict the difference to the mean of the visible adjacent sensors (0 if there are
    none) instead of the value."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.head == "neighbours" and self.neighbours > 72:
            raise ValueError(f"head neighbours takes at most 72 neighbours, not {self.neighbours}: a face has no more")
        if self.head == "neighbours" and self.residual:
            raise ValueError("residual: the head `neighbours` starts from a mean of the neighbours as it is")
        if self.query_width % self.query_heads:
            raise ValueError(f"query_heads {self.query_heads} does not divide query_width {self.query_width}")
        return self


class ModelConfig(Section):
    """Everything that decides a network's tensors and arithmetic, except the tasks and the normalization."""

    encoder: EncoderConfig = EncoderConfig()
    """The shared encoder."""
    regressor: RegressorConfig = RegressorConfig()
    """Heads of `--mode regress`."""
    mae: MaeConfig = MaeConfig()
    """Decoders of `--mode mae`."""
    inpainter: InpainterConfig = InpainterConfig()
    """Heads of `--mode inpaint`."""


PRESETS: dict[str, ModelConfig] = {
    "reference": ModelConfig(),
    "small": ModelConfig(
        encoder=EncoderConfig(
            width=128,
            focus=15,
            focus_blocks=(1, 2),
            focus_fit=5,
            inner_resolution=4,
            fusion_layers=1,
            fusion_norm="pre",
            fusion_dropout=0.0,
        ),
        regressor=RegressorConfig(head_dropout=0.0, head_norm=False, time_mean=16),
        mae=MaeConfig(decoder_channels=(64, 48, 32), hex_decoder_channels=32),
        inpainter=InpainterConfig(
            head="neighbours", local_channels=16, hex_local_channels=32, query_width=64, neighbours=16, hidden=96
        ),
    ),
    "large": ModelConfig(
        encoder=EncoderConfig(
            width=512,
            focus=21,
            focus_channels=(96, 192),
            focus_blocks=(3, 4),
            focus_tokens=4,
            focus_fit=5,
            inner_resolution=2,
            rest_channels=(32, 64),
            fusion_layers=3,
            fusion_norm="pre",
        ),
        regressor=RegressorConfig(head_hidden=512, head_dropout=0.0, head_norm=False, time_mean=64),
        inpainter=InpainterConfig(head="neighbours", neighbours=32, hidden=256),
    ),
    "tiny": ModelConfig(
        encoder=EncoderConfig(
            width=128, stage_blocks=(1, 1), hex_channels=8, hex_blocks=1, fusion_layers=1, fusion_heads=4
        ),
        regressor=RegressorConfig(head_hidden=16),
        mae=MaeConfig(decoder_channels=(16, 12, 8), hex_decoder_channels=8, hex_decoder_blocks=1),
        inpainter=InpainterConfig(
            local_channels=8,
            local_blocks=1,
            hex_local_channels=8,
            hex_local_blocks=1,
            neighbours=8,
            query_width=16,
            hidden=16,
        ),
    ),
}
"""`reference`: the network of the earlier project (25,743,104 encoder parameters); `small`: the
focused network that two CPU cores train in minutes; `large`: the same idea for a GPU and millions of events; `tiny`:
for tests."""


def model_config(preset: str, overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """A preset with some options replaced.

    Args:
        preset: a name of `PRESETS`.
        overrides: nested values by section, `{"encoder": {"width": 512}}`.

    Raises:
        ConfigError: an unknown preset or option, or a value that is out of range.
    """
    if preset not in PRESETS:
        raise ConfigError("is not a model preset", item="model.preset", found=preset, remedy=nearest(preset, PRESETS))
    merged = _merged(PRESETS[preset].model_dump(), overrides or {}, "model")
    try:
        return ModelConfig.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(("model", *(str(part) for part in first["loc"])))
        raise ConfigError(first["msg"].removeprefix("Value error, "), item=path, found=first["input"]) from error


def _merged(base: dict[str, Any], overrides: Mapping[str, Any], path: str) -> dict[str, Any]:
    """`base` with `overrides` applied, section by section; unknown keys are refused with the nearest valid one."""
    result = dict(base)
    for key, value in overrides.items():
        if key not in base:
            raise ConfigError("is not an option", item=f"{path}.{key}", remedy=nearest(key, base))
        nested = isinstance(base[key], dict) and isinstance(value, Mapping)
        result[key] = _merged(base[key], value, f"{path}.{key}") if nested else value
    return result
