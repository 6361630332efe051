"""Masks that a user describes in a word, for evaluation and prediction: `random:0.05`, `fixed:10`, `pattern:FILE` …"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from shards.base import ConfigError, nearest
from shards.dead import read_dead
from shards.normalization import Normalization
from xectrain.config.sensors import MaskingConfig
from xectrain.modes.masking import Masker

KINDS = ("random", "flat", "fixed", "pattern", "sensor-front")
SEED = 0
"""Of masks that belong to no run: the same for every model."""


def chosen_masks(text: str, normalization: Normalization) -> Masker:
    """What hides the sensors that a user describes.

    Args:
        text: `random:FRACTION` of the valid sensors, `flat:FRACTION` as many but evenly over the logarithm of the
            light, `fixed:N` sensors of each face, `pattern:FILE` a list of dead channels, `sensor-front` those right in
            front of a shallow first interaction.

    Raises:
        ConfigError: it is none of these. InputError: the list cannot be read.
    """
    kind, _, value = text.partition(":")
    if kind not in KINDS:
        raise ConfigError("is not a way to hide sensors", item="masks", found=text, remedy=nearest(kind, KINDS))
    if kind == "sensor-front":
        if value:
            raise ConfigError("takes no value", item="masks", found=text, expected=kind)
        return Masker(MaskingConfig(kind="sensor_front"), 0.0, normalization, SEED)
    if kind == "pattern":
        if not value:
            raise ConfigError("needs a list of dead channels", item="masks", found=text, expected="pattern:FILE")
        patterns = torch.from_numpy(read_dead(Path(value)).sensors())[None]
        return Masker(MaskingConfig(kind="pattern", patterns=(value,)), 0.0, normalization, SEED, patterns)
    if kind == "fixed":
        if not value.isdecimal() or int(value) < 1:
            raise ConfigError("needs a number of sensors", item="masks", found=text, expected="fixed:N, N ≥ 1")
        return Masker(MaskingConfig(kind="fixed", counts={"other": int(value)}), 0.0, normalization, SEED)
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise ConfigError(
            "needs a fraction of the sensors", item="masks", found=text, expected=f"{kind}:FRACTION, 0 < FRACTION < 1"
        )
    config = MaskingConfig(kind="random" if kind == "random" else "flat", ratio=share)
    return Masker(config, share, normalization, SEED)


def masks_identity(text: str) -> str:
    """What determines the masks of a text: the text, and what is in the list that it names.

    Raises:
        InputError: the list cannot be read.
    """
    kind, _, value = text.partition(":")
    if kind != "pattern":
        return text
    listed = np.flatnonzero(read_dead(Path(value)).sensors())
    return f"{kind}:{hashlib.sha256(listed.astype('<i8').tobytes()).hexdigest()}"
