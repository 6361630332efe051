"""The trainer on tiny data with the tiny network: it learns, keeps the best, and says what it does."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training import assert_same_run, config, curve
from torch.nn.modules.module import register_module_forward_hook

from shards.base import ConfigError, XecError
from shards.dataset import Dataset
from shards.opening import open_dataset
from xectrain.checkpoint import BEST, LAST, read_checkpoint
from xectrain.modes.base import Mode, StepResult
from xectrain.training import session
from xectrain.training.profiling import ACTIVE, PHASES
from xectrain.training.runfolder import RunFolder


def test_training_learns_and_keeps_the_best(toy_dataset: Path, tmp_path: Path) -> None:
    toy = open_dataset(toy_dataset)
    changes = {"data__batch_size": 6, "schedule__warmup_epochs": 1, "optim__lr": 1e-2, "train__ema_decay": 0.5}
    session.train(config(toy, train__epochs=8, **changes), tmp_path)
    losses = [r["val/loss"] for r in curve(tmp_path) if r["kind"] == "epoch"]
    assert min(losses) < 0.8 * losses[0]
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["state"], state["best_loss"]) == ("done", min(losses))
    assert read_checkpoint(tmp_path / BEST)["position"]["epoch"] == losses.index(min(losses)) + 1


def test_metrics_are_finite_numbers(undisturbed: Path) -> None:
    records = curve(undisturbed)
    assert [r["kind"] for r in records].count("epoch") == 2
    assert all(np.isfinite(v) for r in records for k, v in r.items() if "loss" in k)
    assert all("val/uvw_dist_68pct" in r for r in records if r["kind"] == "epoch")


def test_accumulation_gives_the_same_losses(dataset: Dataset, tmp_path: Path, undisturbed: Path) -> None:
    session.train(config(dataset, optim__grad_accum=2), tmp_path)
    one = [r["train/loss"] for r in curve(undisturbed) if r["kind"] == "steps"]
    two = [r["train/loss"] for r in curve(tmp_path) if r["kind"] == "steps"]
    assert one[0] == pytest.approx(two[0], rel=1e-5)
    assert len(one) == len(two)


@pytest.mark.slow
def test_a_profile_has_every_phase_and_changes_nothing(
    dataset: Dataset, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        session.train(config(dataset), tmp_path, profile=True)
    text = (tmp_path / "profile" / "summary.txt").read_text()
    assert text in caplog.text
    assert [line.split()[0] for line in text.splitlines()[1:5]] == list(PHASES)
    assert "aten::" in text
    events = json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]
    assert sum(e.get("name") == "xec.optimizer" and e.get("cat") == "user_annotation" for e in events) == ACTIVE
    assert_same_run(undisturbed, tmp_path)


def test_missing_truth_is_refused_by_name(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.xyzFI: .*'x'"):
        session.train(config(dataset, **{"tasks__xyzFI.enabled": "true"}), tmp_path)


def test_init_from_takes_the_encoder_and_nothing_else(
    dataset: Dataset, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        session.train(
            config(dataset, train__epochs=1, checkpoint__init_from=str(undisturbed), optim__lr=1e-9), tmp_path
        )
    assert "tensors taken (encoder)" in caplog.text
    source, state = read_checkpoint(undisturbed / BEST)["ema"], read_checkpoint(tmp_path / LAST)["model"]
    encoder = [n for n in state if n.startswith("model.encoder.") and state[n].is_floating_point()]
    assert all(torch.allclose(state[n], source[n], atol=1e-6) for n in encoder)
    heads = [n for n in state if "heads" in n and n.endswith("weight") and state[n].ndim == 2]
    assert heads
    assert not any(torch.allclose(state[n], source[n], atol=1e-6) for n in heads)


def test_the_expected_duration_comes_from_the_first_steps(
    dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        session.train(config(dataset, train__epochs=1), tmp_path)
    found = re.search(
        r"expecting [\d.e-]+ s per epoch, and [\d.e-]+ s for the remaining 3 steps \(0\.429 epochs\)", caplog.text
    )
    assert found, caplog.text


@contextmanager
def losses_changed(change: Callable[[StepResult, int], StepResult]) -> Iterator[None]:
    """Change what modes say in training; the function gets the number of the step, from 1."""
    calls = 0

    def hook(module: torch.nn.Module, _: object, output: object) -> object:
        nonlocal calls
        if isinstance(module, Mode) and isinstance(output, StepResult) and module.training:
            calls += 1
            return change(output, calls)
        return output

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_a_loss_that_is_not_finite_ends_the_run_before_it_spoils_a_checkpoint(dataset: Dataset, tmp_path: Path) -> None:
    def spoil(result: StepResult, step: int) -> StepResult:
        return result._replace(loss_B=result.loss_B * float("nan")) if step == 10 else result

    with losses_changed(spoil), pytest.raises(XecError, match=r"epoch 2, step 3: loss nan.*dataset rows"):
        session.train(config(dataset), tmp_path)
    assert RunFolder(tmp_path).read_state().state == "failed"
    state = read_checkpoint(tmp_path / LAST)
    assert all(bool(torch.isfinite(t).all()) for t in state["model"].values() if t.dtype == torch.float32)
    session.train(config(dataset, train__max_bad_steps=1), tmp_path)
    assert RunFolder(tmp_path).read_state().state == "done"


def test_a_run_that_diverges_at_once_ends_with_one_line(dataset: Dataset, tmp_path: Path) -> None:
    with losses_changed(lambda result, _: result._replace(loss_B=result.loss_B * float("inf"))):
        with pytest.raises(XecError, match=r"epoch 1, step 3: loss (inf|nan)"):
            session.train(config(dataset, train__max_bad_steps=2, train__log_every=1), tmp_path)
    assert [record["train/grad_norm"] for record in curve(tmp_path)] == [None, None]


def test_the_best_model_is_shown_in_the_course_of_training_and_changes_nothing(
    dataset: Dataset, undisturbed: Path, tmp_path: Path
) -> None:
    """After an epoch with a new best, when it is on disk, and not at the end, when everything is shown anyhow."""
    shown: list[tuple[int, int]] = []

    def show(epoch: int) -> None:
        shown.append((epoch, read_checkpoint(tmp_path / BEST)["position"]["epoch"]))
        torch.rand(3)

    session.train(config(dataset, checkpoint__artifacts_every=1), tmp_path, show_best=show)
    assert shown == [(1, 1)]
    assert_same_run(undisturbed, tmp_path)
