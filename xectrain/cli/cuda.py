"""Which CUDA torch, DALI, onnxruntime and the driver are made for, and whether these agree (docs/sites.md)."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class CudaVersions:
    """`major.minor` of each; None: not installed, or made for the CPU."""

    torch: str | None
    onnxruntime: str | None
    dali: str | None
    driver: str | None
    """The newest CUDA that the driver supports; None: no driver."""

    def told(self) -> str:
        """All of them on one line."""
        names = (("torch", self.torch), ("onnxruntime", self.onnxruntime), ("DALI", self.dali), ("driver", self.driver))
        return ", ".join(f"{name} {version or 'none'}" for name, version in names)

    def complaints(self) -> list[str]:
        """What does not fit together, and what to do."""
        if self.driver is None:
            return []
        found = []
        if self.torch is None:
            found.append("torch is a CPU build: install a CUDA build")
        for name, version in (("torch", self.torch), ("onnxruntime", self.onnxruntime), ("DALI", self.dali)):
            if version is not None and _major(version) > _major(self.driver):
                found.append(f"{name} needs CUDA {version}: update the driver, or install a build for {self.driver}")
        if self.torch and self.onnxruntime and _major(self.torch) != _major(self.onnxruntime):
            found.append(
                f"onnxruntime needs the CUDA {self.onnxruntime} libraries, but torch brings those of {self.torch}:"
                " exported models would run on the CPU; install builds for the same CUDA"
            )
        return found


def cuda_versions() -> CudaVersions:
    """What is installed here."""
    import torch

    return CudaVersions(torch.version.cuda, _onnxruntime(), _dali(), _driver())


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def _onnxruntime() -> str | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    from onnxruntime.capi import build_and_package_info

    return getattr(build_and_package_info, "cuda_version", None) or None


def _dali() -> str | None:
    """By the name of the wheel: `nvidia-dali-cuda120`."""
    for distribution in importlib.metadata.distributions():
        found = re.fullmatch(r"nvidia-dali-cuda(\d\d)(\d)", (distribution.name or "").lower())
        if found:
            return f"{found.group(1)}.{found.group(2)}"
    return None


def _driver() -> str | None:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"
