"""Where the time of a network goes: shares of torch's operators in a forward pass and in one with backward.

    python benchmarks/operators.py --preset small --batch 128

One thread, eager; what an operator's own code takes counts, not what it calls. Below the operators that take most come
the number of calls in a batch, and what the others have together.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext

import torch
from passes import TASKS, infer, train
from torch.profiler import ProfilerActivity, profile

from shards.base import keep_freed_memory
from shards.normalization import preset
from xectrain.config.networks import PRESETS
from xectrain.models.regressor import Regressor

TURNS = 3
NAMES = {"mkldnn_convolution": "convolution", "convolution_backward": "convolution, backward", "addmm": "linear layer"}
"""Of operators whose own names say little; those of the same kind are added up."""
SAME = {"mm": "product of matrices", "bmm": "product of matrices", "gelu_": "gelu", "mul_": "mul", "add_": "add"}


def shares(model: Regressor, training: bool, batch: int, bf16: bool) -> tuple[dict[str, float], float]:
    """Share of the time by operator, largest first, and calls per batch."""
    x_BN2, mask_BN = torch.rand(batch, 4760, 2), torch.zeros(batch, 4760, dtype=torch.bool)
    step = train if training else infer
    with torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext():
        step(model, x_BN2, mask_BN)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(TURNS):
                step(model, x_BN2, mask_BN)
    taken: dict[str, float] = {}
    calls = 0
    for row in found.key_averages():
        if row.key.startswith("aten::"):
            name = row.key.removeprefix("aten::")
            name = SAME.get(name, NAMES.get(name, name))
            taken[name] = taken.get(name, 0.0) + row.self_cpu_time_total
            calls += row.count
    whole = sum(row.self_cpu_time_total for row in found.key_averages())
    ordered = sorted(taken.items(), key=lambda item: -item[1])
    return {name: microseconds / whole for name, microseconds in ordered}, calls / TURNS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--rows", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    model = Regressor(PRESETS[options.preset], TASKS, preset("standard"))
    columns = [shares(model, training, options.batch, options.bf16) for training in (False, True)]
    title = f"`{options.preset}`, {'bf16' if options.bf16 else 'float32'}, batch {options.batch}"
    print(f"| {title} | forward | | with backward | |\n|---|---|---|---|---|")
    for rank, pair in enumerate(zip(*(list(found.items())[: options.rows] for found, _ in columns), strict=True), 1):
        print(f"| {rank} | " + " | ".join(f"{name} | {100 * share:.0f} %" for name, share in pair) + " |")
    others = [1 - sum(list(found.values())[: options.rows]) for found, _ in columns]
    print("| | " + " | ".join(f"all others | {100 * share:.0f} %" for share in others) + " |")
    print("| | " + " | ".join(f"calls of operators | {calls:.0f}" for _, calls in columns) + " |")


if __name__ == "__main__":
    main()
