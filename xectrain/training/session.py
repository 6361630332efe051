"""A training session: from a configuration to a trainer in the right position, and the run's state when it ends."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shards.base import ConfigError, code_version, locked, publish_text
from shards.normalization import NPHO_THRESHOLD, PRESETS, Normalization, check_remap, preset
from xectrain.checkpoint import newest_valid, read_checkpoint
from xectrain.compute import Compute, choose_compute
from xectrain.config.files import to_yaml
from xectrain.config.tree import Config
from xectrain.data import TrainingData, open_training_data
from xectrain.model_input import InputRules
from xectrain.modes import find_mode
from xectrain.modes.base import Mode
from xectrain.modes.reweight import fit_weights
from xectrain.tasks import find_task
from xectrain.training.profiling import StepProfiler
from xectrain.training.ranks import Ranks, joined_ranks
from xectrain.training.runfolder import RunFolder, State
from xectrain.training.trainer import Stopped, Trainer

logger = logging.getLogger(__name__)


def train(config: Config, path: Path, profile: bool = False) -> None:
    """Train in the run folder `path`, or continue there, or say that all is done.

    Args:
        config: what to train.
        path: the run folder, made if missing.
        profile: also profile a few steps (`xectrain.training.profiling`).

    Raises:
        ConfigError: the folder holds another run, or the configuration does not fit the data.
        Stopped: a signal ended the run after a checkpoint; `state.json` says `requeue`.
    """
    run = RunFolder(path)
    with joined_ranks() as ranks:
        lock = locked(run.lock, f"training in {path}") if ranks.is_main else nullcontext()
        with lock:
            _train(config.resolved(gpu=torch.cuda.is_available()), run, ranks, profile)


def _train(config: Config, run: RunFolder, ranks: Ranks, profile: bool) -> None:
    found = _find_checkpoint(config, run)
    before = run.read_state()
    begin_anew = found is not None and _acts_now(config, found[1], "reset_epoch")
    finished = before.get("state") == "done" and before.get("epochs") == config.train.epochs
    if finished and found is not None and not begin_anew:
        logger.info("%s: already trained for %d epochs", run.path, config.train.epochs)
        return
    data = _sampled(config, open_training_data(config.data, config.train.seed))
    rules = _input_rules(config, data)
    compute = _choose(config, data, ranks)
    torch.manual_seed(config.train.seed)
    mode = find_mode(config.mode).load().build(config, data, rules, None if found is None else found[1])
    if config.checkpoint.init_from is not None and found is None:
        _initialize(mode, Path(config.checkpoint.init_from), config.checkpoint.init_parts)
    profiler = StepProfiler(run.path, compute.device) if profile and ranks.is_main else None
    trainer = Trainer(config, mode, data, rules, compute, run, ranks, _facts(config, data, mode), profiler)
    if found is not None:
        source, state = found
        trainer.restore(
            state,
            refresh_lr=_acts_now(config, state, "refresh_lr"),
            reset_epoch=begin_anew,
            new_run=_acts_now(config, state, "new_run"),
        )
        if begin_anew and ranks.is_main:
            run.set_metrics_aside()
        logger.info("continuing %s at epoch %d, step %d", source, trainer.at.epoch + 1, trainer.at.step)
    if ranks.is_main:
        publish_text(run.config, to_yaml(config))
        run.write_state("running")
    _announce(trainer)
    _fit(trainer, run, ranks)


def _fit(trainer: Trainer, run: RunFolder, ranks: Ranks) -> None:
    """Train, and leave `state.json` saying how it ended."""
    state: State = "failed"
    facts: dict[str, Any] = {}
    try:
        trainer.fit()
        state = "done"
        facts = {"epochs": trainer.config.train.epochs, "best_loss": trainer.at.best}
    except Stopped:
        state = "requeue"
        raise
    finally:
        if ranks.is_main:
            run.write_state(state, **facts)


def _acts_now(config: Config, state: dict[str, Any], option: str) -> bool:
    """Whether an option of `checkpoint` that acts once on resume has not acted on this checkpoint yet."""
    same_length = state["config"]["train"]["epochs"] == config.train.epochs
    acted = state["config"]["checkpoint"].get(option, False) and same_length
    return bool(getattr(config.checkpoint, option)) and not acted


def _find_checkpoint(config: Config, run: RunFolder) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to continue, by `checkpoint.resume`."""
    wanted = config.checkpoint.resume
    if wanted == "auto":
        return newest_valid(run.path)
    if wanted == "off":
        if newest_valid(run.path) is not None:
            raise ConfigError(
                "holds a run already and checkpoint.resume is off", file=run.path, remedy="give another --out"
            )
        return None
    return Path(wanted), read_checkpoint(Path(wanted))


def _sampled(config: Config, data: TrainingData) -> TrainingData:
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
    from xectrain.modes.regress import target_options, training_targets

    (task,) = config.reweight.tasks
    target_NK = training_targets(data, find_task(task).name, target_options(config, data))
    weights = fit_weights(find_task(task).name, target_NK, config.reweight.limit)(torch.from_numpy(target_NK))
    return replace(data, row_weights=data.by_view(weights.numpy()))


def _input_rules(config: Config, data: TrainingData) -> InputRules:
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


def _choose(config: Config, data: TrainingData, ranks: Ranks) -> Compute:
    if config.train.deterministic:
        torch.use_deterministic_algorithms(True)
    return choose_compute(
        config.data.device,
        config.train.precision,
        config.train.compile,
        event_passes=config.train.epochs * data.epoch_events(config.data.epoch_events) // ranks.world,
        deterministic=config.train.deterministic,
        local_rank=ranks.local_rank,
    )


def _facts(config: Config, data: TrainingData, mode: Mode) -> dict[str, Any]:
    """What a checkpoint records besides weights and position."""
    return {
        **data.facts(),
        "parameters": sum(p.numel() for p in mode.parameters()),
        "geometry": data.first.manifest.settings.channel_map,
        "relative_time": data.first.manifest.settings.time_reference == "relative",
        "code_version": code_version(),
    }


def _initialize(mode: Mode, source: Path, parts: str) -> None:
    """Take weights from another run's checkpoint, the averaged ones if it has them; say which tensors were taken."""
    from xectrain.checkpoint import find_checkpoint

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
        raise ConfigError("has no tensor that fits this network", file=source, remedy="use the same model options")
    missing = sorted(wanted - taken.keys())
    mode.load_state_dict({**own, **taken})
    logger.info("%s: %d of %d tensors taken (%s)", source, len(taken), len(wanted), parts)
    if missing:
        logger.warning("%s: not taken, for want of the same name and shape: %s", source, ", ".join(missing[:10]))


def _announce(trainer: Trainer) -> None:
    logger.info(
        "%s: %s network, %d parameters; %d training and %d validation events; %d steps of %d events per epoch",
        trainer.mode.name,
        trainer.config.model.preset,
        trainer.facts["parameters"],
        trainer.data.epoch_events(None),
        sum(len(view.rows) for view in trainer.data.val),
        trainer.epoch_steps,
        trainer.batch_size,
    )
