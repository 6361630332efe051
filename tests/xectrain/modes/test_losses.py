import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.base import ConfigError
from xectrain.config.networks import LossName, TaskConfig
from xectrain.models.regressor import Standardization
from xectrain.modes.losses import (
    Balance,
    beta_nll,
    elementwise,
    emission_vector,
    huber,
    one_minus_cos,
    pinball,
    smooth_l1,
    task_loss,
)
from xectrain.targets import fit_statistics
from xectrain.tasks import TASKS

numbers = st.floats(-5, 5)


@settings(max_examples=50, deadline=None)
@given(error=numbers, beta=st.floats(0.05, 3))
def test_elementwise_losses_are_those_of_torch(error: float, beta: float) -> None:
    e, zero = torch.tensor(error), torch.tensor(0.0)
    torch.testing.assert_close(smooth_l1(e, beta), F.smooth_l1_loss(e, zero, beta=beta))
    torch.testing.assert_close(huber(e, beta), F.huber_loss(e, zero, delta=beta))
    torch.testing.assert_close(elementwise("l1")(e, beta), F.l1_loss(e, zero))
    torch.testing.assert_close(elementwise("mse")(e, beta), F.mse_loss(e, zero))


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ConfigError, match="smooth_l2: is not a loss; did you mean 'smooth_l1'"):
        elementwise("smooth_l2")


def test_the_quantile_loss_is_least_at_the_quantile() -> None:
    sample = torch.linspace(0, 1, 1001)
    for q in (0.16, 0.5, 0.84):
        mean = torch.stack([pinball(sample - guess, q).mean() for guess in sample])
        assert float(sample[mean.argmin()]) == pytest.approx(q, abs=2e-3)


def test_the_gaussian_likelihood_and_its_beta() -> None:
    error, log_variance = torch.tensor([0.3, -2.0]), torch.tensor([0.5, -1.0])
    torch.testing.assert_close(
        beta_nll(error, log_variance, 0.0),
        F.gaussian_nll_loss(error, torch.zeros(2), log_variance.exp(), reduction="none"),
    )
    log_variance.requires_grad_()
    plain = torch.autograd.grad(beta_nll(error, log_variance, 0.0).sum(), log_variance)[0]
    half = torch.autograd.grad(beta_nll(error, log_variance, 0.5).sum(), log_variance)[0]
    torch.testing.assert_close(half, plain * (0.5 * log_variance.detach()).exp())


@settings(max_examples=30, deadline=None)
@given(degrees=st.floats(1e-3, 179))
def test_the_angular_loss_keeps_small_angles(degrees: float) -> None:
    a = torch.tensor([[0.0, 0.0, 2.0]])
    b = torch.tensor([[math.sin(math.radians(degrees)), 0.0, math.cos(math.radians(degrees))]])
    assert float(one_minus_cos(a, b)) == pytest.approx(2 * math.sin(math.radians(degrees) / 2) ** 2, rel=1e-2)


def test_emission_angles_are_those_of_the_specification() -> None:
    vector = F.normalize(torch.tensor([[-0.7, 0.2, 0.4], [-0.9, -0.3, -0.1]]), dim=1)
    theta = torch.rad2deg(vector[:, 2].acos())
    phi = torch.rad2deg(torch.atan2(vector[:, 1], -vector[:, 0]))
    torch.testing.assert_close(emission_vector(torch.stack((theta, phi), dim=1)), vector, rtol=1e-5, atol=1e-6)


def fitted(tasks: dict[str, TaskConfig], target_BK: torch.Tensor) -> Standardization:
    scale = Standardization(tasks)
    scale.load(
        {name: fit_statistics(TASKS[name], target_BK.numpy(), task.log_transform) for name, task in tasks.items()}
    )
    return scale


@pytest.mark.parametrize(
    "loss", ["smooth_l1", "l1", "mse", "huber", "relative_l1", "relative_smooth_l1", "relative_mse"]
)
@pytest.mark.parametrize("log_transform", [False, True])
def test_a_perfect_prediction_costs_nothing_and_missing_truth_does_not_count(
    loss: LossName, log_transform: bool
) -> None:
    target_BK = torch.tensor([[0.02], [0.05], [float("nan")], [0.04]], dtype=torch.float64)
    config = TaskConfig(loss=loss, log_transform=log_transform)
    scale = fitted({"energy": config}, target_BK)
    out = scale.standardized("energy", target_BK).nan_to_num(7.0).requires_grad_()
    loss_B, good_B = task_loss(TASKS["energy"], config, scale, out, target_BK)
    assert good_B.tolist() == [True, True, False, True]
    torch.testing.assert_close(loss_B, torch.zeros(4), rtol=0, atol=1e-6)
    worse_B, _ = task_loss(TASKS["energy"], config, scale, out + 0.5, target_BK)
    assert (worse_B[good_B] > 1e-4).all()
    worse_B.sum().backward()
    assert out.grad is not None
    assert out.grad.isfinite().all()
    assert out.grad[2] == 0


def test_relative_losses_act_in_physical_units() -> None:
    target_BK = torch.tensor([[0.02], [0.05]], dtype=torch.float64)
    config = TaskConfig(loss="relative_l1")
    scale = fitted({"energy": config}, target_BK)
    out = scale.standardized("energy", target_BK * 1.1)
    loss_B, _ = task_loss(TASKS["energy"], config, scale, out, target_BK)
    torch.testing.assert_close(loss_B, torch.tensor([0.1, 0.1]), rtol=1e-4, atol=0)


def test_beta_may_be_given_in_physical_units() -> None:
    target_BK = torch.tensor([[0.02], [0.05], [0.08]], dtype=torch.float64)
    spread = float(target_BK.std(correction=0))
    physical = TaskConfig(loss="huber", loss_beta=0.01, loss_beta_unit="physical")
    standardized = TaskConfig(loss="huber", loss_beta=0.01 / spread)
    scale = fitted({"energy": physical}, target_BK)
    out = torch.tensor([[0.3], [2.0], [-1.0]])
    a, _ = task_loss(TASKS["energy"], physical, scale, out, target_BK)
    b, _ = task_loss(TASKS["energy"], standardized, scale, out, target_BK)
    torch.testing.assert_close(a, b)


def test_class_numbers_of_missing_truth_are_never_looked_up() -> None:
    config = TaskConfig(loss="cross_entropy")
    scale = Standardization({"n_gamma": config})
    logits = torch.randn(2, 5)
    target_BK = torch.tensor([[3.0], [float("nan")]], dtype=torch.float64)
    loss_B, good_B = task_loss(TASKS["n_gamma"], config, scale, logits, target_BK)
    torch.testing.assert_close(loss_B[0], F.cross_entropy(logits[:1], torch.tensor([3])))
    assert (loss_B[1], good_B[1]) == (0, False)


def test_angles_and_directions_have_the_same_angular_loss() -> None:
    angle = torch.tensor([[80.0, 10.0], [100.0, -30.0]], dtype=torch.float64)
    vector = emission_vector(angle)
    losses = []
    for name, target_BK, moved in (
        ("angle", angle, angle + torch.tensor([3.0, -4.0])),
        ("direction", vector, emission_vector(angle + torch.tensor([3.0, -4.0]))),
    ):
        config = TaskConfig(loss="angular")
        scale = fitted({name: config}, target_BK)
        losses.append(task_loss(TASKS[name], config, scale, scale.standardized(name, moved), target_BK)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-7)


def test_learned_balance_has_its_minimum_where_the_weights_are_inverse_losses() -> None:
    balance = Balance({"a": 1.0, "b": 1.0}, learned=True)
    means = {"a": torch.tensor(0.2), "b": torch.tensor(5.0)}
    optimizer = torch.optim.SGD(balance.parameters(), 0.5)
    for _ in range(300):
        optimizer.zero_grad()
        balance(means).backward()
        optimizer.step()
    torch.testing.assert_close(balance.log_variance.exp().detach(), torch.tensor([0.2, 5.0]), rtol=1e-3, atol=0)
    assert float(balance(means).detach()) == pytest.approx(0.5 + 0.5 + 0.5 * math.log(0.2 * 5.0), rel=1e-3)
    assert float(Balance({"a": 2.0, "b": 0.0})(means)) == pytest.approx(0.4)
