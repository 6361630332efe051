"""The trainer: one loop for every mode. A run's position is two integers, (epoch, step); everything else follows.

Global batch k of an epoch is the same set of events whatever the number of ranks, and everything random in a step is
seeded by (seed, epoch, step, rank), so resuming needs no generator states and is exact anywhere in an epoch. A run with
a budget of minutes is the exception: its learning rates, and where it ends, follow the clock.
"""

from __future__ import annotations

import inspect
import logging
import math
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipelines import Batch
from shards.base import XecError, progress
from xectrain.training.batches import Batches
from xectrain.training.optimization import clip_gradients, learning_rate
from xectrain.training.pace import Pace
from xectrain.training.performance import Usage
from xectrain.training.profiling import StepProfiler, phase
from xectrain.training.recorder import Recorder
from xectrain.training.records import Sums
from xectrain.training.signals import StopRequest
from xectrain.training.state import TrainingState
from xectrain.training.threads import FreeThreads
from xectrain.training.validation import validate

logger = logging.getLogger(__name__)

BUDGET_WARMUP = 0.1
"""Largest fraction of a run with a budget of minutes that warm-up takes: the run may be shorter than an epoch."""


PHOTON_ERRORS = ("mae_all", "mae_ring_all")
"""What is logged about hidden sensors: the network's mean error in photons, and that of the mean of the neighbours."""
ShowBest = Callable[[int], None]
"""Called with the epoch when the best checkpoint is on disk."""


class Stopped(XecError):
    """The run was asked to stop and has checkpointed; starting it again continues it."""

    def __init__(self, problem: str, *, number: int = signal.SIGTERM, **place: Any) -> None:
        super().__init__(problem, **place)
        self.exit_status = 128 + number


_DDP_OPTIONS = inspect.signature(DistributedDataParallel).parameters
BUFFERS_STAY: dict[str, Any] = {
    ("forward_sync_buffers" if "forward_sync_buffers" in _DDP_OPTIONS else "broadcast_buffers"): False
}
"""Buffers are the same in all ranks and need no exchange in every step. The first name is that of torch 2.13."""


class Trainer:
    """Trains a state on batches, from any position."""

    def __init__(
        self,
        state: TrainingState,
        batches: Batches,
        recorder: Recorder,
        threads: FreeThreads,
        folder: Path,
        profiler: StepProfiler | None = None,
        show_best: ShowBest | None = None,
    ) -> None:
        self.show_best, self._unshown = show_best, False
        self.state, self.batches, self.recorder, self.profiler = state, batches, recorder, profiler
        self.folder, self.threads = folder, threads
        self._warned = set[str]()
        self.config, self.ranks, self.compute = state.config, batches.ranks, batches.compute
        self.usage = Usage(self.compute.device)
        validation_steps = sum(len(view.rows) for view in batches.data.val) / batches.batch_size
        passes = 2 if state.average is not None else 1
        self.pace = Pace(self.config.train, batches.epoch_steps, passes * validation_steps, state.at.spent_s)
        self.last_step = self.pace.last_step(state.at.global_step)

    def fit(self, stop: StopRequest) -> None:
        """Train until the epochs or the minutes are over, or a signal, early stopping or a failure ends it."""
        stepper: nn.Module = self.state.mode
        if self.ranks.world > 1:
            stepper = DistributedDataParallel(self.state.mode, **BUFFERS_STAY)
        with self.profiler or nullcontext():
            while not self._over():
                self._epoch(stepper, stop)

    def _over(self) -> bool:
        at, patience = self.state.at, self.config.train.early_stop
        if at.step == self.batches.epoch_steps:  # stopped between an epoch's last step and its validation
            return False
        return at.global_step >= self.last_step or bool(patience and at.stale >= patience)

    def _epoch(self, stepper: nn.Module, stop: StopRequest) -> None:
        at, started = self.state.at, time.monotonic()
        self._train_epoch(stepper, stop)
        if at.step >= self.batches.epoch_steps:
            at.epoch, at.step = at.epoch + 1, 0
        improved = False
        if at.global_step >= self.last_step or at.epoch % self.config.train.val_every == 0:
            improved = self._validate(time.monotonic() - started)
            self._plan()
        self._save(best=improved)
        self._unshown |= improved
        every = self.config.checkpoint.artifacts_every
        if every and at.epoch % every == 0 and self._unshown and not self._over():
            self._show()

    def _show(self) -> None:
        """Have the artifacts of the best model so far made; other ranks wait at their next common step."""
        self._unshown = False
        if self.show_best is not None and self.ranks.is_main:
            self.recorder.settle()
            with self.usage.paused(), self.pace.paused():
                self.show_best(self.state.at.epoch)

    def _plan(self) -> None:
        """Agree on the number of steps after which the run ends."""
        mine = self.pace.last_step(self.state.at.global_step) if self.ranks.is_main else 0
        self.last_step = int(self.ranks.sums([mine])[0])

    # ---------------------------------------------------------------- one epoch

    def _train_epoch(self, stepper: nn.Module, stop: StopRequest) -> None:
        stepper.train()
        state, at, batches = self.state, self.state.at, self.batches
        title = f"epoch {at.epoch + 1}" + (f" of {self.config.train.epochs}" if not self.config.train.minutes else "")
        self.pace.begin_epoch()
        with progress(title, batches.epoch_events - at.step * batches.batch_size) as bar:
            for micro_batches in batches.steps(at.epoch, at.step, self.usage):
                stop_now = self._step(stepper, micro_batches, stop)
                over = at.step < batches.epoch_steps and at.global_step >= self.last_step
                ends = over or at.step == batches.epoch_steps
                if at.global_step % self.config.train.log_every == 0 or ends:
                    self._record_steps()
                self._account()
                loss = state.pending.loss or self.recorder.last_loss
                note = ", ".join(filter(None, (f"loss {loss:.4g}", self.usage.live())))
                bar.advance(batches.step_events(at.step - 1), note)
                if stop_now and not over:
                    self._stop(stop)
                if ends:
                    return
                every = self.config.checkpoint.every
                if every and at.global_step % every == 0:
                    self._save()

    def _step(self, stepper: nn.Module, micro_batches: list[Batch], stop: StopRequest) -> bool:
        """One optimizer step on this rank's share of a global batch; returns whether any rank was asked to stop."""
        state, at = self.state, self.state.at
        torch.manual_seed(_step_seed(self.config.train.seed, at.epoch, at.step, self.ranks.rank))
        self._set_learning_rate()
        global_events = self.batches.step_events(at.step)
        state.optimizer.zero_grad(set_to_none=True)
        mine = Sums()
        for position, batch in enumerate(micro_batches):
            last = position == len(micro_batches) - 1
            delayed = nullcontext() if last or self.ranks.world == 1 else stepper.no_sync()  # type: ignore[operator]
            with delayed:
                with phase("forward"):
                    result, weight_B = self.batches.forward(stepper, batch, at.epoch)
                    loss = (result.loss_B * weight_B).sum() / global_events
                with phase("backward"):
                    (loss * self.ranks.world).backward()  # DDP averages over ranks
            mine.add(result, weight_B)
        norm = clip_gradients(state.mode.parameters(), self.config.optim.grad_clip)
        logger.debug("epoch %d, step %d: loss %g, gradient norm %g", at.epoch + 1, at.step + 1, mine.loss, norm)
        finite = math.isfinite(norm) and math.isfinite(mine.loss)
        last_step = self.pace.last_step(at.global_step + 1) if self.ranks.is_main else 0
        bad, asked, self.last_step = map(int, self.ranks.sums([not finite, stop.requested is not None, last_step]))
        if bad:
            self._bad_step(micro_batches, norm, mine.loss)
        else:
            with phase("optimizer"):
                state.optimizer.step()
                if state.average is not None:
                    state.average.update(state.mode)
            state.pending.merge(mine)
        state.pending.norm = norm
        at.step, at.global_step = at.step + 1, at.global_step + 1
        return asked > 0

    def rate(self) -> float:
        """Learning rate of the next step."""
        at, config = self.state.at, self.config
        return learning_rate(
            config.schedule,
            config.optim.lr,
            at.global_step - at.schedule_start,
            self.last_step - at.schedule_start,
            self.batches.epoch_steps,
            at.plateau.scale,
            warmup_share=1.0 if config.train.minutes is None else BUDGET_WARMUP,
        )

    def _set_learning_rate(self) -> None:
        at = self.state.at
        at.rate = self.rate()
        for group in self.state.optimizer.param_groups:
            group["lr"] = at.rate * group["lr_scale"]

    def _account(self) -> None:
        """Measure the step that has ended."""
        self.pace.step_ended()
        self.threads.follow()
        self.pace.announce(self.state.at.global_step)
        if self.config.train.minutes is not None:
            self.state.at.spent_s = self.pace.spent_s
        if self.profiler is not None:
            self.profiler.step()

    def _bad_step(self, micro_batches: list[Batch], norm: float, loss: float) -> None:
        """Count a step whose loss or gradient is not finite; give up when there are too many."""
        at = self.state.at
        at.bad_steps += 1
        rows = [int(r) for batch in micro_batches for r in batch.rows[:8]]
        everyone = self.ranks.gather((loss, rows))
        loss, rows = next((pair for pair in everyone if not math.isfinite(pair[0])), everyone[0])
        where = f"epoch {at.epoch + 1}, step {at.step + 1}"
        if at.bad_steps > self.config.train.max_bad_steps:
            raise XecError(
                f"{where}: loss {loss:g}, gradient norm {norm:g}",
                file=self.folder,
                found=f"a batch with dataset rows {rows} …",
                remedy="lower optim.lr, or check these events; the checkpoints are from before",
            )
        logger.warning("%s: loss %g, gradient norm %g; step skipped (dataset rows %s …)", where, loss, norm, rows)

    # ---------------------------------------------------------------- records, checkpoints, validation

    def _record_steps(self) -> None:
        state, norm = self.state, self.state.pending.norm
        means, state.pending = state.pending.means(self.ranks), Sums()
        self.recorder.last_loss = means.get("loss", math.nan)
        values = {f"train/{key}": value for key, value in means.items()}
        self.recorder.write(
            "steps", state.at, {**values, "train/lr": state.at.rate, "train/grad_norm": norm, **self.usage.of_steps()}
        )

    def _validate(self, train_seconds: float) -> bool:
        """Validate the averaged weights, record it, and return whether they are the best so far."""
        state, at = self.state, self.state.at
        with self.usage.paused(), self.pace.validating():
            result = validate(state.averaged, self.batches)
            record = {"val/loss": result.loss, **{f"val/{k}": v for k, v in result.metrics.items()}}
            if state.average is not None:
                record["val/loss_raw"] = validate(state.mode, self.batches).loss
        for warning in result.warnings():
            if warning not in self._warned:
                self._warned.add(warning)
                logger.warning(warning)
        self.recorder.write("epoch", at, {**record, **self.usage.of_epoch(train_seconds, self.batches.epoch_events)})
        improved = result.loss < at.best
        at.best = result.loss if improved else at.best
        at.stale = 0 if improved else at.stale + 1
        at.plateau.update(improved, self.config.schedule)
        logger.info(
            "epoch %d, step %d: validation loss %.4g%s%s",
            at.epoch + (at.step > 0),
            at.global_step,
            result.loss,
            " (best so far)" if improved else "",
            "".join(f", {k} {v:.4g}" for k, v in result.metrics.items() if k.endswith("68pct") or k in PHOTON_ERRORS),
        )
        return improved

    def _save(self, best: bool = False) -> None:
        pending = self.state.pending.reduced(self.ranks)
        if self.ranks.is_main:
            run_id = self.recorder.run_id or self.state.run_id
            self.recorder.save(self.state.to_dict(self.recorder.offset(), run_id, pending), best=best)

    def _stop(self, stop: StopRequest) -> None:
        """Checkpoint and end.

        Raises:
            Stopped: always.
        """
        self._save()
        self.ranks.sums([0])  # a rank that ends before the checkpoint exists could get the others killed
        at, number = self.state.at, stop.requested or signal.SIGTERM
        raise Stopped(
            f"stopped by {signal.Signals(number).name} after step {at.step} of epoch {at.epoch + 1}",
            number=number,
            file=self.folder,
            remedy="run the same command again to continue",
        )


def _step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """A 63-bit seed for everything random in a step on a rank."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)[0] >> 1)
