import pytest
import torch
from support.networks import STANDARD, events

from shards import geometry as geo
from shards.normalization import valid
from xectrain.config.sensors import MaskingConfig
from xectrain.modes.losses_sensors import (
    SensorLoss,
    channel_weights,
    deviance,
    event_loss,
    light_centre,
    relative_solid_angle,
    sensor_loss,
)

BOTH = ("npho", "time")


def scored(x: torch.Tensor, *sensors: int) -> torch.Tensor:
    hidden = torch.zeros(x.shape[:2], dtype=torch.bool)
    hidden[:, list(sensors)] = True
    return hidden


def compare(config: MaskingConfig, error: torch.Tensor, hidden: torch.Tensor, x: torch.Tensor) -> SensorLoss:
    return sensor_loss(config, BOTH, STANDARD, x + error, x, hidden, valid(x, STANDARD)[1])


def bright(count: int = 2) -> torch.Tensor:
    """Every time valid."""
    x = events(count, dead=0.0)
    return torch.stack((x[..., 0], x[..., 1].clamp(min=0.5)), dim=-1)


def test_the_loss_is_the_mean_over_the_scored_sensors_and_each_face_is_reported() -> None:
    x = bright()
    hidden = scored(x, 10, 11, 4100, 4600)
    error = torch.zeros_like(x)
    error[:, 10], error[:, 4100] = 0.3, torch.tensor([-0.1, 0.2])
    error[:, 500] = 100.0  # not scored
    loss = compare(MaskingConfig(loss="l1"), error, hidden, x)
    torch.testing.assert_close(loss.channels["npho"], torch.full((2,), (0.3 + 0.1) / 4))
    torch.testing.assert_close(loss.channels["time"], torch.full((2,), (0.3 + 0.2) / 4))
    torch.testing.assert_close(loss.faces["inner_npho"], torch.full((2,), 0.15))
    torch.testing.assert_close(loss.faces["outer_time"], torch.full((2,), 0.2))
    torch.testing.assert_close(loss.faces["top_npho"], torch.zeros(2), rtol=0, atol=1e-6)
    assert loss.faces["upstream_npho"].isnan().all()
    total, good = event_loss(loss, {"npho": 1.0, "time": 10.0})
    torch.testing.assert_close(total, torch.full((2,), 0.1 + 1.25))
    assert good.all()


@pytest.mark.parametrize("photons", [[0.0, 10.0, 200.0], [-15.0, 2.0, 40.0, 9.0], [4000.0, 90000.0]])
def test_the_best_prediction_of_counts_is_their_mean(photons: list[float]) -> None:
    truth = torch.tensor(photons, dtype=torch.float64)
    mean = truth.mean().requires_grad_()
    (slope,) = torch.autograd.grad(deviance(truth, mean.expand_as(truth)).sum(), mean)
    assert abs(float(slope)) < 1e-9
    there = float(deviance(truth, truth.mean()).sum())
    assert all(float(deviance(truth, factor * truth.mean()).sum()) > there for factor in (0.8, 1.2))
    assert float(deviance(truth, truth).abs().sum()) == pytest.approx(0, abs=1e-9)


def test_counts_are_compared_in_photons_and_times_by_medians() -> None:
    x, config = bright(), MaskingConfig(loss="counts")
    hidden = scored(x, 10, 4100)
    error = torch.zeros_like(x)
    error[:, 10, 0], error[:, 4100, 1] = 0.02, 0.05
    loss, plain = compare(config, error, hidden, x), compare(MaskingConfig(loss="l1"), error, hidden, x)
    truth, predicted = (STANDARD.inverse_npho(values[:, 10, 0]) for values in (x, x + error))
    torch.testing.assert_close(loss.channels["npho"], deviance(truth, predicted) / 2)
    torch.testing.assert_close(loss.channels["time"], plain.channels["time"])


def test_times_count_only_where_they_are_valid_and_nothing_scored_counts_nothing() -> None:
    x = bright(3)
    x[0, 10, 1] = STANDARD.sentinel_time
    hidden = scored(x, 10)
    hidden[2] = False
    prediction = (x + 1.0).requires_grad_()
    loss = sensor_loss(MaskingConfig(loss="l1"), BOTH, STANDARD, prediction, x, hidden, valid(x, STANDARD)[1])
    assert loss.channels["time"].isnan().tolist() == [True, False, True]
    total, good = event_loss(loss, {"npho": 1.0, "time": 1.0})
    torch.testing.assert_close(total, torch.tensor([1.0, 2.0, 0.0]))
    assert good.tolist() == [True, True, False]
    total.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert (prediction.grad[2] == 0).all()


@pytest.mark.parametrize("name", ["smooth_l1", "l1", "mse", "huber"])
def test_every_loss_name_and_its_beta(name: str) -> None:
    x = bright()
    error = torch.full_like(x, 0.5)
    expected = {"smooth_l1": 0.5 - 0.05, "l1": 0.5, "mse": 0.25, "huber": 0.1 * 0.45}
    loss = compare(MaskingConfig.model_validate({"loss": name, "loss_beta": 0.1}), error, scored(x, 3), x)
    torch.testing.assert_close(loss.channels["npho"], torch.full((2,), expected[name]))


def test_bright_sensors_can_weigh_more() -> None:
    x = bright()
    x[:, 1, 0], x[:, 2, 0] = STANDARD.forward_npho(torch.tensor(99.0)), STANDARD.forward_npho(torch.tensor(9999.0))
    error = torch.zeros_like(x)
    error[:, 2] = 1.0
    hidden = scored(x, 1, 2)
    plain = compare(MaskingConfig(loss="l1"), error, hidden, x)
    weighted = compare(MaskingConfig(loss="l1", npho_loss_alpha=0.5, time_npho_weighting=True), error, hidden, x)
    torch.testing.assert_close(plain.channels["npho"], torch.full((2,), 0.5))
    torch.testing.assert_close(weighted.channels["npho"], torch.full((2,), 100 / 110), rtol=1e-3, atol=0)
    root = 9999**0.5 / (9999**0.5 + 99**0.5)
    torch.testing.assert_close(weighted.channels["time"], torch.full((2,), root), rtol=1e-3, atol=0)
    torch.testing.assert_close(weighted.faces["inner_npho"], plain.faces["inner_npho"])


def test_times_that_light_cannot_explain_cost() -> None:
    x = bright()
    near = int(geo.nearest(1)[1000, 0])
    x[:, [1000, near], 0] = STANDARD.forward_npho(torch.tensor(5000.0))
    x[..., 1] = 0.5
    hidden = scored(x, 1000, near)
    distance = float(((geo.nominal().positions[near] - geo.nominal().positions[1000]) ** 2).sum() ** 0.5)
    allowed = distance / 8.3
    config = MaskingConfig(timing_consistency=1.0)
    for gap_ns, cost in ((0.9 * allowed, 0.0), (allowed + 2.0, 2.0)):
        error = torch.zeros_like(x)
        error[:, near, 1] = gap_ns * 1e-9 / STANDARD.time_scale
        found = compare(config, error, hidden, x).extra["timing_consistency"]
        torch.testing.assert_close(found, torch.full((2,), cost), rtol=1e-3, atol=1e-4)
    dim = MaskingConfig(timing_consistency=1.0, timing_bright=6000.0)
    assert (compare(dim, error, hidden, x).extra["timing_consistency"] == 0).all()
    assert not compare(MaskingConfig(), error, hidden, x).extra


def test_solid_angles_weigh_by_distance_and_direction() -> None:
    inside = torch.from_numpy(geo.xyz_from_uvw([[5.0, 10.0, 6.0]])).float()
    omega = relative_solid_angle(inside)[0]
    exact = torch.from_numpy(geo.solid_angle(inside.double().numpy())[0])
    assert torch.equal(omega > 0, exact > 0)
    far = (exact > 0) & (exact < 0.01 * exact.max())
    ratio = (omega / omega.sum())[far] / (exact / exact.sum())[far]
    assert float((ratio / ratio.median() - 1).abs().quantile(0.95)) < 0.15
    photons = torch.zeros(1, 4760)
    photons[0, 1234] = 100
    torch.testing.assert_close(light_centre(photons)[0], torch.from_numpy(geo.nominal().positions[1234].copy()).float())
    x = bright()
    nearest = int(relative_solid_angle(light_centre(STANDARD.inverse_npho(x[..., 0])))[0].argmax())
    error = torch.zeros_like(x)
    error[:, nearest] = 1.0
    hidden = scored(x, nearest, 4320)
    weighted = compare(MaskingConfig(loss="l1", solid_angle_weighting=1.0), error, hidden, x).channels["npho"]
    plain = compare(MaskingConfig(loss="l1"), error, hidden, x).channels["npho"]
    assert weighted[0] > plain[0] == 0.5


def test_channel_weights_come_from_the_config() -> None:
    config = MaskingConfig(npho_weight=2.0, time_weight=0.5)
    assert channel_weights(config, BOTH) == {"npho": 2.0, "time": 0.5}
    assert channel_weights(config, ("npho",)) == {"npho": 2.0}
