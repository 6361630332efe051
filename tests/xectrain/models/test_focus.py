"""The focus: where the window lies, what the light alone says, and that masked sensors have no part in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import STANDARD, events, masks, tiny
from torch import Tensor

from shards import geometry as geo
from shards.normalization import mark_dead, normalize
from xectrain.baselines.inpainting import fill
from xectrain.baselines.light import light_centre, window_table
from xectrain.baselines.raw import RawEvents
from xectrain.models.encoder import Encoder
from xectrain.models.focus import MANY, Light, Spotter, read_light, visible_median
from xectrain.models.foveated import window_image
from xectrain.models.inpainter import Inpainter
from xectrain.models.mae import MaskedAutoencoder
from xectrain.models.reference import LIGHT_FACTS, LightReference, Scene, facts
from xectrain.patch import xyz

WINDOW = 11
GRID = geo.face_grid("inner")
CORNERS = [(0, 0), (0, 43), (92, 0), (92, 43), (0, 20), (50, 43)]


def light_of(uvw: tuple[float, float, float], photons: float = 1e6, time: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    """A point source without noise: photons and arrival times [s] of all sensors, (1, 4760) each."""
    point = geo.xyz_from_uvw([uvw])
    distance = np.linalg.norm(geo.nominal_positions() - point, axis=1)
    return photons * geo.solid_angle(point), 1e-9 * (time + distance[None] / geo.LIGHT_SPEED_XENON)


def sensors(npho: np.ndarray, time: np.ndarray) -> Tensor:
    return torch.from_numpy(normalize(npho.astype(np.float32), time.astype(np.float32), STANDARD).sensors)


def scene_of(x_BN2: Tensor, mask_BN: Tensor | None = None, window: int = WINDOW, fit: int = 0) -> Scene:
    scene: Scene = LightReference(window, fit=fit)(read_light(x_BN2, mask_BN, STANDARD))
    return scene


def focused(**options: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(tiny(encoder={"focus": WINDOW, **options}).encoder, STANDARD).eval()


@pytest.mark.parametrize("where", [(46, 20), *CORNERS])
def test_the_window_surrounds_the_brightest_spot_and_ends_where_the_face_does(where: tuple[int, int]) -> None:
    channel = int(GRID[where])
    u, v, _ = geo.uvw_from_xyz(geo.nominal_positions()[channel])
    scene = scene_of(sensors(*light_of((u, v, 1.0))))
    assert int(scene.spot.centre_B) == channel
    table = window_table(WINDOW // 2)[channel]
    expected = np.where(table < 0, geo.N_SENSORS, table)
    np.testing.assert_array_equal(scene.spot.channels_BS[0], expected)
    image = window_image(scene, WINDOW)
    assert image.shape == (1, 6, WINDOW, WINDOW)
    outside = (expected == geo.N_SENSORS).reshape(WINDOW, WINDOW)
    assert (image[0, :, outside] == 0).all()
    assert image.isfinite().all()


def test_a_dead_brightest_sensor_or_a_hot_one_elsewhere_does_not_move_the_window() -> None:
    npho, time = light_of((3.0, 10.0, 2.0))
    before = int(scene_of(sensors(npho, time)).spot.centre_B)
    dead = npho.copy()
    dead[0, before] = np.nan
    row, column = np.argwhere(before == GRID)[0]
    found = int(scene_of(sensors(dead, time)).spot.centre_B)
    assert np.abs(np.argwhere(found == GRID)[0] - (row, column)).max() <= 1
    hot = npho.copy()
    hot[0, GRID[5, 5]] = 1.5 * npho.max()
    assert int(scene_of(sensors(hot, time)).spot.centre_B) == before


@pytest.mark.parametrize("nothing", ["dark", "dead", "negative"])
def test_without_light_everything_is_defined_and_in_the_middle(nothing: str) -> None:
    value = {"dark": 0.0, "dead": np.nan, "negative": -5.0}[nothing]
    x = sensors(np.full((2, 4760), value), np.full((2, 4760), np.nan))
    scene = scene_of(x, fit=3)
    assert scene.pull_BS is not None
    middle = np.argwhere(int(scene.spot.centre_B[0]) == GRID)[0]
    assert np.abs(middle - (46, 21.5)).max() <= 1
    for values in (scene.uvw_B3, scene.total_B, scene.time_B, scene.late_BK, scene.facts_BA, scene.pull_BS):
        assert values.isfinite().all()
    assert (scene.time_B == 0).all()
    assert focused(inner_resolution=4, focus_fit=3)(x).isfinite().all()


def test_the_centre_is_that_of_the_classical_light_weighted_mean() -> None:
    draw = np.random.default_rng(0)
    npho, time = (
        np.concatenate(a) for a in zip(*[light_of(p) for p in ((0, 0, 3), (9, -30, 5), (-20, 55, 1.5))], strict=True)
    )
    npho = draw.poisson(npho).astype(np.float32)
    npho[:, draw.random(4760) < 0.02] = np.nan
    scene, classical = scene_of(sensors(npho, time)), light_centre(npho)
    same = scene.spot.centre_B.numpy() == classical.channel
    assert same.any()
    np.testing.assert_allclose(scene.uvw_B3[same, 0], classical.u[same], atol=2e-3)
    np.testing.assert_allclose(scene.uvw_B3[same, 1], classical.v[same], atol=2e-3)


def test_the_total_is_the_coverage_weighted_sum_with_dead_sensors_filled() -> None:
    npho, time = light_of((0.0, 0.0, 6.0))
    npho[:, np.random.default_rng(1).random(4760) < 0.05] = np.nan
    weight = geo.cell_area() / geo.sensor_area()
    filled = fill(RawEvents(npho.astype(np.float32), time.astype(np.float32), {}), "ring_mean").npho
    expected = filled.astype(np.float64) @ weight
    np.testing.assert_allclose(scene_of(sensors(npho, time)).total_B, expected, rtol=1e-4)


def test_the_time_of_a_point_source_comes_out_and_late_light_counts_little() -> None:
    npho, time = light_of((0.0, 0.0, 5.0), time=7.0)
    scene = scene_of(sensors(npho, time))
    true = np.linalg.norm(geo.nominal_positions() - geo.xyz_from_uvw([[0.0, 0.0, 5.0]]), axis=1)
    assert abs(float(scene.time_B) - 7.0) < 0.3  # the depth is only estimated
    assert np.abs(scene.distance_BK[0, -668:].numpy() - true[-668:]).max() < 3
    late = time.copy()
    late[0, ::7] += 30e-9
    assert abs(float(scene_of(sensors(npho, late)).time_B - scene.time_B)) < 0.5


def test_points_are_where_the_geometry_says() -> None:
    uvw = np.random.default_rng(0).uniform((-30, -70, 0), (30, 70, 40), (50, 3))
    np.testing.assert_allclose(xyz(torch.from_numpy(uvw).float()), geo.xyz_from_uvw(uvw), atol=1e-4)


def test_depth_grows_with_depth() -> None:
    depths = [float(scene_of(sensors(*light_of((0.0, 0.0, w)))).uvw_B3[0, 2]) for w in (0.5, 1, 2, 4, 8, 16)]
    assert depths == sorted(depths)


def test_facts_have_the_length_they_say() -> None:
    for fit, window in ((0, 9), (2, 9), (2, 21)):
        assert scene_of(events(3), window=window, fit=fit).facts_BA.shape == (3, facts(fit))


def test_a_point_source_is_fitted_exactly_and_leaves_nothing() -> None:
    point = geo.xyz_from_uvw([(2.2, -7.4, 3.0)])
    npho = 1e7 * geo.solid_angle(point, sipm="square")
    scene = scene_of(sensors(npho, np.full_like(npho, np.nan)), window=15, fit=6)
    assert scene.pull_BS is not None
    assert float(scene.pull_BS.abs().max()) < 0.3
    u, v, log_depth = scene.facts_BA[0, LIGHT_FACTS : LIGHT_FACTS + 3].double().numpy()
    middle = geo.uvw_from_xyz(geo.nominal_positions()[int(scene.spot.centre_B)])
    np.testing.assert_allclose(
        (1.5 * u + middle[0], 1.5 * v + middle[1], np.exp(log_depth + 1)), (2.2, -7.4, 3), atol=0.01
    )


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), hidden=st.floats(0, 0.9))
def test_hidden_sensors_have_no_part_in_anything(seed: int, hidden: float) -> None:
    x = events(2, seed)
    mask = masks(x, hidden, seed + 1)
    poison = torch.where(mask[..., None], 1e30, x)
    dead = mark_dead(x, STANDARD, mask)
    light, same, third = (read_light(y, m, STANDARD) for y, m in ((x, mask), (poison, mask), (dead, None)))
    for one, other in ((light, same), (light, third)):
        for name in Light.__dataclass_fields__:
            assert torch.equal(getattr(one, name), getattr(other, name))
    spot = Spotter(WINDOW)(light)
    seen = spot.centre_B
    assert not mask[torch.arange(2), seen].any() or bool(mask[:, : geo.N_SIPM].all())
    network = focused(inner_resolution=4, focus_fit=3)
    torch.testing.assert_close(network(x, mask), network(poison, mask))


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 5))
def test_events_do_not_know_of_each_other(seed: int, count: int) -> None:
    x = events(count, seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    network = focused(inner_resolution=4, focus_fit=3)
    torch.testing.assert_close(network(x)[order], network(x[order]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("resolution", [1, 4])
def test_a_focus_adds_tokens(resolution: int) -> None:
    network = focused(inner_resolution=resolution, focus_tokens=3)
    assert [t.name for t in network.tokens] == [*geo.FACE_NAMES, "focus.0", "focus.1", "focus.2"]
    assert network(events(2)).shape == (2, 9, 128)
    assert network.attention(events(2)).shape[-1] == 9


@pytest.mark.parametrize("resolution", [1, 4])
@pytest.mark.parametrize("mode", ["mae", "per_face", "cross_attention", "neighbours"])
def test_the_modes_that_predict_sensors_accept_a_focus_and_never_look_at_hidden_ones(
    mode: str, resolution: int
) -> None:
    torch.manual_seed(0)
    sections: dict[str, Any] = {"encoder": {"focus": WINDOW, "inner_resolution": resolution, "focus_fit": 2}}
    if mode == "mae":
        model: torch.nn.Module = MaskedAutoencoder(tiny(**sections), ("npho", "time"), STANDARD)
    else:
        model = Inpainter(tiny(**sections, inpainter={"head": mode}), ("npho", "time"), STANDARD)
    x = events(2)
    mask = masks(x, 0.6)
    out = model.eval()(x, mask)
    assert out.shape == (2, 4760, 2)
    poison = torch.where(mask[..., None], 1e30, x)
    torch.testing.assert_close(model(poison, mask), out)


def test_a_shallow_photon_of_less_light_does_not_draw_the_window() -> None:
    """A few bright sensors at one end of the face, and three times their light spread over 11×11 at the other."""
    photons = np.zeros(4760)
    photons[GRID[9:12, 9:12]] = 4000
    photons[GRID[70:81, 25:36]] = 900
    photons[GRID[75, 30]] = 1500
    x = sensors(np.tile(photons, (2, 1)), np.full((2, 4760), np.nan))
    scene = scene_of(x)
    assert np.abs(np.argwhere(int(scene.spot.centre_B[0]) == GRID)[0] - (75, 30)).max() <= 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 2, 31, MANY, MANY + 1, MANY + 2]), seen=st.floats(0, 1))
def test_the_median_over_the_visible_is_that_of_numpy_whichever_way_it_is_found(
    seed: int, size: int, seen: float
) -> None:
    rng = np.random.default_rng(seed)
    values, keep = rng.normal(size=(3, size)).astype(np.float32), rng.random((3, size)) < seen
    expected = [np.median(row[which]) if which.any() else 0 for row, which in zip(values, keep, strict=True)]
    found = visible_median(torch.from_numpy(values), torch.from_numpy(keep).float())
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)
