"""`xec doctor`: what this machine can do, and what that means for the commands."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from dataclasses import dataclass
from pathlib import Path

import typer

from shards.base import code_version, counted, free_cores

app = typer.Typer(add_completion=False)

PACKAGES = (
    "torch",
    "nvidia-dali-cuda120",
    "webdataset",
    "uproot",
    "awkward",
    "pyarrow",
    "polars",
    "numpy",
    "mlflow",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "typer",
)


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    value: str
    meaning: str = ""
    """What it means for the user; may be empty."""


@app.command(
    epilog="Example:\n\n  xec doctor",
)
def doctor() -> None:
    """Show what this machine can do: processor, GPU, loaders, ONNX providers, versions."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "here", "which means", box=None, pad_edge=False)
    for finding in examine():
        table.add_row(finding.topic, finding.value, finding.meaning)
    Console().print(table)


def examine() -> list[Finding]:
    """Everything `xec doctor` reports; importing the heavy libraries is part of the examination."""
    return [
        Finding("xec", code_version()),
        Finding("python", platform.python_version()),
        _processor(),
        _gpu(),
        _cuda(),
        _loader(),
        _onnx(),
        *_versions(),
    ]


def _processor() -> Finding:
    from xectrain.compute import cpu_has_bf16

    cores = free_cores()
    bf16 = cpu_has_bf16()
    meaning = "trainings time bf16 against float32" if bf16 else "trainings run in float32"
    return Finding(
        "processor", f"{counted(cores, 'core')}, {platform.machine()}, bf16 {'yes' if bf16 else 'no'}", meaning
    )


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "none", "so networks run on the CPU, in batches of 256 where nothing is said")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("GPU", ", ".join(names), f"CUDA {torch.version.cuda}; batches of 1024 are the default")


def _cuda() -> Finding:
    from xectrain.cli.cuda import cuda_versions

    versions = cuda_versions()
    complaints = versions.complaints()
    fits = "compatible" if versions.driver else "no driver, so unused here"
    return Finding("CUDA", versions.told(), "; ".join(complaints) or fits)


def _loader() -> Finding:
    from pipelines.loader import choose_backend

    chosen = choose_backend("auto")
    return Finding("loader", chosen, "" if chosen == "dali" else "slower: no DALI wheel for this machine")


def _onnx() -> Finding:
    if importlib.util.find_spec("onnxruntime") is None:
        return Finding("ONNX", "onnxruntime missing", "models cannot be exported: the parity check needs it")
    import onnxruntime

    providers = [p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers()]
    return Finding("ONNX providers", ", ".join(providers))


def _versions() -> list[Finding]:
    findings = []
    for name in PACKAGES:
        try:
            findings.append(Finding(name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(name, "not installed"))
    pins = Path(__file__).resolve().parents[2] / "constraints.txt"
    if pins.exists():
        pinned = dict(line.split("==") for line in pins.read_text().split() if "==" in line)
        findings = [Finding(f.topic, f.value, _against_pin(f.value, pinned.get(f.topic))) for f in findings]
    return findings


def _against_pin(found: str, pinned: str | None) -> str:
    """Whether the tests were run with this version."""
    if pinned is None or found.partition("+")[0] == pinned:
        return ""
    return f"tested with {pinned}"
