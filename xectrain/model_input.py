"""From stored sensors to what a network reads: where a model's normalization and threshold are applied."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from shards.normalization import Normalization, apply_threshold, remap, valid


@dataclass(frozen=True)
class InputRules:
    """How batches of one dataset become a model's input, on any device."""

    storage: Normalization
    """Normalization the batches come in."""
    model: Normalization
    """Normalization the network was made for."""
    npho_threshold: float
    """Photons below which a sensor's time is taken as invalid."""

    def apply(self, sensors_BN2: Tensor) -> tuple[Tensor, Tensor]:
        """Model input and mask.

        Args:
            sensors_BN2: float32 (B, 4760, 2), normalized as `storage`.

        Returns:
            x_BN2, normalized as `model` with times below the threshold marked invalid; and mask_BN, bool, True where
            npho is not valid.
        """
        return self.finish(self.normalized(sensors_BN2))

    def normalized(self, sensors_BN2: Tensor) -> Tensor:
        """The sensors in the model's normalization, (B, 4760, 2)."""
        return sensors_BN2 if self.storage == self.model else remap(sensors_BN2, self.storage, self.model)

    def finish(self, x_BN2: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the threshold to sensors in the model's normalization; return them with the mask."""
        npho_valid_BN, _ = valid(x_BN2, self.model)
        return apply_threshold(x_BN2, self.model, self.npho_threshold), ~npho_valid_BN
