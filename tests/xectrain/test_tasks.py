import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.base import ConfigError
from xectrain.config.networks import TaskConfig
from xectrain.tasks import TASKS, find_task, output_columns, quantile_of, quantile_suffix, resolve_tasks


def test_names() -> None:
    assert find_task("angleVec").name == "direction"
    with pytest.raises(ConfigError, match=r"enrgy: is not a task; did you mean 'energy'"):
        find_task("enrgy")
    with pytest.raises(ConfigError, match=r"tasks.direction: is named twice"):
        resolve_tasks(["direction", "angleVec"])
    with pytest.raises(ConfigError, match="no task is enabled"):
        resolve_tasks([])
    assert resolve_tasks(["n_gamma"])["n_gamma"].loss == "cross_entropy"
    assert [quantile_suffix(q) for q in (0.16, 0.025, 0.5)] == ["q16", "q2p5", "q50"]


@given(st.integers(1, 9999))
def test_a_quantile_is_known_by_its_column(ten_thousandths: int) -> None:
    assert quantile_of(quantile_suffix(ten_thousandths / 1e4)) == ten_thousandths / 1e4


@pytest.mark.parametrize(
    ("task", "config"),
    [
        ("energy", TaskConfig(loss="angular")),
        ("energy", TaskConfig(loss="cross_entropy")),
        ("n_gamma", TaskConfig(loss="mse")),
        ("direction", TaskConfig(log_transform=True)),
    ],
)
def test_a_loss_that_does_not_suit_its_task_is_refused(task: str, config: TaskConfig) -> None:
    with pytest.raises(ConfigError, match=rf"tasks.{task}.(loss|log_transform): does not suit this task"):
        resolve_tasks({task: config})


@pytest.mark.parametrize(
    ("task", "config", "columns"),
    [
        ("angle", TaskConfig(), ["pred_theta", "pred_phi"]),
        ("energy", TaskConfig(loss="gaussian_nll"), ["pred_energy", "sigma_energy"]),
        ("energy", TaskConfig(loss="quantile"), ["pred_energy", "pred_energy_q16", "pred_energy_q84"]),
        ("direction", TaskConfig(), ["pred_emi_x", "pred_emi_y", "pred_emi_z"]),
        ("n_gamma", TaskConfig(loss="cross_entropy"), ["pred_n_gamma", *(f"prob_n_gamma_{k}" for k in range(5))]),
    ],
)
def test_output_columns(task: str, config: TaskConfig, columns: list[str]) -> None:
    assert output_columns(TASKS[task], config) == columns
