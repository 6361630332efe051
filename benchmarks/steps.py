"""Where a training step goes: forward, backward, and the share of what is neither (at most 5 % is asked for).

    python benchmarks/steps.py --batch 32 --threads 1

The parts are the trainer's own, called in its order: a step's loss is summed into the log's means, gradients are
clipped, AdamW (fused) steps, the moving average follows. Median over steps, of the average, which moves in every
fourth, the mean; in float32. The last column is the rate against the plain implementation of the same encoder in
float32 (`benchmarks/model.py`), forward and backward alone on both sides.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from model import both, encoders, events

from shards.base import free_cores, keep_freed_memory
from shards.normalization import preset
from xectrain.config.networks import PRESETS
from xectrain.config.tree import OptimConfig
from xectrain.models.regressor import Regressor
from xectrain.modes.base import StepResult
from xectrain.training.optimization import SPARSE_FROM, MovingAverage, build_optimizer, clip_gradients
from xectrain.training.records import Sums

TASKS = ("angle", "energy", "timing", "uvwFI")
BESIDE = ("means", "clipping", "AdamW", "average", "zero")


class Step:
    """One step in parts, each of them timed."""

    def __init__(self, name: str, batch: int) -> None:
        torch.manual_seed(0)
        self.model = Regressor(PRESETS[name], TASKS, preset("standard")).train()
        self.optimizer = build_optimizer(self.model, OptimConfig())
        self.average, self.sums = MovingAverage(self.model, 0.999), Sums()
        self.average.updates = SPARSE_FROM
        self.x, self.mask = events(batch)
        self.weight_B, self.taken = torch.ones(batch), dict[str, list[float]]()

    def timed(self, part: str, work: Callable[[], object]) -> object:
        """What `work` gives."""
        began = time.perf_counter()
        value = work()
        self.taken.setdefault(part, []).append(time.perf_counter() - began)
        return value

    def forward(self) -> StepResult:
        """A loss for every event and task."""
        found = self.model(self.x, self.mask)
        parts = {f"loss_{name}": value.float().square().flatten(1).mean(1) for name, value in found.items()}
        return StepResult(torch.stack([*parts.values()]).sum(0), parts, {})

    def run(self) -> None:
        """All parts, in the trainer's order."""
        self.timed("zero", lambda: self.optimizer.zero_grad(set_to_none=True))
        result = self.timed("forward", self.forward)
        assert isinstance(result, StepResult)
        loss = result.loss_B.mean()
        self.timed("backward", loss.backward)
        self.timed("means", lambda: self.sums.add(result, self.weight_B))
        gradients = [p for p in self.model.parameters() if p.grad is not None]
        self.timed("clipping", lambda: clip_gradients(gradients, 1.0))
        self.timed("AdamW", self.optimizer.step)
        self.timed("average", lambda: self.average.update(self.model))

    def medians(self, steps: int) -> dict[str, float]:
        """Milliseconds by part."""
        for _ in range(steps + 2):
            self.run()
        typical = {"average": statistics.fmean}
        return {part: 1e3 * typical.get(part, statistics.median)(taken[2:]) for part, taken in self.taken.items()}


def encoder_ratio(name: str, batch: int, turns: int) -> float:
    """How many times as fast as the plain encoder ours is, forward and backward."""
    x, mask = events(batch)
    works = [both(encoder.train(), x, mask, bf16=False) for encoder in encoders(name)]
    taken: list[list[float]] = [[], []]
    for _ in range(turns + 1):
        for work, column in zip(works, taken, strict=True):
            began = time.perf_counter()
            work()
            column.append(time.perf_counter() - began)
    return min(taken[1][1:]) / min(taken[0][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["small", "reference"], choices=PRESETS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=free_cores())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(f"| batch {options.batch}, ms | forward | backward | {' | '.join(BESIDE)} | beside | : plain |")
    print("|---" * (len(BESIDE) + 5) + "|")
    for name in options.presets:
        parts = Step(name, options.batch).medians(options.steps)
        beside = sum(parts[part] for part in BESIDE) / sum(parts.values())
        cells = " | ".join(f"{parts[part]:.1f}" for part in ("forward", "backward", *BESIDE))
        ratio = encoder_ratio(name, options.batch, 2)
        print(f"| `{name}` | {cells} | {beside:.1%} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
