"""A training session: from a configuration to a trainer in the right position, and the run's state when it ends."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from shards.base import ConfigError, code_version, output_folder, publish_text
from xectrain.checkpoint import find_checkpoint, newest_valid, read_checkpoint
from xectrain.compute import Compute, choose_compute
from xectrain.config.files import to_yaml
from xectrain.config.tree import Config
from xectrain.data import TrainingData, open_training_data
from xectrain.model_input import InputRules
from xectrain.modes import find_mode
from xectrain.modes.base import Mode
from xectrain.training.batches import Batches
from xectrain.training.changes import (
    OF_RATE,
    PATHS,
    SAME_STEPS,
    SAME_WEIGHTS,
    Change,
    changes,
    completed,
    refuse,
    refuse_of_finished,
)
from xectrain.training.preparation import input_rules, look_at_sensors, sampled
from xectrain.training.profiling import StepProfiler
from xectrain.training.ranks import Ranks, joined_ranks
from xectrain.training.recorder import Recorder
from xectrain.training.runfolder import RunFolder, State
from xectrain.training.state import TrainingState, check_facts
from xectrain.training.tracking import Mirrors, open_mirrors
from xectrain.training.trainer import Stopped, Trainer

logger = logging.getLogger(__name__)

MLFLOW_STATUS = {"done": "FINISHED", "requeue": "KILLED", "failed": "FAILED"}
HURRY_S = 10.0
"""Longest wait for mirrors [s] when a run is stopped: whoever asked for it waits, too."""


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
    inputs = [entry.path for entry in (*config.data.train, *config.data.val)]
    run = RunFolder(output_folder(path, "run", RunFolder.holds_run, inputs))
    with joined_ranks() as ranks, run.held() if ranks.is_main else nullcontext():
        _train(_located(config).resolved(gpu=torch.cuda.is_available()), run, ranks, profile)


def _train(config: Config, run: RunFolder, ranks: Ranks, profile: bool) -> None:
    found = _find_checkpoint(config, run)
    differences = changes(found[1]["config"], config) if found is not None else []
    differences = [change for change in differences if change.option != "checkpoint.resume"]
    begin_anew = found is not None and _acts_now(config, found[1], "reset_epoch")
    if found is not None and not begin_anew and _is_finished(run, config):
        refuse_of_finished(differences, run.path)
        logger.info("%s: already trained for %s", run.path, _length(config))
        return
    if found is not None:
        refuse(differences, SAME_WEIGHTS if begin_anew else SAME_WEIGHTS + SAME_STEPS, run.path)
    data = sampled(config, open_training_data(config.data, config.train.seed))
    look_at_sensors(data)
    rules = input_rules(config, data)
    compute = _choose(config, data, ranks)
    torch.manual_seed(config.train.seed)
    mode = find_mode(config.mode).load().build(config, data, rules, None if found is None else found[1])
    if config.checkpoint.init_from is not None and found is None:
        _initialize(mode, Path(config.checkpoint.init_from), config.checkpoint.init_parts)
    state = TrainingState(mode.to(compute.device), _facts(config, data, rules, mode), config)
    batches = Batches(config, data, rules, compute, ranks)
    _announce(state, batches)
    if found is not None:
        check_facts(found[1], state.facts, run.path)
        _continue(state, found, differences, begin_anew, ranks)
        if begin_anew and ranks.is_main:
            run.set_metrics_aside()
    if ranks.is_main:
        publish_text(run.config, to_yaml(config))
        run.write_state("running")
    profiler = StepProfiler(run.path, compute.device) if profile and ranks.is_main else None
    _fit(state, batches, run, profiler, any(change.within(OF_RATE) for change in differences))


def _located(config: Config) -> Config:
    """The configuration with absolute paths: what it names is found again from any folder."""
    tree = config.model_dump(mode="json", exclude_unset=True)

    def absolute(group: str, key: str) -> None:
        value = tree.get(group, {}).get(key)
        if isinstance(value, str):
            tree[group][key] = str(Path(value).absolute())
        elif value:
            entries = [{"path": entry} if isinstance(entry, str) else entry for entry in value]
            located = [{**entry, "path": str(Path(entry["path"]).absolute())} for entry in entries]
            tree[group][key] = located if isinstance(value[0], dict) else [entry["path"] for entry in located]

    for path in PATHS:
        absolute(*path.split("."))
    return Config.model_validate(tree)


def _continue(
    state: TrainingState,
    found: tuple[Path, dict[str, Any]],
    changed: list[Change],
    begin_anew: bool,
    ranks: Ranks,
) -> None:
    """Bring a state to where a checkpoint was, and say what has changed since."""
    source, stored = found
    config = state.config
    refresh_lr, new_run = (_acts_now(config, stored, option) for option in ("refresh_lr", "new_run"))
    if begin_anew:
        state.restore_weights(stored)
    else:
        state.restore(stored, is_main=ranks.is_main, refresh_lr=refresh_lr, new_run=new_run)
    logger.info("continuing %s at epoch %d, step %d", source, state.at.epoch + 1, state.at.step)
    if changed:
        logger.warning("from here on with other options than so far: %s", ", ".join(map(str, changed)))


def _fit(
    state: TrainingState, batches: Batches, run: RunFolder, profiler: StepProfiler | None, other_rate: bool
) -> None:
    """Train, and leave `state.json` saying how it ended.

    Args:
        other_rate: whether the learning rate is to be told, since it may jump.
    """
    config, main = state.config, batches.ranks.is_main
    mirrors = open_mirrors(config, run, state.run_id) if main else Mirrors()
    recorder = Recorder(run if main else None, mirrors, state.metrics_offset, config.checkpoint.keep)
    ended: State = "failed"
    facts: dict[str, Any] = {}
    try:
        with recorder:
            trainer = Trainer(state, batches, recorder, run.path, profiler)
            if other_rate and state.at.rate:
                logger.info("the learning rate goes on at %.3g, after %.3g", trainer.rate(), state.at.rate)
            trainer.fit()
        ended = "done"
        facts = {"epochs": config.train.epochs, "minutes": config.train.minutes, "best_loss": state.at.best}
    except Stopped:
        ended = "requeue"
        raise
    finally:
        if main:
            run.write_state(ended, **facts)
        patience_s = config.tracking.patience_s
        recorder.close(MLFLOW_STATUS[ended], patience_s if ended == "done" else min(patience_s, HURRY_S))


def _is_finished(run: RunFolder, config: Config) -> bool:
    """Whether the run was trained to its end already, or longer."""
    before = run.read_state()
    return before.state == "done" and (before.epochs, before.minutes) == (config.train.epochs, config.train.minutes)


def _length(config: Config) -> str:
    minutes = config.train.minutes
    return f"{config.train.epochs} epochs" if minutes is None else f"{minutes:g} minutes"


def _acts_now(config: Config, stored: dict[str, Any], option: str) -> bool:
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
            "holds a run already and checkpoint.resume is off", file=run.path, remedy="give another --out"
        )
    path, stored = found
    return path, {**stored, "config": completed(stored["config"])}


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


def _facts(config: Config, data: TrainingData, rules: InputRules, mode: Mode) -> dict[str, Any]:
    """What a checkpoint records besides weights and position."""
    return {
        **data.facts(),
        "normalization": rules.model.to_dict(),
        "npho_threshold": rules.npho_threshold,
        "parameters": sum(p.numel() for p in mode.parameters()),
        "geometry": data.first.manifest.settings.channel_map,
        "relative_time": data.first.manifest.settings.time_reference == "relative",
        "code_version": code_version(),
    }


def _initialize(mode: Mode, source: Path, parts: str) -> None:
    """Take weights from another run's checkpoint, the averaged ones if it has them; say which tensors were taken."""
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


def _announce(state: TrainingState, batches: Batches) -> None:
    logger.info(
        "%s: %s network, %d parameters; %d training and %d validation events; %d steps of %d events per epoch",
        state.mode.name,
        state.config.model.preset,
        state.facts["parameters"],
        batches.data.epoch_events(None),
        sum(len(view.rows) for view in batches.data.val),
        batches.epoch_steps,
        batches.batch_size,
    )
