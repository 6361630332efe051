"""Cores over events against threads inside operators, alone and beside a busy process: events/s, in turns, in one run.

    python benchmarks/cores.py --preset small --batch 64

`threads`: torch's own, as many as there are cores. `one`: one thread. `workers`: `xectrain.workers`, one thread each,
which is what `xec infer`, `xec evaluate` and validation do; for training, an equal part of the batch each and the
gradients added once per step, which `xec train` does not do. The best turn counts alone, the median beside the
neighbour, a process that does nothing but run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import torch

from shards.base import free_cores, keep_freed_memory
from shards.normalization import preset
from xectrain.config.networks import PRESETS
from xectrain.models.regressor import Regressor
from xectrain.workers import in_order

TASKS = ("angle", "energy", "timing", "uvwFI")
WAYS = ("threads", "one", "workers")


class Work:
    """A network and what is done with it."""

    def __init__(self, name: str, batch: int) -> None:
        torch.manual_seed(0)
        self.model, self.batch = Regressor(PRESETS[name], TASKS, preset("standard")), batch
        self.parameters = list(self.model.parameters())
        self.x_BN2 = torch.rand(batch, 4760, 2)
        self.mask_BN = torch.zeros(batch, 4760, dtype=torch.bool)

    @torch.inference_mode()
    def infer(self, events: int) -> int:
        """Forward; how many events."""
        self.model(self.x_BN2[:events], self.mask_BN[:events])
        return events

    def gradients(self, events: int) -> list[torch.Tensor]:
        """Forward and backward."""
        found = self.model(self.x_BN2[:events], self.mask_BN[:events])
        loss = sum((value.square().mean() for value in found.values()), start=torch.zeros(()))
        every = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return [gradient for gradient in every if gradient is not None]

    def rate(self, what: str, way: str, seconds: float) -> float:
        """Events/s."""
        cores = free_cores()
        torch.set_num_threads(cores if way == "threads" else 1)
        self.model.train(what == "training")
        began, events = time.perf_counter(), 0

        def batches() -> Iterator[int]:
            while time.perf_counter() - began < seconds:
                yield self.batch

        if what == "inference":
            events = sum(in_order(self.infer, batches(), cores if way == "workers" else 1))
        elif way == "workers":
            for size in batches():
                first, *others = in_order(self.gradients, [size // cores] * cores, cores)
                for other in others:
                    torch._foreach_add_(first, other)
                events += size
        else:
            for size in batches():
                self.gradients(size)
                events += size
        return events / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    work = Work(options.preset, options.batch)
    print(
        f"| `{options.preset}`, batch {options.batch}, {free_cores()} cores | {' | '.join(WAYS)} | workers : threads |"
    )
    print("|---|---|---|---|---|")
    for beside in (False, True):
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
        for what in ("inference", "training"):
            turns = [{way: work.rate(what, way, options.seconds) for way in WAYS} for _ in range(options.turns)]
            choose = statistics.median if beside else max
            best = {way: choose(turn[way] for turn in turns) for way in WAYS}
            cells = " | ".join(f"{best[way]:.0f}" for way in WAYS)
            where = "beside a busy process" if beside else "alone"
            print(f"| {what}, {where} | {cells} | {best['workers'] / best['threads']:.2f} |", flush=True)
        if busy is not None:
            busy.kill()


if __name__ == "__main__":
    main()
