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


@dataclass(frozen=True)
class Compute:
    """Where and how the network runs."""

    device: torch.device
    bf16: bool
    compile_mode: str | None
    """Mode for `torch.compile`; None: eager."""

    @property
    def name(self) -> str:
        """Its name in the log."""
        return ("bf16" if self.bf16 else "float32") + (f", compiled ({self.compile_mode})" if self.compile_mode else "")

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
    device: str = "auto", precision: str = "auto", *, deterministic: bool = False, local_rank: int = 0
) -> Compute:
    """Where and how to compute when nothing has been measured, eagerly; the choice is logged with its reason.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32` or `bf16`; auto: float32 on a CPU, whose predictions depend on no clock then.
        deterministic: force float32.
        local_rank: GPU of this rank when several are used.

    Raises:
        ConfigError: a device that does not exist, or bf16 together with `deterministic`.
    """
    place = _device(device, local_rank)
    if deterministic and precision == "bf16":
        raise ConfigError(
            "deterministic training must be float32", item="train.precision", found=precision, expected="fp32"
        )
    bf16, why = _precision(precision, place, deterministic)
    if place.type == "cpu":
        keep_freed_memory()
        torch.set_num_threads(min(torch.get_num_threads(), free_cores()))  # torch knows nothing of quotas
    elif not deterministic:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    compute = Compute(place, bf16, None)
    logger.info("device %s; %s (%s)", place, compute.name, why)
    return compute


def compile_in_place(module: nn.Module, mode: str = "default") -> None:
    """`module.compile`, without the pass of torch 2.13 that loses gradients.

    Its scheduler moves reads of a buffer before the scatter that fills it when it reorders for peak memory: compiled,
    the masked autoencoder's decoders got gradients of exactly zero (see `test_models_precision.py`).
    """
    import torch._inductor.config as inductor  # noqa: PLC0415  takes seconds, and few runs compile

    inductor.reorder_for_peak_memory = False
    module.compile(mode=mode)


def compiler_error() -> type[Exception]:
    """What the first call of a compiled module raises where there is no C++ compiler, or the compiler fails."""
    from torch._dynamo.exc import TorchDynamoException  # noqa: PLC0415  takes seconds, and few runs compile

    return TorchDynamoException


def not_compiled(module: nn.Module) -> None:
    """Undo `compile_in_place`, for which torch has no function."""
    module._compiled_call_impl = None


def _device(device: str, local_rank: int) -> torch.device:
    if device == "auto":
        device = f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"there is no device {device!r}", expected="auto, cpu, cuda or cuda:N") from None
    if place.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not supported", expected="auto, cpu, cuda or cuda:N")
    if place.type == "cuda":
        place = torch.device("cuda", place.index if place.index is not None else local_rank)
        if place.index >= torch.cuda.device_count():
            raise ConfigError(
                f"there is no {place} here", found=f"{torch.cuda.device_count()} CUDA devices", remedy="use cpu"
            )
    return place


def _precision(setting: str, place: torch.device, deterministic: bool) -> tuple[bool, str]:
    if deterministic:
        return False, "deterministic"
    if setting != "auto":
        return setting == "bf16", "as asked"
    if place.type == "cpu":
        return False, "the default of a CPU"
    has = computes_bf16(place)
    return has, "the GPU supports it" if has else "the GPU has no bf16"


def computes_bf16(place: torch.device) -> bool:
    """Whether a device has bf16 arithmetic."""
    return torch.cuda.is_bf16_supported() if place.type == "cuda" else cpu_has_bf16()


def cpu_has_bf16() -> bool:
    """Whether this CPU has bf16 arithmetic (AMX or AVX512-BF16), not merely its emulation."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
