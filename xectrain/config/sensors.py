"""Options of the modes that predict sensors (`mae`, `inpaint`): what is hidden, and what is asked of the predictions.

Imports no torch.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from xectrain.config.networks import Channel, FaceName, Section

MaskKind = Literal["random", "flat", "fixed", "pattern", "sensor_front"]
SensorLossName = Literal["counts", "smooth_l1", "l1", "mse", "huber"]


class MaskingConfig(Section):
    """Which sensors are hidden, and what the loss on them is."""

    kind: Literal["random", "flat", "fixed", "pattern", "sensor_front", "mixture"] = "random"
    """random: `ratio` of the eligible sensors; flat: as many, spread evenly over log npho; fixed: `counts` per face;
    pattern: one of the given dead-channel patterns; sensor_front: the inner sensors right in front of the first
    interaction (|Δu|, |Δv| < 0.5 cm, 0 < w < 1); mixture: one of `mixture` per event."""
    ratio: float | dict[FaceName, float] | None = None
    """Fraction of the eligible sensors to hide, one number or one per face (faces not named: none); null: 0.6 for
    mae, 0.05 for inpaint."""
    counts: dict[Literal["inner", "outer", "upstream", "downstream", "top", "bottom", "other"], int] = Field(default={})
    """Sensors to hide per face for `fixed` (`inner: 10, other: 1`); `other` stands for every face not named."""
    patterns: tuple[str, ...] = ()
    """Files of dead channels for `pattern`, one pattern each; an event takes one at random."""
    mixture: dict[MaskKind, float] = Field(default={})
    """Kinds and their weights for `mixture`."""
    maskable: Literal["npho", "time"] = "npho"
    """Eligible sensors: npho valid, or npho and time both valid (as the older models did)."""
    time_mask_bias: float = Field(default=0.0, ge=0)
    """Prefer bright sensors: chance ∝ photons^bias (at least 1 photon); 0: no preference."""
    predict_channels: tuple[Channel, ...] | None = None
    """Channels to predict; null: both."""
    loss: SensorLossName = "smooth_l1"
    """Loss of a masked sensor's normalized value; default `counts` for inpaint. counts: the deviance of photon numbers,
    whose best prediction is the mean, so that sums of filled light are right (the others learn something like the
    median of the logarithm, which loses light); times then take `l1`, whose best prediction is the median: the tail of
    late arrivals makes a mean late."""
    loss_beta: float = Field(default=0.1, gt=0)
    """Where `smooth_l1` and `huber` turn linear, in normalized units."""
    npho_weight: float = Field(default=1.0, ge=0)
    """Weight of the npho loss."""
    time_weight: float = Field(default=1.0, ge=0)
    """Weight of the time loss, which counts only sensors whose true time is valid."""
    time_npho_weighting: bool = False
    """Weight the time loss of a sensor by √npho."""
    npho_loss_alpha: float = Field(default=0.0, ge=0, le=2)
    """Weight the npho loss of a sensor by (npho + 1)^α."""
    auto_channel_weight: bool = False
    """Learn the balance of npho and time (½e^{−s}·loss + ½s)."""
    timing_consistency: float = Field(default=0.0, ge=0)
    """Weight of a penalty on predicted times of two bright sensors that differ by more than light takes from one to
    the other."""
    timing_bright: float = Field(default=1000.0, ge=0)
    """Photons from which a sensor counts as bright in that penalty."""
    solid_angle_weighting: float = Field(default=0.0, ge=0, le=1)
    """Weight the npho loss by (solid angle seen from the light's centre / its mean) to this power; 0: off."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ratios = self.ratio.values() if isinstance(self.ratio, dict) else () if self.ratio is None else (self.ratio,)
        if any(not 0 <= r <= 1 for r in ratios):
            raise ValueError(f"ratio {self.ratio} must be between 0 and 1")
        kinds = set(self.mixture) if self.kind == "mixture" else {self.kind}
        if not kinds or any(w <= 0 for w in self.mixture.values()):
            raise ValueError("mixture needs kinds with positive weights")
        if "fixed" in kinds and not self.counts:
            raise ValueError("kind fixed needs counts")
        if any(count < 0 for count in self.counts.values()):
            raise ValueError("counts must not be negative")
        if "pattern" in kinds and not self.patterns:
            raise ValueError("kind pattern needs patterns")
        if self.predict_channels is not None and (
            not self.predict_channels or len(set(self.predict_channels)) < len(self.predict_channels)
        ):
            raise ValueError("predict_channels must name npho, time or both, once each")
        return self

    def channels(self, default: tuple[Channel, ...]) -> tuple[Channel, ...]:
        """The channels to predict, npho before time; `default` is the mode's."""
        wanted = self.predict_channels or default
        every: tuple[Channel, ...] = ("npho", "time")
        return tuple(c for c in every if c in wanted)

    def ratios(self, default: float) -> float | dict[FaceName, float]:
        """`ratio`, or the mode's."""
        return default if self.ratio is None else self.ratio
