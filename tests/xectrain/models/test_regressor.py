import math

import numpy as np
import pytest
import torch
from support.networks import STANDARD, events, masks, tiny

from xectrain.config.networks import RegressorConfig, TaskConfig
from xectrain.models.ranges import SUMMARIES, input_summaries
from xectrain.models.regressor import Regressor
from xectrain.tasks import TASKS, fit_statistics, output_columns

EVERY = {name: TaskConfig(loss="cross_entropy" if name == "n_gamma" else "smooth_l1") for name in TASKS}


def regressor(tasks: dict[str, TaskConfig] | list[str], **options: object) -> Regressor:
    torch.manual_seed(0)
    return Regressor(tiny(regressor=options), tasks, STANDARD).eval()


def physical_truth(count: int = 300) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    emission = draw.normal([-0.8, 0.0, 0.1], 0.2, (count, 3))
    return {
        "angle": draw.normal([90, 0], [15, 35], (count, 2)),
        "energy": draw.uniform(0.015, 0.065, (count, 1)),
        "timing": draw.normal(3, 2, (count, 1)),
        "uvwFI": draw.normal([0, 0, 5], [12, 35, 4], (count, 3)),
        "xyzFI": draw.normal(-60, 10, (count, 3)),
        "direction": emission / np.linalg.norm(emission, axis=1, keepdims=True),
        "n_gamma": draw.integers(0, 5, (count, 1)).astype(float),
    }


def fitted(tasks: dict[str, TaskConfig]) -> Regressor:
    model = regressor(tasks)
    truth = physical_truth()
    statistics = {name: fit_statistics(TASKS[name], truth[name], task.log_transform) for name, task in tasks.items()}
    model.standardization.load(statistics)
    model.ranges.load(statistics, input_summaries(events(50), None, STANDARD).numpy())
    return model


@pytest.mark.parametrize("loss", ["smooth_l1", "gaussian_nll", "quantile"])
def test_predictions_have_the_columns_and_units_of_their_tasks(loss: str) -> None:
    tasks = {n: TaskConfig.model_validate({"loss": loss}) if n != "n_gamma" else t for n, t in EVERY.items()}
    model = fitted(tasks)
    x = events(4)
    columns = model.predict(x, masks(x))
    assert list(columns) == [c for name in tasks for c in output_columns(TASKS[name], tasks[name])]
    assert all(values.shape == (4,) and values.dtype == torch.float32 for values in columns.values())
    truth = physical_truth()
    for name in ("angle", "energy", "uvwFI"):
        for k, column in enumerate(TASKS[name].columns):  # an untrained head stays near the mean
            low, high = truth[name][:, k].mean() + np.array([-8, 8]) * truth[name][:, k].std()
            assert low < float(columns[f"pred_{column}"].detach().mean()) < high
    length = sum(columns[f"pred_emi_{axis}"] ** 2 for axis in "xyz")
    torch.testing.assert_close(length, torch.ones(4))
    probability = torch.stack([columns[f"prob_n_gamma_{k}"] for k in range(5)])
    torch.testing.assert_close(probability.sum(dim=0), torch.ones(4))
    torch.testing.assert_close(columns["pred_n_gamma"], probability.argmax(dim=0).float())
    if loss == "gaussian_nll":
        assert all((v > 0).all() for n, v in columns.items() if n.startswith("sigma_"))
    if loss == "quantile":
        assert (columns["pred_energy_q16"] <= columns["pred_energy"]).all()
        assert (columns["pred_energy"] <= columns["pred_energy_q84"]).all()


@pytest.mark.parametrize("log_transform", [False, True])
def test_standardized_and_physical_are_inverse(log_transform: bool) -> None:
    tasks = {"energy": TaskConfig(log_transform=log_transform), "uvwFI": TaskConfig()}
    model = fitted(tasks)
    for name in tasks:
        target = torch.from_numpy(physical_truth(20)[name])
        there = model.standardization.standardized(name, target)
        torch.testing.assert_close(model.standardization.physical(name, there), target.float(), rtol=1e-5, atol=1e-5)
    sample = torch.from_numpy(physical_truth()["energy"])
    standardized = model.standardization.standardized("energy", sample)
    assert float(standardized.mean()) == pytest.approx(0, abs=1e-5)
    assert float(standardized.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_sigma_is_in_physical_units() -> None:
    model = fitted({"energy": TaskConfig(loss="gaussian_nll", log_transform=True)})
    value = torch.tensor([[0.05]])
    spread = float(model.standardization.spread("energy"))
    sigma = model.standardization.physical_sigma("energy", torch.tensor([[2 * math.log(0.1)]]), value)
    assert float(sigma) == pytest.approx(0.05 * 0.1 * spread, rel=1e-5)


def test_a_crossed_quantile_is_put_in_order() -> None:
    model = fitted({"energy": TaskConfig(loss="quantile")})
    crossed = model.physical("energy", torch.tensor([[1.0, 0.0, -1.0]]))
    straight = model.physical("energy", torch.tensor([[-1.0, 0.0, 1.0]]))
    assert torch.equal(crossed, straight)
    assert crossed[0, 1] < crossed[0, 0] < crossed[0, 2]  # the median first, then q16 and q84


def test_only_enabled_tasks_have_heads_and_one_head_does_not_move_another() -> None:
    model = regressor(["energy", "uvwFI"])
    assert set(model.heads) == {"energy", "uvwFI"}
    x = events(2)
    before = model(x)
    with torch.no_grad():
        model.heads["energy"].last.bias += 1
    after = model(x)
    assert torch.equal(after["uvwFI"], before["uvwFI"])
    assert not torch.equal(after["energy"], before["energy"])


def test_statistics_and_ranges_travel_with_the_weights() -> None:
    model = fitted(EVERY)
    other = regressor(EVERY)
    other.load_state_dict(model.state_dict())
    x = events(2)
    for name, values in model.predict(x).items():
        assert torch.equal(values, other.predict(x)[name])
    assert torch.equal(other.ranges.summaries_SX, model.ranges.summaries_SX)


def test_events_from_elsewhere_are_flagged() -> None:
    model = fitted({"energy": TaskConfig()})
    x = events(3)
    inside = {"pred_energy": torch.full((3,), 0.04)}
    assert model.in_training_range(x, None, inside).all()
    assert not model.in_training_range(x, None, {"pred_energy": torch.full((3,), 0.09)}).any()
    assert not model.in_training_range(x, None, {"pred_energy": torch.full((3,), float("nan"))}).any()
    dimmed = torch.stack((x[..., 0] * 0.3, x[..., 1]), dim=-1)
    assert not model.in_training_range(dimmed, None, inside).any()
    half_dead = masks(x, 0.5)
    assert not model.in_training_range(x, half_dead, inside).any()


def test_a_model_without_ranges_judges_nothing() -> None:
    model = regressor(["energy"])
    assert model.in_training_range(events(2), None, {"pred_energy": torch.tensor([1e9, -1e9])}).all()


def test_summaries_are_what_their_names_say() -> None:
    x = events(3, dead=0.1)
    found = input_summaries(x, None, STANDARD)
    for row, values in enumerate(found.tolist()):
        keep = x[row, :, 0] != STANDARD.sentinel_npho
        photons = STANDARD.inverse_npho(x[row, :, 0]).double() * keep
        timed = keep & (x[row, :, 1] != STANDARD.sentinel_time)
        expected = (
            math.log10(photons.sum()),
            math.log10(photons.max()),
            float(photons[:4092].sum() / photons.sum()),
            int(keep.sum()),
            int(timed.sum()),
        )
        assert values == pytest.approx(expected, rel=1e-4)
        assert len(values) == len(SUMMARIES)


@pytest.mark.parametrize("option", RegressorConfig.model_fields)
def test_every_option_of_the_heads_changes_the_output(option: str) -> None:
    x = events(4)
    changed = {"head_hidden": 24, "head_dropout": 0.9}[option]
    outs = []
    for options in ({}, {option: changed}):
        model = regressor(["uvwFI"], **options).train()
        torch.manual_seed(5)
        outs.append(model(x)["uvwFI"])
    assert not torch.allclose(*outs, atol=1e-4)
