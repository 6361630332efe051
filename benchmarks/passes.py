"""Event passes per second of processor time: the preset `small` against what it was before it had a focus, in one run.

    python benchmarks/passes.py --batch 64

Both are regressors of the same four tasks, eager, on one thread: in float32 and, in inference, also in bf16 where the
processor has it. The last ratio is that of each network in its faster precision. They take turns step by step, and what
is counted is processor time, so that whatever else runs on the machine matters little; the best turns are compared, and
only the ratio means something.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from shards.base import keep_freed_memory
from shards.normalization import preset
from xectrain.compute import cpu_has_bf16
from xectrain.config.networks import PRESETS, model_config
from xectrain.models.regressor import Regressor

TASKS = ("angle", "energy", "timing", "uvwFI")
BEFORE = {
    "encoder": {
        **{"width": 256, "focus": 0, "inner_resolution": 1, "inner_tokens": 8},
        **{"hex_channels": 32, "hex_blocks": 2, "fusion_layers": 2},
    },
    "regressor": {"time_mean": 0},
}


def train(model: Regressor, x_BN2: torch.Tensor, mask_BN: torch.Tensor) -> None:
    """Forward and backward."""
    model.train().zero_grad()
    total = sum((v.square().mean() for v in model(x_BN2, mask_BN).values()), start=torch.zeros(()))
    total.backward()


@torch.inference_mode()
def infer(model: Regressor, x_BN2: torch.Tensor, mask_BN: torch.Tensor) -> None:
    """Forward alone."""
    model.eval()(x_BN2, mask_BN)


def infer_bf16(model: Regressor, x_BN2: torch.Tensor, mask_BN: torch.Tensor) -> None:
    """Forward alone, in bf16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        infer(model, x_BN2, mask_BN)


def rates(what: Callable[..., None], models: dict[str, Regressor], batch: int, turns: int) -> dict[str, float]:
    """Events per second by model."""
    x_BN2, mask_BN = torch.rand(batch, 4760, 2), torch.zeros(batch, 4760, dtype=torch.bool)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(turns + 2):
        for name, model in models.items():
            started = time.process_time()
            what(model, x_BN2, mask_BN)
            taken[name].append(time.process_time() - started)
    return {name: batch / min(seconds[2:]) for name, seconds in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    norm = preset("standard")
    configs = {"before": model_config("small", BEFORE), "small": PRESETS["small"]}
    models = {name: Regressor(config, TASKS, norm) for name, config in configs.items()}
    print(f"| batch {options.batch}, one thread | before | `small` | ratio |\n|---|---|---|---|")
    training = rates(train, models, options.batch, options.turns)
    _row("training, float32 [events/s]", training, training["small"] / training["before"])
    ways = {"float32": infer, **({"bf16": infer_bf16} if cpu_has_bf16() else {})}
    found = {name: rates(way, models, options.batch, options.turns) for name, way in ways.items()}
    best = {name: max(rate[name] for rate in found.values()) for name in models}
    for name, rate in found.items():
        _row(f"inference, {name} [events/s]", rate, rate["small"] / rate["before"])
    _row("inference, the faster of each [events/s]", best, best["small"] / best["before"])


def _row(title: str, rate: dict[str, float], ratio: float) -> None:
    print(f"| {title} | {rate['before']:.0f} | {rate['small']:.0f} | **{ratio:.1f}** |", flush=True)


if __name__ == "__main__":
    main()
