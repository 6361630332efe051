"""The training modes. A mode is small: its network, masks, loss, metrics; everything else is the trainer's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xectrain.modes.base import EventBatch, Mode, StepResult

if TYPE_CHECKING:
    from xectrain.config.tree import Config
    from xectrain.data import TrainingData
    from xectrain.model_input import InputRules

__all__ = ["EventBatch", "Mode", "StepResult", "build_mode"]


def build_mode(config: Config, data: TrainingData, rules: InputRules) -> Mode:
    """The mode that `config.mode` names, its network freshly initialized from torch's generator.

    Raises:
        ConfigError: the data cannot serve it (a truth column is absent or has no spread).
    """
    if config.mode == "regress":
        from xectrain.modes.regress import Regress

        return Regress.build(config, data, rules)
    from xectrain.modes.masked import MaskedSensors

    return MaskedSensors.build(config, data, rules)
