"""Steps are timed where nobody says how to compute, remembered, and change nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training import assert_same_run, at_step, begun, config, launch, signalled, write_config
from torch.nn.modules.module import register_module_forward_pre_hook

from shards.base import ConfigError
from shards.dataset import Dataset
from xectrain.checkpoint import LAST, read_checkpoint
from xectrain.compute import Compute, cpu_has_bf16
from xectrain.models.regressor import Regressor
from xectrain.training import session
from xectrain.training.trainer import Stopped
from xectrain.training.trials import Times

CPU = torch.device("cpu")
EAGER, BF16, COMPILED = Compute(CPU, False, None), Compute(CPU, True, None), Compute(CPU, True, "default")
needs_bf16 = pytest.mark.skipif(not cpu_has_bf16(), reason="one candidate only: the CPU has no bf16")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the times of steps are remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/xec/steps"


def begin(dataset: Dataset, run: Path, last_step: int = 2, **sets: str) -> dict[str, Any]:
    """The checkpoint after a few steps of a long run that leaves the precision to be chosen."""
    asked = {"train__deterministic": "false", "train__compile": "off", "train__epochs": 1000, **sets}
    with at_step(last_step, signalled()), pytest.raises(Stopped):
        session.train(config(dataset, **asked), run)
    return read_checkpoint(run / LAST)


@pytest.mark.parametrize(
    ("bf16_s", "compiled_s", "run_s", "best"),
    [
        (2.0, 2.0, 1e4, EAGER),
        (0.99, 2.0, 1e4, EAGER),  # not worth the rounding
        (0.7, 2.0, 1e4, BF16),
        (0.7, 0.5, 1e4, COMPILED),
        (0.7, 0.5, 500, BF16),  # over before the compiler has paid
    ],
)
def test_the_fastest_is_taken_if_it_is_much_faster(
    bf16_s: float, compiled_s: float, run_s: float, best: Compute
) -> None:
    times = Times({}, {}, 32, {EAGER.name: 1.0, BF16.name: bf16_s, COMPILED.name: compiled_s}, compiling_s=180)
    assert times.fastest([EAGER, BF16, COMPILED], run_s) == best


def test_a_run_of_a_few_steps_is_not_timed(
    dataset: Dataset, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = {"train__epochs": 10**6, "train__minutes": 0.005, "train__deterministic": "false"}
    with caplog.at_level("INFO"):
        session.train(config(dataset, **short), tmp_path / "run")
    assert "computing in float32; the run is too short to time anything else" in caplog.text
    assert not cache.exists()


@needs_bf16
def test_times_are_remembered_and_a_damaged_table_is_made_again(
    dataset: Dataset, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def said(run: str) -> str:
        caplog.clear()
        with caplog.at_level("INFO"):
            begin(dataset, tmp_path / run)
        return caplog.text

    assert "events/s in steps of 4: float32" in (text := said("first"))
    assert "(measured now)" in text
    (table,) = cache.glob("*.json")
    assert set(json.loads(table.read_text())["step_s"]) == {"float32", "bf16"}
    assert "(measured before)" in said("second")
    table.write_text("{")
    assert "is not a valid table of steps" in (text := said("third"))
    assert "steps are timed again" in text
    assert "(measured now)" in text
    json.loads(table.read_text())


@needs_bf16
def test_a_cache_that_cannot_be_written_spoils_nothing(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with caplog.at_level("INFO"):
        begin(dataset, tmp_path / "run")
    assert "the times of steps are not remembered" in caplog.text


@needs_bf16
@pytest.mark.parametrize("faster", ["float32", "bf16"])
def test_timing_changes_no_weight_and_a_run_goes_on_as_it_began(
    dataset: Dataset, tmp_path: Path, cache: Path, faster: str
) -> None:
    precision = {"float32": "fp32", "bf16": "bf16"}[faster]
    begin(dataset, tmp_path / "any")
    (table,) = cache.glob("*.json")
    content = json.loads(table.read_text())
    table.write_text(json.dumps({**content, "step_s": {"float32": 1.0, "bf16": 1.0, faster: 0.1}}))
    assert begin(dataset, tmp_path / "auto")["precision"] == precision
    begin(dataset, tmp_path / "asked", train__precision=precision)
    assert_same_run(tmp_path / "auto", tmp_path / "asked")
    table.write_text(json.dumps({**content, "step_s": {"float32": 0.1, "bf16": 0.1, faster: 1.0}}))
    assert begin(dataset, tmp_path / "auto", 4)["precision"] == precision


def test_a_first_step_that_takes_long_does_not_make_a_long_run(
    dataset: Dataset, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a GPU it takes seconds, and the compiler would then take minutes of a run that is over before."""
    calls: list[str] = []

    def slow_at_first(module: torch.nn.Module, inputs: object) -> None:
        if isinstance(module, Regressor):
            time.sleep(0 if calls else 1.0)
            calls.append("step")

    with register_module_forward_pre_hook(slow_at_first), caplog.at_level("INFO"):
        begin(dataset, tmp_path / "run", train__compile="auto", train__precision="fp32")
    assert len(calls) > 2
    assert "compiling" not in caplog.text


@pytest.mark.slow
def test_a_long_run_tries_the_compiler_and_does_without_where_there_is_none(
    dataset: Dataset, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: torch remembers which compiler it found."""
    long = {"train__minutes": 10000, "train__epochs": 10**6, "train__deterministic": "false"}
    settings = config(dataset, **long, train__precision="fp32", train__compile="auto")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("PATH", str(tmp_path))
    running = launch(write_config(settings, tmp_path / "c.yaml"), tmp_path / "run")
    begun(tmp_path / "run", running)
    running.terminate()
    output, _ = running.communicate(timeout=120)
    assert "compiling, to see whether it is faster" in output
    assert "cannot compile here, computing without: InvalidCxxCompiler: No working C++ compiler" in output
    assert "computing in float32; events/s in steps of 4: float32" in output
    assert "Traceback" not in output
    assert running.returncode == 143
    assert not cache.exists()  # tried again when there is one


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            {"train__precision": "bf16"},
            r"train\.precision: deterministic training must be float32 \(found bf16, expected fp32\)",
        ),
        (
            {"train__compile": "default"},
            r"train\.compile: deterministic training must be eager \(found default, expected off\)",
        ),
    ],
)
def test_what_cannot_be_deterministic_is_refused(
    dataset: Dataset, tmp_path: Path, option: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        session.train(config(dataset, **option), tmp_path)
