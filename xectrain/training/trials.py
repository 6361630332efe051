"""How a training computes unless told: real steps of every candidate are timed before the first one.

What is fast depends on processor and network: of two processors with the same bf16 instructions one trains `reference`
1.4 times as fast in bf16 as in float32, the other 0.7 times. The times are remembered in a small file per machine and
network, `~/.cache/xec/steps/*.json` (below `$XDG_CACHE_HOME` where that is set); without it they are taken again.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipelines import Batch
from shards.base import CorruptError, InputError, OutputError, free_cores, package_version, publish_json
from shards.base.documents import json_digest, read_document
from xectrain.compute import Compute, compile_in_place, compiler_error, computes_bf16, not_compiled
from xectrain.config.tree import Config
from xectrain.training.batches import Batches
from xectrain.training.state import TrainingState

logger = logging.getLogger(__name__)

EVENTS = 32
"""Events of a timed step on a CPU, at most: a whole one of `reference` takes eight seconds there."""
STEPS = 2
"""Timed steps of a candidate, of which the faster counts; one before them warms up."""
SHARE = 0.02
"""Fraction of a run that timing may take; a shorter run uses what needs none."""
GAIN = 1.05
"""How much faster than the first candidate, the most exact one, another must be."""
COMPILING_PAYS_S = 5400.0
"""Length of a run [s] from which compiling is tried: it takes up to three minutes, and gains nothing on some processors
and half of the speed on others (`benchmarks/model.py`)."""


@dataclass(frozen=True)
class Times:
    """What is known about a network on a machine."""

    machine: dict[str, str]
    network: dict[str, Any]
    events: int
    """Events of a step."""
    step_s: dict[str, float]
    """Seconds of forward and backward, by the name of the computation; infinite where it cannot be compiled."""
    compiling_s: float = 0.0

    def fastest(self, candidates: list[Compute], run_s: float) -> Compute:
        """The candidate with which a run is over soonest.

        Args:
            candidates: the most exact one first, all of them in `step_s`.
            run_s: about how long it takes with the first [s].
        """

        def whole_s(compute: Compute) -> float:
            ratio = self.step_s[compute.name] / self.step_s[candidates[0].name]
            return run_s * ratio + (self.compiling_s if compute.compile_mode else 0.0)

        best = min(candidates, key=whole_s)
        return best if whole_s(best) * GAIN < run_s else candidates[0]

    def table(self) -> str:
        """The table for the log."""
        rates = ", ".join(f"{name} {self.events / seconds:.0f}" for name, seconds in self.step_s.items())
        return f"events/s in steps of {self.events}: {rates}"


def settle(state: TrainingState, batches: Batches, before: Mapping[str, Any] | None) -> float:
    """Give `batches` the computation that was asked for, or else the fastest; compile it if necessary.

    Args:
        state: the run before its next step; nothing in it changes but the fact `precision`.
        batches: with the eager computation that needs no timing.
        before: the checkpoint that the run goes on from; its precision is kept where the device has it.

    Returns:
        Seconds that it took.
    """
    began, config = time.monotonic(), batches.config
    candidates = _candidates(config, batches.compute, before)
    batches.compute = candidates[0]
    if len(candidates) > 1:
        batches.compute = _Trial(state, batches).choice(candidates)
    elif candidates[0].compile_mode:
        compile_in_place(state.mode.model, candidates[0].compile_mode)
    state.facts["precision"] = "bf16" if batches.compute.bf16 else "fp32"
    return time.monotonic() - began


def _candidates(config: Config, compute: Compute, before: Mapping[str, Any] | None) -> list[Compute]:
    """The candidates, the most exact first, compiled ones last."""
    asked = config.train
    if asked.deterministic:
        return [compute]
    has_bf16 = computes_bf16(compute.device)
    kept = None if before is None else before.get("precision")
    if asked.precision != "auto":
        precisions = [asked.precision == "bf16"]
    elif kept is not None and (has_bf16 or kept != "bf16"):
        precisions = [kept == "bf16"]
    else:
        precisions = [False, True] if has_bf16 else [False]
    mode = None if asked.compile in ("auto", "off") else asked.compile
    found = [replace(compute, bf16=bf16, compile_mode=mode) for bf16 in precisions]
    if asked.compile != "auto":
        return found
    return [*found, replace(compute, bf16=precisions[-1], compile_mode="default")]


class _Trial:
    """Times candidates on the first events of the training set."""

    def __init__(self, state: TrainingState, batches: Batches) -> None:
        self.state, self.batches, self.config = state, batches, batches.config
        share = batches.batch_size // (batches.ranks.world * self.config.optim.grad_accum)
        self.whole = min(max(1, share), len(batches.data.train[0].rows))
        on_cpu = batches.compute.device.type == "cpu"
        self.small = min(self.whole, EVENTS) if on_cpu else self.whole

    def choice(self, candidates: list[Compute]) -> Compute:
        """The fastest of them, compiled if it is a compiled one."""
        minutes, passes = self.config.train.minutes, self.config.train.epochs * self.batches.epoch_events
        if minutes is None and passes * SHARE < (STEPS + 1) * self.small:
            logger.info("computing in %s; the run is too short to time anything else", candidates[0].name)
            return candidates[0]
        step_s, steps = self._step_s(candidates[0], self.small), passes / self.batches.ranks.world / self.small
        if minutes is None and step_s * steps >= COMPILING_PAYS_S:  # or was it only the first one, which sets CUDA up?
            step_s = min(step_s, self._step_s(candidates[0], self.small))
        run_s = minutes * 60 if minutes is not None else step_s * steps
        step_s, run_s = self.batches.ranks.gather((step_s, run_s))[0]
        if run_s < COMPILING_PAYS_S:
            candidates = [compute for compute in candidates if not compute.compile_mode] or candidates
        if len(candidates) == 1 or run_s * SHARE < (STEPS + 1) * len(candidates) * step_s:
            logger.info("computing in %s; the run is too short to time anything else", candidates[0].name)
            return candidates[0]
        times, how = self._times(candidates, self.whole if run_s >= COMPILING_PAYS_S else self.small)
        chosen = times.fastest(candidates, run_s)
        logger.info("computing in %s; %s (%s)", chosen.name, times.table(), how)
        if not chosen.compile_mode:
            not_compiled(self.state.mode.model)
        elif how == REMEMBERED:
            compile_in_place(self.state.mode.model, chosen.compile_mode)
        return chosen

    def _times(self, candidates: list[Compute], events: int) -> tuple[Times, str]:
        """Of every candidate, and whether they were taken now or before."""
        empty = Times(_machine(self.batches.compute.device), _network(self.config), events, {})
        known = self.batches.ranks.gather(_remembered(empty))[0]
        if known is not None and all(compute.name in known.step_s for compute in candidates):
            return known, REMEMBERED
        steps, compiling_s = dict[str, float](), 0.0
        for compute in candidates:
            if compute.compile_mode:
                logger.info("compiling, to see whether it is faster; this takes minutes")
                compile_in_place(self.state.mode.model, compute.compile_mode)
            try:
                warming_s = self._step_s(compute, events)
                steps[compute.name] = min(self._step_s(compute, events) for _ in range(STEPS))
            except compiler_error() as error:
                self.state.optimizer.zero_grad(set_to_none=True)
                logger.warning("cannot compile here, computing without: %s", str(error).partition("\n")[0])
                warming_s = steps[compute.name] = math.inf
            if compute.compile_mode and math.isfinite(warming_s):
                compiling_s = max(0.0, warming_s - steps[compute.name])
        of_all = self.batches.ranks.sums([*steps.values(), compiling_s])
        *means, compiling_s = (total / self.batches.ranks.world for total in of_all)
        times = replace(empty, step_s=dict(zip(steps, means, strict=True)), compiling_s=compiling_s)
        if self.batches.ranks.is_main and math.isfinite(sum(means)):
            _remember(times)
        return times, "measured now"

    def _step_s(self, compute: Compute, events: int) -> float:
        """Seconds of forward and backward of one micro-batch."""
        batch = self._batch(events)
        self.batches.compute = compute
        self.state.mode.train()
        self._finish(compute)
        began = time.perf_counter()
        result, weight_B = self.batches.forward(self.state.mode, batch, self.state.at.epoch)
        ((result.loss_B * weight_B).sum() / events).backward()
        self._finish(compute)
        seconds = time.perf_counter() - began
        self.state.optimizer.zero_grad(set_to_none=True)
        return seconds

    def _batch(self, events: int) -> Batch:
        view, device = self.batches.data.train[0], self.batches.compute.device
        rows = view.rows[:events]
        sensors, truth = (torch.from_numpy(values) for values in view.dataset.read(rows))
        return Batch(sensors.to(device), truth, torch.ones(events), rows)

    @staticmethod
    def _finish(compute: Compute) -> None:
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)


REMEMBERED = "measured before"


def _machine(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"host": platform.node(), "device": name, "cores": str(free_cores()), "torch": torch.__version__}


def _network(config: Config) -> dict[str, Any]:
    return {
        "mode": config.mode,
        "model": config.model.model_dump(mode="json"),
        "tasks": list(config.tasks.enabled()),
        "version": package_version(),
    }


def _file(times: Times) -> Path | None:
    """Where the times of this machine and network are remembered; None where there is no place.

    Source: the XDG Base Directory Specification.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        folder = folder.expanduser()
    except RuntimeError:  # no home
        return None
    digest = json_digest([times.machine, times.network, times.events])[:16]
    return folder / "xec" / "steps" / f"{digest}.json" if folder.is_absolute() else None


def _remembered(empty: Times) -> Times | None:
    file = _file(empty)
    if file is None or not file.exists():
        return None
    try:
        times = read_document(file, Times, "table of steps")
    except (InputError, CorruptError) as error:
        logger.warning("%s; steps are timed again", error)
        return None
    same = (times.machine, times.network, times.events) == (empty.machine, empty.network, empty.events)
    return times if same and all(seconds > 0 for seconds in times.step_s.values()) else None


def _remember(times: Times) -> None:
    file = _file(times)
    try:
        if file is not None:
            publish_json(file, asdict(times))
    except OutputError as error:
        logger.info("the times of steps are not remembered: %s", error)
