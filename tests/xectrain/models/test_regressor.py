import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.networks import STANDARD, events, masks, tiny

from ingest.toymc import ToyOptions, generate
from ingest.toymc.events import ToyEvents
from shards import geometry as geo
from shards.base import ConfigError
from shards.normalization import normalize
from xectrain.config.networks import RegressorConfig, TaskConfig
from xectrain.models.differences import REFERENCED
from xectrain.models.factors import KNOTS, Factor
from xectrain.models.ranges import SUMMARIES, input_summaries
from xectrain.models.regressor import Regressor
from xectrain.targets import fit_statistics
from xectrain.tasks import TASKS, output_columns

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
    value = model.standardization.standardized("energy", torch.tensor([[0.05]]))
    spread = float(model.standardization.spread("energy"))
    sigma = model.standardization.physical_sigma("energy", torch.tensor([[2 * math.log(0.1)]]), value)
    assert float(sigma) == pytest.approx(0.05 * 0.1 * spread, rel=1e-5)


def test_weights_stored_before_uncertainties_were_calibrated_still_load() -> None:
    model = fitted({"energy": TaskConfig(loss="gaussian_nll"), "uvwFI": TaskConfig()})
    weights = model.state_dict()
    assert "standardization.energy_sigma_scale" in weights
    assert "standardization.uvwFI_sigma_scale" not in weights
    model.standardization.set_factor("energy", 0, 0, Factor(3.0, bend=np.linspace(1, 2, KNOTS)))
    for kind in ("sigma_scale", "knots", "bend"):
        del weights[f"standardization.energy_{kind}"]
    model.load_state_dict(weights)
    assert (model.standardization.factor("energy", torch.linspace(-9, 99, 5)[:, None]) == 1).all()


def test_a_crossed_quantile_is_put_in_order() -> None:
    model = fitted({"energy": TaskConfig(loss="quantile")})
    crossed = model.physical("energy", torch.tensor([[1.0, 0.0, -1.0]]))
    straight = model.physical("energy", torch.tensor([[-1.0, 0.0, 1.0]]))
    assert torch.equal(crossed, straight)
    assert crossed[0, 1] < crossed[0, 0] < crossed[0, 2]  # the median first, then q16 and q84


def test_the_distances_of_quantiles_from_the_median_are_scaled() -> None:
    model = fitted({"uvwFI": TaskConfig(loss="quantile")})
    weights = model.state_dict()
    out = torch.arange(9.0)[None] - 4
    before = model.physical("uvwFI", out)
    scale = model.standardization.scale("uvwFI")
    scale[0], scale[2] = 2, 0.5
    after = model.physical("uvwFI", out)
    middle, low, high = before.unflatten(1, (3, 3))[0]
    wanted = torch.stack([middle, middle + 2 * (low - middle), middle + 0.5 * (high - middle)])
    torch.testing.assert_close(after.unflatten(1, (3, 3))[0], wanted, rtol=1e-5, atol=1e-5)
    del weights["standardization.uvwFI_quantile_scale"]
    model.load_state_dict(weights)  # written before there were scales
    assert (scale == 1).all()


def test_factors_bend_with_the_prediction_and_not_beyond_their_knots() -> None:
    model = fitted({"uvwFI": TaskConfig(loss="quantile")})
    knots, bend = np.arange(KNOTS) / 10.0, np.linspace(1, 3, KNOTS)
    model.standardization.set_factor("uvwFI", 2, 1, Factor(0.5, knots, bend))
    value = torch.tensor([-5.0, 0.0, 0.04, 0.77, 1.5, 40.0])
    found = model.standardization.factor("uvwFI", value[:, None].expand(-1, 3))
    torch.testing.assert_close(
        found[:, 2, 1].numpy(), (0.5 * np.interp(value, knots, bend)).astype(np.float32), rtol=1e-6, atol=0
    )
    assert (found[:, :2] == 1).all()
    assert (found[:, 2, ::2] == 1).all()


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


def test_predictions_beyond_the_training_set_are_flagged() -> None:
    model = fitted({"energy": TaskConfig()})
    x = events(3)
    inside = {"pred_energy": torch.full((3,), 0.04)}
    assert model.in_training_range(x, None, inside).all()
    assert not model.in_training_range(x, None, {"pred_energy": torch.full((3,), 0.09)}).any()
    assert not model.in_training_range(x, None, {"pred_energy": torch.full((3,), float("nan"))}).any()


@pytest.fixture(scope="module")
def toy() -> ToyEvents:
    return generate(700, ToyOptions(energy="flat", dead_channels=(17, 4300)))


def judged(toy: ToyEvents, change: Callable[[NDArray[Any], NDArray[Any]], None]) -> float:
    """Share inside of events that the ranges were not made of, changed (photons, seconds; (n, 4760)) beforehand."""
    npho, time = toy.npho.copy(), toy.relative_time.copy()
    change(npho[500:], time[500:])
    x_BN2 = torch.from_numpy(normalize(npho, time, STANDARD).sensors)
    truth = fit_statistics(TASKS["energy"], np.linspace(0.015, 0.065, 500)[:, None])
    model = regressor(["energy"])
    model.ranges.load({"energy": truth}, input_summaries(x_BN2[:500], None, STANDARD).numpy())
    return float(model.in_training_range(x_BN2[500:], None, {"pred_energy": torch.full((200,), 0.04)}).float().mean())


def _dead(share: float) -> Callable[[NDArray[Any], NDArray[Any]], None]:
    def change(npho: NDArray[Any], time: NDArray[Any]) -> None:
        npho[np.random.default_rng(0).random(npho.shape) < share] = np.nan

    return change


def _revived(npho: NDArray[Any], time: NDArray[Any]) -> None:
    npho[:, [17, 4300]] = npho[:, [18, 4301]]


GOOD = {"untouched": lambda npho, time: None, "fewer dead": _revived, "a few more dead": _dead(0.004)}
BROKEN = {
    "twice the light": lambda npho, time: npho.__imul__(2),
    "half the light": lambda npho, time: npho.__imul__(0.5),
    "ten times the light": lambda npho, time: npho.__imul__(10),
    "a tenth of the light": lambda npho, time: npho.__imul__(0.1),
    "no light": lambda npho, time: npho.__imul__(0),
    "a tenth dead": _dead(0.1),
    "the inner face dead": lambda npho, time: npho[:, :4092].fill(np.nan),
    "times in ns": lambda npho, time: time.__imul__(1e9),
    "times 1 µs late": lambda npho, time: time.__iadd__(1e-6),
    "no times": lambda npho, time: time.fill(np.nan),
}


@pytest.mark.parametrize("kind", GOOD)
def test_good_events_are_inside(toy: ToyEvents, kind: str) -> None:
    assert judged(toy, GOOD[kind]) >= 0.99


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_events_are_outside(toy: ToyEvents, kind: str) -> None:
    assert judged(toy, BROKEN[kind]) <= 0.01


def test_a_checkpoint_that_knows_fewer_summaries_opens() -> None:
    model, other = fitted({"energy": TaskConfig()}), regressor(["energy"])
    state = model.state_dict()
    state["ranges.summaries_SX"] = state["ranges.summaries_SX"][:5]
    other.load_state_dict(state)
    assert torch.equal(other.ranges.summaries_SX[:5], model.ranges.summaries_SX[:5])
    assert other.ranges.summaries_SX[5:].isnan().all()
    assert other.in_training_range(events(3), None, {"pred_energy": torch.full((3,), 0.04)}).all()


def test_a_model_without_ranges_judges_nothing() -> None:
    model = regressor(["energy"])
    assert model.in_training_range(events(2), None, {"pred_energy": torch.tensor([1e9, -1e9])}).all()


def grain_by_hand(photons: NDArray[Any], keep: NDArray[Any]) -> float:
    grid, found = geo.face_grid("inner"), []
    for row, column in np.ndindex(92, 43):
        square = grid[row : row + 2, column : column + 2].ravel()
        if keep[square].all():
            a, b, c, d = photons[square]
            found.append((a - b - c + d) ** 2 / (max(a + b + c + d, 0) + 4))
    return float(np.median(found))


def test_pile_up_miscalibration_and_dead_channels_leave_the_grain_as_it_was() -> None:
    """It tells in which unit photons are, so nothing else that differs between simulation and data may move it."""
    plain = ToyOptions(energy="flat")
    hard = replace(plain, pileup=1.0, calibration_spread=0.1, dead_fraction=0.05, first_run=7)
    grains = []
    for options in (plain, hard):
        toy = generate(100, options)
        x_BN2 = torch.from_numpy(normalize(toy.npho, toy.relative_time, STANDARD, toy.dead).sensors)
        grains.append(input_summaries(x_BN2, None, STANDARD)[:, SUMMARIES.index("log10_grain")])
    assert abs(float(grains[1].median() - grains[0].median())) < 0.05
    assert float((grains[1] - grains[0].median()).abs().max()) < 0.3


def test_what_puts_most_events_outside_is_named(toy: ToyEvents) -> None:
    model = regressor(["energy"])
    good, tenth = (
        input_summaries(
            torch.from_numpy(normalize(scale * toy.npho, toy.relative_time, STANDARD).sensors), None, STANDARD
        )
        for scale in (1, 0.1)
    )
    truth = fit_statistics(TASKS["energy"], np.linspace(0.015, 0.065, 500)[:, None])
    model.ranges.load({"energy": truth}, good.numpy())
    inside = {"pred_energy": torch.full((len(good),), 0.04)}
    assert model.ranges.strays(good, inside) == []
    grain = {stray.name: stray for stray in model.ranges.strays(tenth, inside)}["log10_grain"]
    assert re.fullmatch(r"log10_grain is -0\.4\d* \(expected 0\.8\d* to 1\.\d+\)", str(grain))
    (energy,) = model.ranges.strays(good, {"pred_energy": torch.full((len(good),), 0.2)})
    assert str(energy) == "pred_energy is 0.2 (expected 0.01 to 0.07)"
    both = torch.linspace(-0.05, 0.15, len(good))  # half of them are too small or too large, and the middle is inside
    (energy,) = model.ranges.strays(good, {"pred_energy": both})
    assert not energy.low <= energy.median <= energy.high


def test_summaries_are_what_their_names_say() -> None:
    x = events(3, dead=0.1)
    faces = torch.from_numpy(geo.nominal_faces().copy())
    found = input_summaries(x, None, STANDARD)
    for row, values in enumerate(found.tolist()):
        keep = x[row, :, 0] != STANDARD.sentinel_npho
        photons = STANDARD.inverse_npho(x[row, :, 0]).double() * keep
        timed = keep & (x[row, :, 1] != STANDARD.sentinel_time)
        ns = 1e9 * STANDARD.inverse_time(x[row, :, 1].double())
        mean = float((photons * ns)[timed].sum() / photons[timed].sum())
        expected = (
            math.log10(photons.sum()),
            math.log10(photons.max()),
            float(photons[:4092].sum() / photons.sum()),
            int(keep.sum()),
            int(timed.sum()),
            *(float(photons[faces == code].sum() / photons.sum()) for code in range(1, 6)),
            float(photons[timed].sum() / photons.sum()),
            mean,
            math.sqrt(((photons * (ns - mean) ** 2)[timed]).sum() / photons[timed].sum()),
            math.log10(grain_by_hand(photons.numpy(), keep.numpy())),
        )
        assert values == pytest.approx(expected, rel=1e-4)
        assert len(values) == len(SUMMARIES)


@pytest.mark.parametrize("option", RegressorConfig.model_fields)
def test_every_option_of_the_heads_changes_the_output(option: str) -> None:
    x = events(4)
    changed = {"head_hidden": 24, "head_dropout": 0.9, "head_norm": False, "time_mean": 4}[option]
    outs = []
    for options in ({}, {option: changed}):
        torch.manual_seed(0)
        config = tiny(encoder={"focus": 9} if option == "time_mean" else {}, regressor=options)
        model = awakened(Regressor(config, ["timing", "uvwFI"], STANDARD)).train()
        torch.manual_seed(5)
        outs.append(torch.cat(list(model(x).values()), dim=1))
    assert not torch.allclose(*outs, atol=1e-4)


def awakened(model: Regressor) -> Regressor:
    """With last layers that matter: where there is a reference they begin at zero."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("last.weight", "last.bias", "shift.weight", "second.weight")):
                parameter.normal_(std=0.05)
    return model


REFERENCED_TASKS = {name: TaskConfig(loss="quantile" if name == "xyzFI" else "smooth_l1") for name in REFERENCED}


@pytest.mark.parametrize("resolution", [1, 4])
def test_an_untrained_network_is_the_reference(resolution: int) -> None:
    """Whatever the tokens are: the last layers begin at zero."""
    x = events(3)
    config = tiny(encoder={"focus": 9, "inner_resolution": resolution}, regressor={"time_mean": 4})
    for loss in ("smooth_l1", "gaussian_nll"):
        tasks = {n: t.model_copy(update={"loss": loss}) for n, t in REFERENCED_TASKS.items() if n != "xyzFI"}
        model = Regressor(config, {**tasks, "xyzFI": REFERENCED_TASKS["xyzFI"], "n_gamma": EVERY["n_gamma"]}, STANDARD)
        assert set(model.references) == set(REFERENCED)
        for name in REFERENCED:
            model.standardization.spread(name).fill_(0.5)
            model.standardization.mean(name).fill_(0.25)
        found = model.eval().predict(x)
        scene = model.encoder.look(x)
        assert scene is not None
        for k, column in enumerate("uvw"):
            torch.testing.assert_close(found[f"pred_{column}"], scene.uvw_B3[:, k] + 0.25, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(found["pred_energy"], scene.total_B * math.exp(0.25), rtol=1e-5, atol=0)
        torch.testing.assert_close(found["pred_timing"], scene.time_B + 0.25, rtol=1e-5, atol=1e-5)
        point = geo.xyz_from_uvw(scene.uvw_B3.double().numpy())
        for k, column in enumerate("xyz"):
            torch.testing.assert_close(
                found[f"pred_{column}"].double(), torch.from_numpy(point[:, k]) + 0.25, rtol=0, atol=1e-3
            )
        theta = np.degrees(np.arccos(point[:, 2] / np.linalg.norm(point, axis=1)))
        torch.testing.assert_close(found["pred_theta"].double(), torch.from_numpy(theta) + 0.25, rtol=0, atol=1e-3)


def test_references_are_there_where_they_are_wanted() -> None:
    with_focus, without = tiny(encoder={"focus": 9}), tiny()
    assert Regressor(with_focus, ["energy"], STANDARD).references == ("energy",)
    assert Regressor(with_focus, {"energy": TaskConfig(reference="none")}, STANDARD).references == ()
    assert Regressor(without, ["energy"], STANDARD).references == ()
    for config, task in ((without, "energy"), (with_focus, "n_gamma")):
        settings = {task: EVERY[task].model_copy(update={"reference": "light"})}
        with pytest.raises(ConfigError, match=rf"tasks.{task}.reference: (needs|has no)"):
            Regressor(config, settings, STANDARD)


@pytest.mark.parametrize("resolution", [1, 4])
def test_a_masked_sensor_influences_no_prediction(resolution: int) -> None:
    config = tiny(encoder={"focus": 9, "inner_resolution": resolution}, regressor={"time_mean": 4})
    model = awakened(Regressor(config, REFERENCED_TASKS, STANDARD)).eval()
    x = events(3)
    mask = masks(x, 0.3)
    x.requires_grad_()
    out = torch.cat(list(model(x, mask).values()), dim=1)
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[mask] == 0).all()
    for poison in (float("nan"), 1e30):
        other = torch.where(mask[..., None], poison, x.detach())
        assert torch.equal(torch.cat(list(model(other, mask).values()), dim=1), out.detach())
