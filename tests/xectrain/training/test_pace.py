"""How long a run takes, and where a budget of minutes ends, with a clock that is set by hand."""

from __future__ import annotations

import logging

import pytest

from xectrain.config.tree import TrainConfig
from xectrain.modes import load_config
from xectrain.modes.table import NO_LIMIT
from xectrain.training.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(config: TrainConfig, step_s: float, validation_s: float, epoch_steps: int = 50, spent_s: float = 0.0) -> float:
    """Seconds that a run takes whose steps and validations take so long, in the trainer's order of calls."""
    clock = Clock()
    pace = Pace(config, epoch_steps, validation_steps=5, spent_s=spent_s, clock=clock)
    done, last = 0, pace.last_step(0)
    while done < last:
        pace.begin_epoch()
        for _ in range(epoch_steps - done % epoch_steps):
            clock.now += step_s if done else 10 * step_s  # the first one compiles
            last = pace.last_step(done + 1)
            done += 1
            pace.step_ended()
            if done >= last:
                break
        with pace.validating():
            clock.now += validation_s
        last = pace.last_step(done)
    return clock.now - 1000.0


@pytest.mark.parametrize("step_s", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("validation_s", [0.1, 5.0])
def test_a_budget_is_kept_to_a_step_and_a_validation(step_s: float, validation_s: float) -> None:
    took = run(TrainConfig(epochs=NO_LIMIT, minutes=4), step_s, validation_s)
    assert took == pytest.approx(240, abs=2 * step_s + validation_s)


def test_a_budget_counts_what_was_used_before_an_interruption() -> None:
    assert run(TrainConfig(epochs=NO_LIMIT, minutes=4), 0.5, 1.0, spent_s=200) == pytest.approx(40, abs=3)
    assert run(TrainConfig(epochs=NO_LIMIT, minutes=4), 0.5, 1.0, spent_s=240) == 0


def test_without_a_budget_epochs_decide_and_the_clock_does_not() -> None:
    clock = Clock()
    pace = Pace(TrainConfig(epochs=3), 7, 1, clock=clock)
    assert pace.last_step(0) == 21
    clock.now += 1e9
    assert pace.last_step(20) == 21
    assert pace.last_step(30) == 21


def test_epochs_end_a_run_before_its_budget_if_they_are_given() -> None:
    assert load_config(assignments=["train.minutes=5"]).train.epochs == NO_LIMIT
    assert load_config(assignments=["train.minutes=5", "train.epochs=3"]).train.epochs == 3
    assert load_config(assignments=["train.minutes=null"]).train.epochs == 20
    assert run(TrainConfig(epochs=2, minutes=60), 0.5, 1.0) == pytest.approx(2 * 50 * 0.5 + 2 + 4.5)


def test_the_duration_is_said_once_when_the_pace_is_known(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    pace = Pace(TrainConfig(epochs=3), 100, 1, clock=clock)
    with caplog.at_level(logging.INFO):
        for done in range(1, 9):
            clock.now += 60 if done == 1 else 2
            pace.step_ended()
            pace.announce(done)
    assert [record.getMessage() for record in caplog.records] == [
        "expecting 3 min per epoch, and 10 min for the remaining 296 steps (2.96 epochs), not including validation"
    ]
