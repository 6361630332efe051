"""The table of modes, and the configuration of a run, whose defaults depend on its mode.

An entry says where the mode's class is; the class (`EventMode` or `SensorMode` in `xectrain.modes.base`) says the rest:
how it is built, what it hides, its loss and metrics, what it predicts. The table stays free of torch, so that options
are checked before torch is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.base import ConfigError, nearest
from xectrain.config.files import layered, validate
from xectrain.config.merge import merge
from xectrain.config.tree import Config

if TYPE_CHECKING:
    from xectrain.modes.base import Mode

OptionTree = Mapping[str, Mapping[str, object]]
NO_LIMIT = 1_000_000
"""Epochs of a run that ends after `train.minutes`."""


@dataclass(frozen=True)
class ModeEntry:
    """One mode."""

    home: str
    """`module:Class` of the mode."""
    summary: str
    aliases: tuple[str, ...] = ()
    """Other names on the command line."""
    defaults: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Options with a different default in this mode."""
    defaults_from_weights: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """The same, when the run begins from another run's weights (`checkpoint.init_from`)."""

    def load(self) -> type[Mode]:
        """The mode's class; imports torch."""
        module, _, name = self.home.partition(":")
        found: type[Mode] = getattr(importlib.import_module(module), name)
        return found


MODES: dict[str, ModeEntry] = {
    "regress": ModeEntry(
        "xectrain.modes.regress:Regress", "predict direction, energy, time and position", aliases=("regressor",)
    ),
    "mae": ModeEntry(
        "xectrain.modes.masked:Autoencoder",
        "pre-train the encoder on hidden sensors",
        defaults={"optim": {"lr": 1e-4}},
    ),
    "inpaint": ModeEntry(
        "xectrain.modes.masked:Inpaint",
        "fill dead channels",
        aliases=("inpainter",),
        defaults={
            "optim": {"lr": 1e-3},
            "train": {"epochs": 50},
            "masking": {"predict_channels": ("npho", "time"), "loss": "counts"},
        },
        defaults_from_weights={"optim": {"freeze_encoder": True}},
    ),
}


def find_mode(name: str) -> ModeEntry:
    """The mode of this name.

    Raises:
        ConfigError: there is no such mode.
    """
    if name not in MODES:
        raise ConfigError("is not a mode", item="mode", found=name, remedy=nearest(name, list(MODES)))
    return MODES[name]


def load_config(
    files: Sequence[Path] = (), assignments: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> Config:
    """The configuration of a run: the defaults of its mode, each file over the previous, then the command's own
    options, then each assignment.

    Args:
        files: YAML files; a later one overrides single keys of an earlier one.
        assignments: `--set` values, parsed as YAML (`optim.lr=1e-4`, `tasks.energy.enabled=true`).
        options: what the command's own options set, as a nested mapping.

    Raises:
        ConfigError: unknown key or mode (with the nearest valid one), wrong type or value, with its path.
        InputError: a file is missing or not a YAML mapping.
    """
    given = layered(files, assignments, options)
    by_alias = {alias: name for name, entry in MODES.items() for alias in entry.aliases}
    mode = given.get("mode", Config().mode)
    if isinstance(mode, str):
        given["mode"] = by_alias.get(mode, mode)
    tree: dict[str, Any] = {}
    if isinstance(mode, str):
        entry = find_mode(given["mode"])
        merge(tree, entry.defaults)
        start = given.get("checkpoint")
        if isinstance(start, dict) and start.get("init_from"):
            merge(tree, entry.defaults_from_weights)
    length = given.get("train")
    if isinstance(length, dict) and length.get("minutes"):
        merge(tree, {"train": {"epochs": NO_LIMIT}})
    merge(tree, given)
    return validate(tree)
