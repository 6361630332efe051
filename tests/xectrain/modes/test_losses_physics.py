import pytest
import torch
from support.networks import STANDARD, events

from shards import geometry as geo
from shards.base import ConfigError
from shards.normalization import mark_dead, valid
from xectrain.config.networks import TaskConfig, TasksConfig
from xectrain.modes.losses import emission_vector
from xectrain.modes.losses_physics import angle_position, check_physics, energy_light, xyz_from_uvw

ON = TaskConfig(enabled=True)


def test_coordinates_are_those_of_the_geometry() -> None:
    uvw = torch.tensor([[3.0, -20.0, 4.0], [-12.0, 55.0, 30.0]], requires_grad=True)
    expected = torch.from_numpy(geo.xyz_from_uvw(uvw.detach().double().numpy())).float()
    torch.testing.assert_close(xyz_from_uvw(uvw), expected, rtol=1e-5, atol=1e-4)
    assert xyz_from_uvw(uvw).requires_grad


def test_direction_and_position_that_agree_cost_nothing() -> None:
    vertex = torch.tensor([[0.5, -1.0, 2.0], [float("nan"), 0.0, 0.0]], dtype=torch.float64)
    point = xyz_from_uvw(torch.tensor([[3.0, -20.0, 4.0], [3.0, -20.0, 4.0]]))
    direction = torch.nn.functional.normalize(point - vertex.float().nan_to_num(), dim=1)
    theta = torch.rad2deg(direction[:, 2].acos())
    phi = torch.rad2deg(torch.atan2(direction[:, 1], -direction[:, 0]))
    by_angle = {"angle": torch.stack((theta, phi), dim=1), "uvwFI": torch.tensor([[3.0, -20.0, 4.0]] * 2)}
    torch.testing.assert_close(emission_vector(by_angle["angle"]), direction, rtol=1e-4, atol=1e-5)
    for predicted in ({"direction": direction, "xyzFI": point}, by_angle):
        loss, good = angle_position(predicted, vertex)
        torch.testing.assert_close(loss, torch.zeros(2), rtol=0, atol=1e-6)
        assert good.tolist() == [True, False]
        moved, _ = angle_position({**predicted, "xyzFI": point + torch.tensor([0.0, 10.0, 0.0])}, vertex)
        assert moved[0] > 1e-3
        assert moved[1] == 0


def test_energy_must_roughly_match_the_light() -> None:
    x = events(2, dead=0.0)
    mask = ~valid(x, STANDARD)[0]
    coverage = torch.from_numpy(geo.cell_area() / geo.sensor_area()).float()
    light = (STANDARD.inverse_npho(x[..., 0]) * coverage).sum(dim=1)
    config = TasksConfig(energy_light=1.0, energy_light_tolerance=0.2)
    expected = light / config.energy_light_yield
    assert (energy_light(config, expected * 1.2, x, mask, STANDARD) == 0).all()
    high = energy_light(config, expected * 2, x, mask, STANDARD)
    low = energy_light(config, expected / 2, x, mask, STANDARD)
    torch.testing.assert_close(high, low, rtol=1e-3, atol=1e-5)
    assert (high > 0.05).all()
    dead = torch.rand(2, 4760, generator=torch.Generator().manual_seed(9)) < 0.3
    hidden = mark_dead(x, STANDARD, dead)
    assert (energy_light(config, expected, hidden, dead, STANDARD) == 0).all()  # scaled up for what is masked


@pytest.mark.parametrize(
    ("tasks", "columns", "message"),
    [
        (
            {"angle_position": 1.0, "uvwFI": ON, "angle": TaskConfig()},
            [],
            "tasks.angle_position: needs the task direction or angle",
        ),
        ({"angle_position": 1.0}, [], "tasks.angle_position: needs the task uvwFI or xyzFI"),
        ({"angle_position": 1.0, "uvwFI": ON}, ["vtx_x", "vtx_y"], "needs the truth column 'vtx_z'"),
        ({"energy_light": 1.0}, [], "tasks.energy_light: needs the task energy"),
    ],
)
def test_missing_ingredients_are_named(tasks: dict, columns: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_physics(TasksConfig(**tasks), columns)


def test_nothing_is_needed_when_all_are_off() -> None:
    check_physics(TasksConfig(), [])
