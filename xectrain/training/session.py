"""A training session: from a configuration to a trainer in the right position, and the run's state when it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from shards.base import ConfigError, Neighbours, counted, output_folder, publish_text
from xectrain.compute import Compute, choose_compute
from xectrain.config.files import to_yaml
from xectrain.config.tree import Config
from xectrain.training.batches import Batches
from xectrain.training.changes import OF_RATE, Change
from xectrain.training.preparation import acts_now, prepare, with_absolute_paths
from xectrain.training.profiling import StepProfiler
from xectrain.training.ranks import Ranks, joined_ranks
from xectrain.training.recorder import Recorder
from xectrain.training.runfolder import RunFolder, State
from xectrain.training.signals import StopRequest
from xectrain.training.state import TrainingState
from xectrain.training.threads import FreeThreads
from xectrain.training.tracking import Mirrors, open_mirrors
from xectrain.training.trainer import ShowBest, Stopped, Trainer
from xectrain.training.trials import settle

logger = logging.getLogger(__name__)

MLFLOW_STATUS = {"done": "FINISHED", "requeue": "KILLED", "failed": "FAILED"}
HURRY_S = 10.0
"""Longest wait for mirrors [s] when a run is stopped: whoever stopped it is waiting, too."""


def train(config: Config, path: Path, profile: bool = False, show_best: ShowBest | None = None) -> None:
    """Train in the run folder `path`, or continue there, or log that all is done.

    Args:
        config: what to train.
        path: the run folder, made if missing.
        profile: also profile a few steps (`xectrain.training.profiling`).
        show_best: called by the first rank with the epoch, as often as `checkpoint.artifacts_every` says.

    Raises:
        ConfigError: the folder holds another run, or the configuration does not fit the data.
        Stopped: a signal ended the run after a checkpoint; `state.json` says `requeue`.
    """
    run = _run_folder(config, path)
    with joined_ranks() as ranks, run.held() if ranks.is_main else nullcontext():
        _train(with_absolute_paths(config).resolved(gpu=torch.cuda.is_available()), run, ranks, profile, show_best)


def check(config: Config, path: Path, *, gpu: bool) -> str:
    """Check whether `train` would start: do everything that comes before a device is taken, without writing anything.

    Args:
        gpu: whether the machine that is to train has a GPU; this one need not.

    Returns:
        What would be trained, in one line.

    Raises:
        ConfigError, InputError, OutputError, CorruptError: what `train` would raise.
    """
    run = _run_folder(config, path)
    prepared = prepare(with_absolute_paths(config).resolved(gpu=gpu), run)
    if prepared is None:
        return f"{path} is already trained"
    training, validation = prepared.data.epoch_events(None), sum(len(view.rows) for view in prepared.data.val)
    how = "start" if prepared.found is None else "continue"
    return f"{path} would {how}: {counted(training, 'training event')}, {counted(validation, 'validation event')}"


def _run_folder(config: Config, path: Path) -> RunFolder:
    inputs = [entry.path for entry in (*config.data.train, *config.data.val)]
    return RunFolder(output_folder(path, "run", RunFolder.holds_run, inputs))


def _train(config: Config, run: RunFolder, ranks: Ranks, profile: bool, show_best: ShowBest | None) -> None:
    neighbours = Neighbours()
    prepared = prepare(config, run)
    if prepared is None:
        logger.info("%s: already trained for %s", run.path, _length(config))
        return
    found, differences = prepared.found, prepared.differences
    compute = _choose(config, ranks)
    threads = FreeThreads(neighbours, fixed=config.train.deterministic or compute.device.type != "cpu")
    state = TrainingState(prepared.mode.to(compute.device), prepared.facts, config)
    batches = Batches(config, prepared.data, prepared.rules, compute, ranks)
    _announce(state, batches)
    if found is not None:
        _continue(state, found, differences, prepared.begin_anew, ranks)
        if prepared.begin_anew and ranks.is_main:
            run.set_metrics_aside()
    profiler = StepProfiler(run.path, compute.device) if profile and ranks.is_main else None
    with threads.given_back():
        threads.follow()
        with told_what_was_kept(None if found is None else found[0]):
            timing_s = settle(state, batches, None if found is None else found[1])
        if config.train.minutes is not None:
            state.at.spent_s += timing_s
        other_rate = any(change.within(OF_RATE) for change in differences)
        _fit(state, batches, run, threads, profiler, show_best, other_rate)


@contextmanager
def told_what_was_kept(checkpoint: Path | None) -> Iterator[None]:
    """While steps are timed and compiled there is nothing to save: a signal ends the run at once, and a line says so.

    Args:
        checkpoint: what the run goes on from.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        kept = "nothing was kept" if checkpoint is None else f"{checkpoint} is as it was"
        logger.warning("ended before the first step: %s; start the same command again", kept)
        raise


def _continue(
    state: TrainingState,
    found: tuple[Path, dict[str, Any]],
    changed: list[Change],
    begin_anew: bool,
    ranks: Ranks,
) -> None:
    """Bring a state to where a checkpoint was, and log what has changed since."""
    source, stored = found
    config = state.config
    refresh_lr, new_run = (acts_now(config, stored, option) for option in ("refresh_lr", "new_run"))
    if begin_anew:
        state.restore_weights(stored)
    else:
        state.restore(stored, is_main=ranks.is_main, refresh_lr=refresh_lr, new_run=new_run)
    logger.info("continuing %s at epoch %d, step %d", source, state.at.epoch + 1, state.at.step)
    if changed:
        logger.warning("changed options from here on: %s", ", ".join(map(str, changed)))


def _fit(
    state: TrainingState,
    batches: Batches,
    run: RunFolder,
    threads: FreeThreads,
    profiler: StepProfiler | None,
    show_best: ShowBest | None,
    other_rate: bool,
) -> None:
    """Train, and leave `state.json` saying how it ended.

    Args:
        other_rate: whether to log the learning rate, since it may jump.
    """
    config, main = state.config, batches.ranks.is_main
    if main:
        publish_text(run.config, to_yaml(config))
        run.write_state("running")
    mirrors = open_mirrors(config, run, state.run_id) if main else Mirrors()
    recorder = Recorder(run if main else None, mirrors, state.metrics_offset, config.checkpoint.keep)
    ended: State = "failed"
    facts: dict[str, Any] = {}
    try:
        with StopRequest() as stop, recorder:
            trainer = Trainer(state, batches, recorder, threads, run.path, profiler, show_best)
            if other_rate and state.at.rate:
                logger.info("the learning rate continues at %.3g, after %.3g", trainer.rate(), state.at.rate)
            trainer.fit(stop)
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


def _length(config: Config) -> str:
    minutes = config.train.minutes
    return counted(config.train.epochs, "epoch") if minutes is None else f"{minutes:g} minutes"


def _choose(config: Config, ranks: Ranks) -> Compute:
    if config.train.deterministic:
        if config.train.compile not in ("auto", "off"):
            raise ConfigError(
                "deterministic training must be eager", item="train.compile", found=config.train.compile, expected="off"
            )
        torch.use_deterministic_algorithms(True)
    return choose_compute(
        config.data.device,
        config.train.precision,
        deterministic=config.train.deterministic,
        local_rank=ranks.local_rank,
    )


def _announce(state: TrainingState, batches: Batches) -> None:
    logger.info(
        "%s%s: %s network, %d parameters; %d training and %d validation events; %d steps of %d events per epoch",
        state.mode.name,
        f" of {', '.join(state.mode.tasks)}" if state.mode.tasks else "",
        state.config.model.preset,
        state.facts["parameters"],
        batches.data.epoch_events(None),
        sum(len(view.rows) for view in batches.data.val),
        batches.epoch_steps,
        batches.batch_size,
    )
