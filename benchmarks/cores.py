"""Cores: torch's threads inside operators, one thread, and what xec does, alone and beside a busy process, in turns.

    python benchmarks/cores.py --preset small --batch 64

`threads`: torch's own, as many as there are cores. `one`: one thread. `xec`: in inference (also evaluation and
validation) `xectrain.workers`, threads that have a batch each; in training as many threads as the neighbours leave
(`xectrain.training.threads`). The best turn counts alone, the median beside the neighbour, a process that does nothing
but run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import torch

from shards.base import Neighbours, free_cores, keep_freed_memory
from shards.normalization import preset
from xectrain.config.networks import PRESETS
from xectrain.models.regressor import Regressor
from xectrain.training.threads import LOOK_S, FreeThreads
from xectrain.workers import in_order

TASKS = ("angle", "energy", "timing", "uvwFI")
WAYS = ("threads", "one", "xec")


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

    def train(self, events: int) -> int:
        """Forward and backward; how many events."""
        found = self.model(self.x_BN2[:events], self.mask_BN[:events])
        loss = sum((value.square().mean() for value in found.values()), start=torch.zeros(()))
        torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return events

    def rate(self, what: str, way: str, seconds: float) -> float:
        """Events/s."""
        cores = free_cores()
        torch.set_num_threads(1 if way == "one" else cores)
        self.model.train(what == "training")
        if what == "training" and way == "xec":
            self.look_around()
        began = time.perf_counter()

        def batches() -> Iterator[int]:
            while time.perf_counter() - began < seconds:
                yield self.batch

        workers = cores if what == "inference" and way == "xec" else 1
        events, taken = 0, 0.0
        for done in in_order(self.infer if what == "inference" else self.train, batches(), workers):
            if taken < seconds:  # afterwards workers run dry, one by one
                events, taken = events + done, time.perf_counter() - began
        return events / taken

    def look_around(self) -> None:
        """Train until the number of threads follows from what others do, as it does in a training all the time."""
        neighbours = Neighbours()
        threads = FreeThreads(neighbours, fixed=False, environment={})
        while neighbours.seconds < LOOK_S:
            self.train(self.batch)
        threads.follow()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()
    work = Work(options.preset, options.batch)
    print(f"| `{options.preset}`, batch {options.batch}, {free_cores()} cores | {' | '.join(WAYS)} | xec : threads |")
    print("|---|---|---|---|---|")
    for beside in (False, True):
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside else None
        for what in ("inference", "training"):
            turns = [{way: work.rate(what, way, options.seconds) for way in WAYS} for _ in range(options.turns)]
            choose = statistics.median if beside else max
            best = {way: choose(turn[way] for turn in turns) for way in WAYS}
            cells = " | ".join(f"{best[way]:.0f}" for way in WAYS)
            where = "beside a busy process" if beside else "alone"
            print(f"| {what}, {where} | {cells} | {best['xec'] / best['threads']:.2f} |", flush=True)
        if busy is not None:
            busy.kill()


if __name__ == "__main__":
    main()
