"""What a run does with its data before it trains: resampling, a look at the sensors, the rules of its input."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch

from shards.base import ConfigError
from shards.normalization import NPHO_THRESHOLD, PRESETS, Normalization, check_remap, preset, valid
from xectrain.config.tree import Config
from xectrain.data import TrainingData
from xectrain.model_input import InputRules
from xectrain.modes.regress import target_options, training_targets
from xectrain.modes.reweight import fit_weights
from xectrain.tasks import find_task

logger = logging.getLogger(__name__)

LOOKED_AT = 64
"""Events of each dataset whose sensors are looked at before training."""


def sampled(config: Config, data: TrainingData) -> TrainingData:
    """The training data with the curriculum or the resampling that the configuration asks for.

    Raises:
        ConfigError: an unknown column or task, or options that exclude one another.
    """
    column, by_plan = config.augment.curriculum, config.reweight.by == "plan"
    for on, item in ((column is not None, "augment.curriculum"), (by_plan, "reweight.by")):
        if on and config.data.epoch_events is not None:
            raise ConfigError("cannot be combined with data.epoch_events", item=item)
    if column is not None and by_plan:
        raise ConfigError("cannot be combined with reweight.by=plan", item="augment.curriculum")
    if column is not None:
        values = data.table([column])[column].to_numpy().astype(np.float64)
        return replace(data, stages=data.by_view(values))
    if not by_plan:
        return data
    (task,) = config.reweight.tasks
    target_NK = training_targets(data, find_task(task).name, target_options(config, data))
    weights = fit_weights(find_task(task).name, target_NK, config.reweight.limit)(torch.from_numpy(target_NK))
    return replace(data, row_weights=data.by_view(weights.numpy()))


def look_at_sensors(data: TrainingData) -> None:
    """Say where the network will have nothing to read: a network reads light and times."""
    for role, views in (("training", data.train), ("validation", data.val)):
        for view in views:
            rows = view.rows[:: len(view.rows) // LOOKED_AT + 1]
            if not len(rows):
                continue
            sensors_BN2 = torch.from_numpy(view.dataset.read(rows)[0].astype(np.float32))
            for what, valid_BN in zip(
                ("photon number", "time"), valid(sensors_BN2, view.dataset.normalization), strict=True
            ):
                if not bool(valid_BN.any()):
                    logger.warning(
                        "%s: no sensor has a %s in the %d %s events looked at",
                        *(view.dataset.path, what, len(rows), role),
                    )


def input_rules(config: Config, data: TrainingData) -> InputRules:
    storage = data.first.normalization
    model = preset(config.data.normalization) if config.data.normalization else storage
    for view in (*data.train, *data.val):
        check_remap(storage, model, view.dataset.dtype)
    threshold = config.model.npho_threshold
    return InputRules(storage, model, default_threshold(model) if threshold is None else threshold)


def default_threshold(norm: Normalization) -> float:
    """The npho threshold [photons] of the preset that `norm` is, or of `standard`."""
    names = [name for name, values in PRESETS.items() if values == norm]
    return float(NPHO_THRESHOLD[names[0] if names else "standard"])
