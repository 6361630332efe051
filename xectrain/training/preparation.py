"""A run before its first step: what it continues or starts from, checked against the data, on the CPU."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from shards.base import ConfigError, InputError, code_version, local_path
from shards.geometry import survey_document
from shards.normalization import NPHO_THRESHOLD, PRESETS, Normalization, check_remap, denormalize, preset, valid
from shards.plan import View
from shards.plausible import PLAUSIBLE, outside
from xectrain.checkpoint import find_checkpoint, newest_valid, read_checkpoint
from xectrain.config.tree import Config
from xectrain.data import TrainingData, open_training_data
from xectrain.model_input import InputRules
from xectrain.modes import find_mode
from xectrain.modes.base import Mode
from xectrain.modes.regress import target_options, training_targets
from xectrain.modes.reweight import fit_weights
from xectrain.tasks import find_task
from xectrain.training.changes import (
    PATHS,
    SAME_STEPS,
    SAME_WEIGHTS,
    Change,
    changes,
    completed,
    refuse,
    refuse_of_finished,
)
from xectrain.training.runfolder import RunFolder
from xectrain.training.state import check_facts

logger = logging.getLogger(__name__)

LOOKED_AT, COLUMNS_LOOKED_AT = 64, 4096
"""Events of each dataset whose sensors, and whose columns, are checked before training."""


@dataclass(frozen=True)
class Prepared:
    """A run before its first step, on the CPU."""

    data: TrainingData
    rules: InputRules
    mode: Mode
    facts: dict[str, Any]
    """As of `_facts`."""
    found: tuple[Path, dict[str, Any]] | None
    """The checkpoint that it goes on from."""
    differences: list[Change]
    """Options that have changed since."""
    begin_anew: bool
    """Whether only its weights are taken."""


def prepare(config: Config, run: RunFolder) -> Prepared | None:
    """Everything that can be checked without a device; None: the run is already trained."""
    found = _find_checkpoint(config, run)
    differences = changes(found[1]["config"], config) if found is not None else []
    differences = [change for change in differences if change.option != "checkpoint.resume"]
    begin_anew = found is not None and acts_now(config, found[1], "reset_epoch")
    if found is not None and not begin_anew and _is_finished(run, config):
        refuse_of_finished(differences, run.path)
        return None
    if found is not None:
        refuse(differences, SAME_WEIGHTS if begin_anew else SAME_WEIGHTS + SAME_STEPS, run.path)
    data = sampled(config, open_training_data(config.data, config.train.seed))
    look_at_values(data)
    rules = input_rules(config, data)
    torch.manual_seed(config.train.seed)
    mode = find_mode(config.mode).load().build(config, data, rules, None if found is None else found[1])
    if config.checkpoint.init_from is not None and found is None:
        _initialize(mode, Path(config.checkpoint.init_from), config.checkpoint.init_parts)
    facts = _facts(config, data, rules, mode)
    if found is not None:
        check_facts(found[1], facts, run.path)
    return Prepared(data, rules, mode, facts, found, differences, begin_anew)


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


def look_at_values(data: TrainingData) -> None:
    """Warn where a network will have nothing to read, or values in another unit than stated."""
    said = set[str]()
    for role, views in (("training", data.train), ("validation", data.val)):
        for view in views:
            rows = view.rows[:: len(view.rows) // LOOKED_AT + 1]
            if not len(rows):
                continue
            sensors_BN2 = torch.from_numpy(view.dataset.read(rows)[0].astype(np.float32))
            remarks = [
                f"no sensor has a {what} in the {len(rows)} {role} events checked"
                for what, valid_BN in zip(
                    ("photon number", "time"), valid(sensors_BN2, view.dataset.normalization), strict=True
                )
                if not bool(valid_BN.any())
            ]
            for remark in remarks + _implausible(view, sensors_BN2):
                if (line := f"{view.dataset.path}: {remark}") not in said:
                    logger.warning("%s", line)
                said.add(line)


def _implausible(view: View, sensors_BN2: torch.Tensor) -> list[str]:
    """Remarks on implausible values of a dataset."""
    settings = view.dataset.manifest.settings
    npho, time = denormalize(sensors_BN2.numpy(), settings.normalization)
    values: dict[str, npt.NDArray[np.floating]] = {"npho": npho, f"{settings.time_reference} times": time}
    branches = {c.name: f"{c.branch} ({c.name})" if c.branch else c.name for c in settings.columns}
    names = [name for name in branches if name in PLAUSIBLE]
    table = view.dataset.table(names, view.rows[:: len(view.rows) // COLUMNS_LOOKED_AT + 1])
    values |= {name: table[name].to_numpy().astype(np.float64) for name in names}
    remarks = (outside(name, found).remark(name, branches.get(name, name)) for name, found in values.items())
    return [remark for remark in remarks if remark is not None]


def input_rules(config: Config, data: TrainingData) -> InputRules:
    """How stored sensors become the network's input.

    Raises:
        ConfigError: a remapping that cannot be exact.
    """
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


def with_absolute_paths(config: Config) -> Config:
    """The configuration with absolute paths, so that they are valid from any folder."""
    tree = config.model_dump(mode="json", exclude_unset=True)

    def absolute(group: str, key: str) -> None:
        value = tree.get(group, {}).get(key)
        if isinstance(value, str):
            tree[group][key] = str(local_path(value, InputError).absolute())
        elif value:
            entries = [{"path": entry} if isinstance(entry, str) else entry for entry in value]
            with_absolute_paths = [
                {**entry, "path": str(local_path(entry["path"], InputError).absolute())} for entry in entries
            ]
            tree[group][key] = (
                with_absolute_paths if isinstance(value[0], dict) else [entry["path"] for entry in with_absolute_paths]
            )

    for path in PATHS:
        absolute(*path.split("."))
    return Config.model_validate(tree)


def _is_finished(run: RunFolder, config: Config) -> bool:
    """Whether the run was trained to its end already, or longer."""
    before = run.read_state()
    return before.state == "done" and (before.epochs, before.minutes) == (config.train.epochs, config.train.minutes)


def acts_now(config: Config, stored: dict[str, Any], option: str) -> bool:
    """Whether an option of `checkpoint` that acts once on resume has not acted on this checkpoint yet."""
    before = stored["config"]["train"]
    same_length = (before["epochs"], before.get("minutes")) == (config.train.epochs, config.train.minutes)
    acted = stored["config"]["checkpoint"].get(option, False) and same_length
    return bool(getattr(config.checkpoint, option)) and not acted


def _find_checkpoint(config: Config, run: RunFolder) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to continue, by `checkpoint.resume`; its configuration has every option."""
    wanted = config.checkpoint.resume
    named = wanted not in ("auto", "off")
    found = (Path(wanted), read_checkpoint(Path(wanted))) if named else newest_valid(run.path)
    if found is None:
        return None
    if wanted == "off":
        raise ConfigError(
            "already holds a run, and checkpoint.resume is off", file=run.path, remedy="give another --out"
        )
    path, stored = found
    return path, {**stored, "config": completed(stored["config"])}


def _facts(config: Config, data: TrainingData, rules: InputRules, mode: Mode) -> dict[str, Any]:
    """What a checkpoint records in addition to weights and position."""
    return {
        **data.facts(),
        "normalization": rules.model.to_dict(),
        "npho_threshold": rules.npho_threshold,
        "parameters": sum(p.numel() for p in mode.parameters()),
        "geometry": data.first.manifest.settings.channel_map,
        "survey": survey_document(data.first.geometry),
        "relative_time": data.first.manifest.settings.time_reference == "relative",
        "code_version": code_version(),
    }


def _initialize(mode: Mode, source: Path, parts: str) -> None:
    """Take weights from another run's checkpoint, the averaged ones if it has them; log which tensors were taken."""
    state = read_checkpoint(find_checkpoint(source))
    weights: dict[str, torch.Tensor] = state["ema"] or state["model"]
    prefix = "model.encoder." if parts == "encoder" else ""
    own = mode.state_dict()
    taken = {
        name: tensor
        for name, tensor in weights.items()
        if name.startswith(prefix) and name in own and own[name].shape == tensor.shape
    }
    wanted = {name for name in own if name.startswith(prefix)}
    if not taken:
        raise ConfigError("has no tensors that fit this network", file=source, remedy="use the same model options")
    missing = sorted(wanted - taken.keys())
    mode.load_state_dict({**own, **taken})
    logger.info("%s: %d of %d tensors taken (%s)", source, len(taken), len(wanted), parts)
    if missing:
        logger.warning("%s: not taken, since name or shape differ: %s", source, ", ".join(missing[:10]))
