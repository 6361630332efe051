"""Which device, which precision, compiled or not: chosen once, logged with the reason."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from shards.base import ConfigError, free_cores, keep_freed_memory
from xectrain.workers import workers_for

logger = logging.getLogger(__name__)

COMPILE_PAYS_EVENT_PASSES = 400_000
"""Event passes above which the minutes of compilation are earned back for networks of any size. On a CPU compiled bf16
trains 1.5 (`reference`) to 1.7 (`small`) times as fast as eager float32 (`benchmarks/model.py`)."""


@dataclass(frozen=True)
class Compute:
    """Where and how the network runs."""

    device: torch.device
    bf16: bool
    compile_mode: str | None
    """Mode for `torch.compile`; None: eager."""

    @property
    def workers(self) -> int:
        """Batches that are best computed side by side without gradients. Compiled code spreads each one over the cores
        by itself."""
        return 1 if self.compile_mode else workers_for(str(self.device))

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """bf16 autocast, or nothing."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            yield


def choose_compute(
    device: str = "auto",
    precision: str = "auto",
    compile_: str = "auto",
    *,
    event_passes: int = 0,
    deterministic: bool = False,
    local_rank: int = 0,
) -> Compute:
    """Resolve `auto` settings and log the choice with its reason.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32` or `bf16`.
        compile_: `auto`, `off`, `default` or `max-autotune`.
        event_passes: events the network will see in this process; what compilation must pay for.
        deterministic: force float32 and eager.
        local_rank: GPU of this rank when several are used.

    Raises:
        ConfigError: a device that is not there, or bf16 or compilation together with `deterministic`.
    """
    place = _device(device, local_rank)
    if deterministic and (precision == "bf16" or compile_ not in ("auto", "off")):
        raise ConfigError("deterministic training is float32 and eager", found=f"{precision}, compile {compile_}")
    compiled, why_compiled = _compile(compile_, place, event_passes, deterministic)
    bf16, why_bf16 = _precision(precision, place, compiled is not None, deterministic)
    if place.type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(min(torch.get_num_threads(), free_cores()))  # torch knows nothing of quotas
    elif not deterministic:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    logger.info(
        "device %s; %s (%s); %s (%s)",
        place,
        "bf16" if bf16 else "float32",
        why_bf16,
        f"compiled, {compiled}" if compiled else "eager",
        why_compiled,
    )
    return Compute(place, bf16, compiled)


def compile_in_place(module: nn.Module, mode: str = "default") -> None:
    """`module.compile`, without the pass of torch 2.13 that loses gradients.

    Its scheduler moves reads of a buffer before the scatter that fills it when it reorders for peak memory: compiled,
    the masked autoencoder's decoders got gradients of exactly zero (see `test_models_precision.py`).
    """
    import torch._inductor.config as inductor  # noqa: PLC0415  takes seconds, and few runs compile

    inductor.reorder_for_peak_memory = False
    module.compile(mode=mode)


def _device(device: str, local_rank: int) -> torch.device:
    if device == "auto":
        device = f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"no device {device!r}", expected="auto, cpu, cuda or cuda:N") from None
    if place.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not supported", expected="auto, cpu, cuda or cuda:N")
    if place.type == "cuda":
        place = torch.device("cuda", place.index if place.index is not None else local_rank)
        if place.index >= torch.cuda.device_count():
            raise ConfigError(f"no {place} here", found=f"{torch.cuda.device_count()} CUDA devices", remedy="use cpu")
    return place


def _compile(setting: str, place: torch.device, event_passes: int, deterministic: bool) -> tuple[str | None, str]:
    if deterministic:
        return None, "deterministic"
    if setting != "auto":
        return (None if setting == "off" else setting), "as asked"
    if event_passes < COMPILE_PAYS_EVENT_PASSES:
        return None, f"{event_passes} event passes do not pay for compiling"
    return "default", f"{event_passes} event passes pay for compiling"


def _precision(setting: str, place: torch.device, compiled: bool, deterministic: bool) -> tuple[bool, str]:
    if deterministic:
        return False, "deterministic"
    if setting != "auto":
        return setting == "bf16", "as asked"
    if place.type == "cuda":
        has = torch.cuda.is_bf16_supported()
        return has, "the GPU computes in it" if has else "the GPU has no bf16"
    if not cpu_has_bf16():
        return False, "the CPU has no bf16 instructions"
    return (True, "the CPU computes in it") if compiled else (False, "eager, small networks gain little from bf16")


def cpu_has_bf16() -> bool:
    """Whether this CPU has bf16 arithmetic (AMX or AVX512-BF16), not merely its emulation."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
