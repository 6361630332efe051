"""The trainer: one loop for every mode. A run's position is two integers, (epoch, step); everything else follows.

Global batch k of an epoch is the same set of events whatever the number of ranks, and everything random in a step is
seeded by (seed, epoch, step, rank), so resuming needs no generator states and is exact anywhere in an epoch.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines import Batch, open_loader
from shards.base import ConfigError, XecError, progress
from shards.plan import epoch_order, rank_plan
from xectrain.checkpoint import bare_state, write_checkpoint, write_last
from xectrain.compute import Compute, compile_in_place
from xectrain.config.tree import Config
from xectrain.data import TrainingData
from xectrain.model_input import InputRules
from xectrain.modes.base import EventBatch, Mode, StepResult
from xectrain.training.augment import Augmentation
from xectrain.training.optimization import MovingAverage, Plateau, build_optimizer, clip_gradients, learning_rate
from xectrain.training.profiling import StepProfiler, phase
from xectrain.training.ranks import Ranks
from xectrain.training.records import Position, Recorder, Sums
from xectrain.training.runfolder import MetricsLog, RunFolder
from xectrain.training.signals import StopRequest
from xectrain.training.tracking import open_mirrors
from xectrain.training.usage import Usage

logger = logging.getLogger(__name__)


SAME_WEIGHTS = ("model", "tasks", "masking")
"""Parts of the configuration that the weights of a run belong to."""
SAME_STEPS = ("data.batch_size", "data.epoch_events", "train.seed", "augment.curriculum", "reweight")
"""What the order of events and the meaning of a step rest on."""


class Stopped(XecError):
    """The run was asked to stop and has checkpointed; starting it again continues it."""


class Trainer:
    """Trains a mode on data in a run folder, from any position."""

    def __init__(
        self,
        config: Config,
        mode: Mode,
        data: TrainingData,
        rules: InputRules,
        compute: Compute,
        run: RunFolder,
        ranks: Ranks,
        facts: Mapping[str, Any],
        profiler: StepProfiler | None = None,
    ) -> None:
        self.config, self.mode, self.data, self.rules = config, mode.to(compute.device), data, rules
        self.compute, self.run, self.ranks, self.facts = compute, run, ranks, dict(facts)
        self.at = Position()
        self.pending = Sums()
        self.optimizer = build_optimizer(self.mode, config.optim)
        self.average = MovingAverage(self.mode, config.train.ema_decay) if config.train.ema_decay else None
        self.run_id: str | None = None
        self.metrics_offset = 0
        assert config.data.batch_size is not None
        self.batch_size = config.data.batch_size
        self.epoch_steps = math.ceil(data.epoch_events(config.data.epoch_events) / self.batch_size)
        self.augmentation = Augmentation(config.augment, rules.model, data.first.columns, config.train.seed)
        self.usage = Usage(compute.device)
        self.profiler = profiler

    # ---------------------------------------------------------------- the run

    def fit(self) -> None:
        """Train until the epochs are done, or a signal, early stopping or a failure ends it."""
        if self.compute.compile_mode:
            compile_in_place(self.mode.model, self.compute.compile_mode)
        stepper: nn.Module = self.mode
        if self.ranks.world > 1:
            stepper = DistributedDataParallel(self.mode, broadcast_buffers=False)
        main = self.ranks.is_main
        mirrors = open_mirrors(self.config, self.run, self.run_id) if main else []
        log = MetricsLog(self.run.metrics, self.metrics_offset) if main else None
        self.run_id = next((m.run_id for m in mirrors if m.run_id), self.run_id)
        with StopRequest() as stop, self.profiler or nullcontext():
            recorder, status = Recorder(log, mirrors), "FAILED"
            try:
                recorder.replay()
                self._announce_duration()
                self._epochs(stepper, recorder, stop)
                status = "FINISHED"
            except Stopped:
                status = "KILLED"
                raise
            finally:
                recorder.close(status)

    def _announce_duration(self) -> None:
        """Say how long an epoch will take, from one micro-batch trained twice and forgotten."""
        if self.at.epoch >= self.config.train.epochs:
            return
        with closing(self._steps(self.at.epoch, self.at.step)) as steps:
            first = next(steps, None)
        if first is None:  # stopped right after an epoch's last step
            return
        seconds = 0.0
        for _ in range(2):  # the first one compiles, allocates and warms caches
            started = time.perf_counter()
            result, weight_B = self._forward(self.mode, first[0], self.at.epoch)
            (result.loss_B * weight_B).sum().backward()
            if self.compute.device.type == "cuda":
                torch.cuda.synchronize(self.compute.device)
            seconds = time.perf_counter() - started
        self.optimizer.zero_grad(set_to_none=True)
        self.usage = Usage(self.compute.device)
        epoch = seconds * self.config.optim.grad_accum * self.epoch_steps
        left = self.config.train.epochs - self.at.epoch - self.at.step / self.epoch_steps
        logger.info("expecting %s per epoch and %s in all, besides validation", _span(epoch), _span(epoch * left))

    def _epochs(self, stepper: nn.Module, recorder: Recorder, stop: StopRequest) -> None:
        patience = self.config.train.early_stop
        while self.at.epoch < self.config.train.epochs and not (patience and self.at.stale >= patience):
            started = time.monotonic()
            self._train_epoch(stepper, recorder, stop)
            self.at.epoch, self.at.step = self.at.epoch + 1, 0
            last = self.at.epoch == self.config.train.epochs
            if last or self.at.epoch % self.config.train.val_every == 0:
                self._validate_and_keep_best(recorder, time.monotonic() - started)
            self._save_last(recorder)

    # ---------------------------------------------------------------- one epoch

    def _train_epoch(self, stepper: nn.Module, recorder: Recorder, stop: StopRequest) -> None:
        stepper.train()
        sums, self.pending = self.pending, Sums()
        title = f"epoch {self.at.epoch + 1} of {self.config.train.epochs}"
        remaining = (self.epoch_steps - self.at.step) * self.batch_size
        with progress(title, min(remaining, self.data.epoch_events(self.config.data.epoch_events))) as bar:
            for micro_batches in self._steps(self.at.epoch, self.at.step):
                stop_now = self._step(stepper, micro_batches, sums, stop)
                if self.profiler is not None:
                    self.profiler.step()
                every = self.config.checkpoint.every
                group_ends = self.at.global_step % self.config.train.log_every == 0 or self.at.step == self.epoch_steps
                if group_ends:
                    self._record_steps(recorder, sums)
                    sums = Sums()
                bar.advance(
                    self._step_events(self.at.step - 1),
                    f"loss {sums.loss or recorder.last_loss:.4g}, {self.usage.live()}",
                )
                if stop_now:
                    self._save_last(recorder, sums)
                    raise Stopped(
                        f"stopped by {stop.name} after step {self.at.step} of epoch {self.at.epoch + 1}",
                        file=self.run.path,
                        remedy="start the same command again to continue",
                    )
                if every and self.at.global_step % every == 0 and self.at.step < self.epoch_steps:
                    self._save_last(recorder, sums)

    def _steps(self, epoch: int, start_step: int) -> Generator[list[Batch], None, None]:
        """The micro-batches of each remaining optimizer step of an epoch, on this rank."""
        order = self.data.order(self.config.train.seed, epoch, self.config.data.epoch_events)
        accum = self.config.optim.grad_accum
        plan = rank_plan(order, self.batch_size, self.ranks.rank, self.ranks.world, accum, start_step)
        with self._open(order.views, plan) as loader:
            group: list[Batch] = []
            for batch in self.usage.waiting(loader):
                group.append(batch)
                if len(group) == accum:
                    yield group
                    group = []

    def _open(self, views: Any, plan: Any) -> Any:
        settings = self.config.data
        return open_loader(
            views,
            plan,
            device=str(self.compute.device),
            backend=settings.backend,
            threads=settings.num_threads,
            prefetch=settings.prefetch,
        )

    def _step_events(self, step: int) -> int:
        """Events in global batch `step`: the batch size, or what is left for the last."""
        total = self.data.epoch_events(self.config.data.epoch_events)
        return min(self.batch_size, total - step * self.batch_size)

    def _step(self, stepper: nn.Module, micro_batches: list[Batch], sums: Sums, stop: StopRequest) -> bool:
        """One optimizer step on this rank's share of a global batch; returns whether any rank was asked to stop."""
        at = self.at
        torch.manual_seed(_step_seed(self.config.train.seed, at.epoch, at.step, self.ranks.rank))
        sums.rate = self._set_learning_rate()
        global_events = self._step_events(at.step)
        self.optimizer.zero_grad(set_to_none=True)
        mine = Sums()
        for position, batch in enumerate(micro_batches):
            last = position == len(micro_batches) - 1
            delayed = nullcontext() if last or self.ranks.world == 1 else stepper.no_sync()  # type: ignore[operator]
            with delayed:
                with phase("forward"):
                    result, weight_B = self._forward(stepper, batch, at.epoch)
                    loss = (result.loss_B * weight_B).sum() / global_events
                with phase("backward"):
                    (loss * self.ranks.world).backward()  # DDP averages over ranks
            mine.add(result, weight_B)
        sums.norm = clip_gradients(
            (p for p in self.mode.parameters() if p.grad is not None), self.config.optim.grad_clip
        )
        finite = math.isfinite(sums.norm) and math.isfinite(mine.loss)
        bad, stop_asked = self.ranks.sums([float(not finite), float(stop.requested)])
        if bad:
            self._bad_step(micro_batches, sums.norm, mine.loss)
        else:
            with phase("optimizer"):
                self.optimizer.step()
                if self.average is not None:
                    self.average.update(self.mode)
            sums.merge(mine)
        at.step, at.global_step = at.step + 1, at.global_step + 1
        return stop_asked > 0

    def _forward(self, module: nn.Module, batch: Batch, epoch: int | None) -> tuple[StepResult, Tensor]:
        x_BN2 = self.rules.normalized(batch.sensors)
        truth_BC = batch.truth.to(self.compute.device, non_blocking=True)
        if epoch is not None:
            x_BN2, truth_BC = self.augmentation.apply(x_BN2, truth_BC, epoch)
        x_BN2, mask_BN = self.rules.finish(x_BN2)
        weight_B = batch.weight.to(self.compute.device, non_blocking=True)
        with self.compute.autocast():
            return module(EventBatch(x_BN2, mask_BN, truth_BC, epoch)), weight_B

    def _set_learning_rate(self) -> float:
        at = self.at
        total = self.config.train.epochs * self.epoch_steps - at.schedule_start
        step = at.global_step - at.schedule_start
        rate = learning_rate(
            self.config.schedule, self.config.optim.lr, step, total, self.epoch_steps, at.plateau.scale
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        return rate

    def _bad_step(self, micro_batches: list[Batch], norm: float, loss: float) -> None:
        """Count a step whose loss or gradient is not finite; give up when there were too many."""
        self.at.bad_steps += 1
        rows = [int(r) for batch in micro_batches for r in batch.rows[:8]]
        where = f"epoch {self.at.epoch + 1}, step {self.at.step + 1}"
        if self.at.bad_steps > self.config.train.max_bad_steps:
            raise XecError(
                f"{where}: loss {loss:g}, gradient norm {norm:g}",
                file=self.run.path,
                found=f"a batch with dataset rows {rows} …",
                remedy="lower optim.lr, or look at these events; the checkpoints are from before",
            )
        logger.warning("%s: loss %g, gradient norm %g; step skipped (dataset rows %s …)", where, loss, norm, rows)

    # ---------------------------------------------------------------- validation

    def _validate_and_keep_best(self, recorder: Recorder, train_seconds: float) -> None:
        with self.usage.paused():
            averaged = self.average.module if self.average is not None else self.mode
            loss, metrics = self.validate(averaged)
            record: dict[str, Any] = {"val/loss": loss, **{f"val/{k}": v for k, v in metrics.items()}}
            if self.average is not None:
                record["val/loss_raw"], _ = self.validate(self.mode)
        record.update(self.usage.of_epoch(train_seconds, self.data.epoch_events(self.config.data.epoch_events)))
        recorder.write("epoch", self.at, record)
        improved = loss < self.at.best
        self.at.stale = 0 if improved else self.at.stale + 1
        self.at.plateau.update(improved, self.config.schedule)
        logger.info(
            "epoch %d of %d: validation loss %.4g%s%s",
            self.at.epoch,
            self.config.train.epochs,
            loss,
            " (best so far)" if improved else "",
            "".join(f", {k} {v:.4g}" for k, v in metrics.items() if k.endswith("68pct")),
        )
        if improved:
            self.at.best = loss
            if self.ranks.is_main:
                write_checkpoint(self.run.path / "checkpoint_best.pt", self.state(recorder.offset()))

    @torch.no_grad()
    def validate(self, module: Mode) -> tuple[float, dict[str, float]]:
        """Loss and metrics of `module` on the whole validation set, averaged over events."""
        module.eval()
        order = epoch_order(self.data.val, self.config.train.seed, 0, shuffle=False)
        plan = rank_plan(order, self.batch_size, self.ranks.rank, self.ranks.world, self.config.optim.grad_accum, 0)
        sums, columns = Sums(), list[dict[str, np.ndarray[Any, Any]]]()
        with self._open(self.data.val, plan) as loader:
            for batch in loader:
                result, weight_B = self._forward(module, batch, None)
                sums.add(result, weight_B)
                real = batch.weight.numpy() > 0
                columns.append({k: v.double().cpu().numpy()[real] for k, v in result.outputs.items()})
        mine = {key: np.concatenate([c[key] for c in columns]) for key in columns[0]} if columns else {}
        everyone = [part for part in self.ranks.gather(mine) if part]
        merged = {key: np.concatenate([part[key] for part in everyone]) for key in everyone[0]}
        means = sums.means(self.ranks)
        module.train()
        return means.pop("loss"), {**means, **self.mode.summarize(merged)}

    # ---------------------------------------------------------------- state

    def _record_steps(self, recorder: Recorder, sums: Sums) -> None:
        means = sums.means(self.ranks)
        rates = self.usage.of_steps()
        recorder.last_loss = means["loss"]
        recorder.write(
            "steps",
            self.at,
            {
                **{f"train/{key}": value for key, value in means.items()},
                "train/lr": sums.rate,
                "train/grad_norm": sums.norm,
                **rates,
            },
        )

    def _save_last(self, recorder: Recorder, pending: Sums | None = None) -> None:
        sums = pending.reduced(self.ranks) if pending is not None else {}
        if self.ranks.is_main:
            state = {**self.state(recorder.offset()), "pending": sums}
            write_last(self.run.path, state, self.config.checkpoint.keep)
            recorder.checkpointed()
        self.ranks.barrier()

    def state(self, metrics_offset: int) -> dict[str, Any]:
        """Everything a checkpoint holds."""
        return {
            "mode": self.mode.name,
            "config": self.config.model_dump(mode="json"),
            "model": bare_state(self.mode),
            "ema": bare_state(self.average.module) if self.average is not None else None,
            "ema_updates": self.average.updates if self.average is not None else 0,
            "optimizer": self.optimizer.state_dict(),
            "position": asdict(self.at),
            "metrics_offset": metrics_offset,
            "tracking_run_id": self.run_id,
            "normalization": self.rules.model.to_dict(),
            "npho_threshold": self.rules.npho_threshold,
            **self.facts,
        }

    def restore(
        self, state: dict[str, Any], *, refresh_lr: bool = False, reset_epoch: bool = False, new_run: bool = False
    ) -> None:
        """Continue from a checkpoint of the same configuration.

        Args:
            state: the checkpoint.
            refresh_lr: begin the learning-rate schedule here.
            reset_epoch: take the weights and their average only, and begin at epoch 0.
            new_run: do not continue the MLflow run.

        Raises:
            ConfigError: model, normalization, dataset or anything that an exact continuation rests on differs, with
                both values.
        """
        self._check_same_run(state, SAME_WEIGHTS if reset_epoch else SAME_WEIGHTS + SAME_STEPS)
        self.mode.load_state_dict(state["model"])
        if self.average is not None and state["ema"] is not None:
            self.average.module.load_state_dict(state["ema"])
        if reset_epoch:
            return
        if self.average is not None:
            self.average.updates = state["ema_updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        position = dict(state["position"])
        self.at = Position(**{**position, "plateau": Plateau(**position["plateau"])})
        if refresh_lr:
            self.at.schedule_start = self.at.global_step
        if self.ranks.is_main:
            self.pending = Sums.from_reduced(state.get("pending", {}))
        self.metrics_offset = state["metrics_offset"]
        self.run_id = None if new_run else state["tracking_run_id"]

    def _check_same_run(self, state: dict[str, Any], paths: tuple[str, ...]) -> None:
        expected = self.state(0)
        for key in ("mode", "normalization", "npho_threshold", "fingerprint"):
            if state[key] != expected[key]:
                raise ConfigError(
                    f"the checkpoint's {key.replace('_', ' ')} is not this run's",
                    file=self.run.path,
                    found=state[key],
                    expected=expected[key],
                    remedy="use another run folder, or checkpoint.init_from to start a new run from these weights",
                )
        for path in paths:
            old, new = (_at(tree["config"], path) for tree in (state, expected))
            if old != new:
                different = _first_difference(old, new, path)
                raise ConfigError(
                    "is not what the run began with",
                    file=self.run.path,
                    item=different[0],
                    found=different[2],
                    expected=different[1],
                )


def _step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """A 63-bit seed for everything random in a step on a rank."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def _span(seconds: float) -> str:
    """A duration for reading: 34 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree


def _first_difference(old: Any, new: Any, path: str) -> tuple[str, Any, Any]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys: Iterable[str] = sorted(set(old) | set(new))
        for key in keys:
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{path}.{key}")
    return path, old, new
