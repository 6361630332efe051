"""The modes that predict hidden sensors: masked-autoencoder pre-training and dead-channel inpainting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shards import geometry as geo
from shards.base import ConfigError
from shards.dead import read_dead
from shards.identity import IDENTITY
from shards.normalization import Normalization
from xectrain.baselines.inpainting import neighbour_table
from xectrain.config.networks import Channel, ModelConfig
from xectrain.config.sensors import MaskingConfig
from xectrain.models.inpainter import Inpainter
from xectrain.models.mae import MaskedAutoencoder
from xectrain.models.sensors import hide
from xectrain.modes.base import EventBatch, SensorMode, StepResult
from xectrain.modes.losses import Balance
from xectrain.modes.losses_sensors import SensorLoss, channel_weights, event_loss, sensor_loss
from xectrain.modes.masking import Masker, MaskInput

if TYPE_CHECKING:
    from xectrain.config.tree import Config
    from xectrain.data import TrainingData
    from xectrain.model_input import InputRules

SUMS = ("count", "error", "absolute", "square", "ring")
"""What is summed over an event's scored sensors of a face, with the error in photons: of the prediction, and at last
the absolute one of the mean of the neighbours."""


class MaskedSensors(SensorMode):
    """Hides sensors of an event and scores the predictions of exactly those."""

    kind: type[MaskedAutoencoder | Inpainter]
    default_channels: tuple[Channel, ...]
    default_ratio: float
    """Of the eligible sensors, hidden where `masking.ratio` is not given."""
    model: MaskedAutoencoder | Inpainter
    face_N: Tensor
    patterns: Tensor | None
    """bool (patterns, 4760), kept in checkpoints, so that the files they came from are not needed again."""

    def __init__(
        self,
        config: ModelConfig,
        masking: MaskingConfig,
        normalization: Normalization,
        columns: list[str],
        seed: int,
        patterns: Tensor | None = None,
        geometry: geo.Geometry | None = None,
    ) -> None:
        super().__init__()
        self.masking, self.normalization = masking, normalization
        self.channels = masking.channels(self.default_channels)
        self.model = self.kind(config, self.channels, normalization, geometry)
        self.balance = Balance(channel_weights(masking, self.channels), learned=masking.auto_channel_weight)
        self.masker = self.masks(masking, normalization, seed, patterns)
        self.truth_columns = columns
        self.register_buffer("face_N", torch.from_numpy(geo.nominal().face.astype(np.int64)), persistent=False)
        self.register_buffer("patterns", patterns)
        self.register_load_state_dict_pre_hook(_keep_own_patterns)

    @classmethod
    def network(cls, config: Config, normalization: Normalization) -> MaskedAutoencoder | Inpainter:
        return cls.kind(config.model, config.masking.channels(cls.default_channels), normalization)

    @classmethod
    def masks(
        cls, masking: MaskingConfig, normalization: Normalization, seed: int, patterns: Tensor | None = None
    ) -> Masker:
        ratio = masking.ratios(cls.default_ratio)
        by_face = {str(face): value for face, value in ratio.items()} if isinstance(ratio, dict) else ratio
        return Masker(masking, by_face, normalization, seed, _patterns(masking) if patterns is None else patterns)

    @classmethod
    def build(
        cls, config: Config, data: TrainingData, rules: InputRules, before: Mapping[str, Any] | None = None
    ) -> Self:
        """The mode for a training set.

        Raises:
            ConfigError: masks of a kind that the data cannot serve, or weights for a loss of tasks.
            InputError: a pattern file that cannot be read.
        """
        if config.reweight.by == "loss":
            raise ConfigError("has no tasks whose loss could be reweighted", item="reweight.by", found=cls.name)
        columns = list(data.first.columns)
        for needed in IDENTITY:
            if needed not in columns:
                raise ConfigError(f"masks are drawn from {needed!r}, which the data do not have", item="mode")
        patterns = _patterns(config.masking, before)
        seed, where = config.train.seed, data.first.geometry
        return cls(config.model, config.masking, rules.model, columns, seed, patterns, where)

    @classmethod
    def of_checkpoint(cls, config: Config, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        norm = Normalization.from_dict(state["normalization"])
        patterns = _patterns(config.masking, state)
        columns, where = list(state["columns"]), geo.geometry_of(state.get("survey"))
        mode = cls(config.model, config.masking, norm, columns, config.train.seed, patterns, where)
        mode.load_state_dict(dict(tensors))
        return mode.eval()

    def forward(self, batch: EventBatch) -> StepResult:
        npho_valid_BN = ~batch.mask_BN
        time_valid_BN = npho_valid_BN & (batch.x_BN2[..., 1] != self.normalization.sentinel_time)
        hidden_BN = self.masker.draw(self._mask_input(batch, npho_valid_BN, time_valid_BN), batch.epoch).hidden_BN
        seen_BN2, mask_BN = hide(batch.x_BN2, hidden_BN, self.normalization)
        predicted_BNX = self.model(seen_BN2, mask_BN)
        with torch.autocast(batch.x_BN2.device.type, enabled=False):
            loss = sensor_loss(
                *(self.masking, self.channels, self.normalization, predicted_BNX),
                *(batch.x_BN2, hidden_BN, time_valid_BN),
            )
            loss_B, _ = event_loss(loss, self.balance.factors() if self.training else dict(self.balance.weights))
            if self.training and self.balance.learned:
                loss_B = loss_B + 0.5 * self.balance.log_variance.sum()
        seen_BN = npho_valid_BN & ~hidden_BN
        outputs = {} if self.training else self._photon_sums(predicted_BNX, batch.x_BN2, hidden_BN, seen_BN)
        return StepResult(loss_B, _parts(loss, npho_valid_BN), outputs)

    def _mask_input(self, batch: EventBatch, npho_valid_BN: Tensor, time_valid_BN: Tensor) -> MaskInput:
        def pick(*names: str) -> Tensor:
            return batch.truth_BC[:, [self.truth_columns.index(n) for n in names]]

        uvw_B3 = pick("u", "v", "w") if {"u", "v", "w"} <= set(self.truth_columns) else None
        run_B, event_B = pick(*IDENTITY).long().unbind(dim=1)
        return MaskInput(batch.x_BN2, npho_valid_BN, time_valid_BN, run_B, event_B, uvw_B3)

    def _photon_sums(
        self, predicted_BNX: Tensor, x_BN2: Tensor, hidden_BN: Tensor, seen_BN: Tensor
    ) -> dict[str, Tensor]:
        """Sums over the scored sensors of each face, (B,) each; empty unless npho is predicted."""
        if "npho" not in self.channels:
            return {}
        norm = self.normalization
        predicted_BN = predicted_BNX[..., self.channels.index("npho")].double()
        true_BN = torch.where(hidden_BN, x_BN2[..., 0].double(), predicted_BN)
        error_BN = torch.where(hidden_BN, norm.inverse_npho(predicted_BN) - norm.inverse_npho(true_BN), 0.0)
        photons_BN = norm.inverse_npho(torch.where(hidden_BN | seen_BN, x_BN2[..., 0].double(), 0.0))
        ring_BN = torch.where(hidden_BN, _ring_mean(photons_BN, seen_BN) - photons_BN, 0.0)
        terms = (hidden_BN.double(), error_BN, error_BN.abs(), error_BN.square(), ring_BN.abs())
        sums: dict[str, Tensor] = {}
        for code, face in enumerate(geo.FACE_NAMES):
            on_face_N = torch.eq(self.face_N, code).double()
            sums |= {f"{name}_{face}": term_BN @ on_face_N for name, term_BN in zip(SUMS, terms, strict=True)}
        return sums

    def summarize(self, outputs: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
        """Photon errors of the hidden sensors, per face and over all: `bias_*`, `mae_*`, `rmse_*` [photons], and
        `mae_ring_*`, those of the mean of the neighbours, which a network has to beat.
        """
        metrics: dict[str, float] = {}
        total = np.zeros(len(SUMS))
        for face in geo.FACE_NAMES if outputs else ():
            sums = np.array([outputs[f"{name}_{face}"].sum() for name in SUMS])
            total += sums
            metrics |= _errors(face, sums)
        return {**metrics, **_errors("all", total), "n_masked_total": float(total[0])} if outputs else {}


class Autoencoder(MaskedSensors):
    """Masked-autoencoder pre-training: many sensors hidden, the encoder learns what light looks like."""

    name = "mae"
    kind = MaskedAutoencoder
    default_channels = ("npho", "time")
    default_ratio = 0.6
    fills = False


class Inpaint(MaskedSensors):
    """Dead-channel inpainting: few sensors hidden, predicted from all others."""

    name = "inpaint"
    kind = Inpainter
    default_channels = ("npho",)  # of checkpoints that do not say; a new run's configuration names both
    default_ratio = 0.05
    fills = True


def _patterns(masking: MaskingConfig, before: Mapping[str, Any] | None = None) -> Tensor | None:
    """Dead-channel patterns, bool (patterns, 4760): those of a checkpoint made with the same list of files, else the
    files' own (checkpoints of earlier versions keep none)."""
    if not masking.patterns:
        return None
    kept = None if before is None else before["model"].get("patterns")
    if before is not None and kept is not None and tuple(before["config"]["masking"]["patterns"]) == masking.patterns:
        found: Tensor = kept
        return found
    return torch.stack([torch.from_numpy(read_dead(Path(file)).sensors()) for file in masking.patterns])


def _keep_own_patterns(module: MaskedSensors, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Weights written before checkpoints kept the patterns: the module's own stay."""
    if module.patterns is not None:
        state.setdefault(f"{prefix}patterns", module.patterns)


def _ring_mean(photons_BN: Tensor, seen_BN: Tensor) -> Tensor:
    """Mean photons of the neighbours that are seen, (B, N); 0 where there is none."""
    table_NR = torch.tensor(neighbour_table("ring"), device=photons_BN.device)  # -1 is the zero put at the end
    lit_BM, count_BM = (
        torch.nn.functional.pad(values, (0, 1)) for values in (photons_BN * seen_BN, seen_BN.to(photons_BN.dtype))
    )
    sums_BN, counts_BN = torch.zeros_like(photons_BN), torch.zeros_like(photons_BN)
    for column_N in table_NR.T:
        sums_BN, counts_BN = sums_BN + lit_BM[:, column_N], counts_BN + count_BM[:, column_N]
    return sums_BN / counts_BN.clamp(min=1)


def _errors(where: str, sums: npt.NDArray[np.float64]) -> dict[str, float]:
    count, error, absolute, square, ring = sums
    if not count:
        return {}
    return {
        f"bias_{where}": error / count,
        f"mae_{where}": absolute / count,
        f"mae_ring_{where}": ring / count,
        f"rmse_{where}": float(np.sqrt(square / count)),
    }


def _parts(loss: SensorLoss, npho_valid_BN: Tensor) -> dict[str, Tensor]:
    """What is logged, by name: per channel, per face and channel, and the fraction of valid sensors hidden."""
    ratio_B = loss.scored / npho_valid_BN.sum(dim=1).clamp(min=1)
    return {
        **{f"loss_{channel}": value.detach() for channel, value in loss.channels.items()},
        **{f"loss_{name}": value.detach() for name, value in loss.extra.items()},
        **{f"loss_{name}": value for name, value in loss.faces.items()},
        "actual_mask_ratio": ratio_B,
    }
