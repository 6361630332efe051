"""Every augmentation does what its description says, is the same for an event wherever it is, and spares the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.synthetic import make_dataset
from torch import Tensor

from shards import geometry as geo
from shards.base import ConfigError
from shards.normalization import denormalize, preset, valid
from xectrain.config.tree import AugmentConfig
from xectrain.training.augment import MIRRORED, Augmentation, Axis, mirror_partners

NORM = preset("standard")
COLUMNS = ["run", "event", "theta", "phi", "energy", "u", "v", "w", "y", "z"]


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    data = make_dataset(tmp_path_factory.mktemp("data") / "a", events=32, columns=COLUMNS)
    sensors, truth = data.read(data.rows())
    return torch.from_numpy(sensors), torch.from_numpy(truth)


def augmentation(**config: Any) -> Augmentation:
    return Augmentation(AugmentConfig(**config), NORM, COLUMNS, seed=3)


def physical(x: Tensor) -> tuple[Tensor, Tensor]:
    npho, time = denormalize(x.double(), NORM)
    return npho, time


def test_off_changes_nothing(batch: tuple[Tensor, Tensor]) -> None:
    x, truth = augmentation().apply(*batch, epoch=0)
    assert x is batch[0]
    assert truth is batch[1]


@pytest.mark.parametrize(
    "config",
    [
        {"channel_dropout": 0.1},
        {"npho_noise": 0.5},
        {"time_jitter": 1.0},
        {"energy_scale": 0.1},
        {"mirror_z": 0.5},
        {"mirror_y": 0.5},
    ],
)
def test_an_event_is_augmented_alike_in_any_batch_and_anew_every_epoch(
    batch: tuple[Tensor, Tensor], config: dict[str, float]
) -> None:
    augment = augmentation(**config)
    x, truth = augment.apply(*batch, epoch=1)
    reverse = torch.arange(31, -1, -2)
    x_alone, truth_alone = augment.apply(batch[0][reverse], batch[1][reverse], epoch=1)
    assert torch.equal(x[reverse], x_alone)
    assert torch.equal(truth[reverse].nan_to_num(-9), truth_alone.nan_to_num(-9))
    assert not torch.equal(x, augment.apply(*batch, epoch=2)[0])
    assert not torch.equal(x, Augmentation(AugmentConfig(**config), NORM, COLUMNS, seed=4).apply(*batch, epoch=1)[0])


def test_dropped_channels_are_dead_not_dark(batch: tuple[Tensor, Tensor]) -> None:
    x, truth = augmentation(channel_dropout=0.2).apply(*batch, epoch=0)
    before, after = valid(batch[0], NORM)[0], valid(x, NORM)[0]
    dropped = before & ~after
    assert float(dropped.sum() / before.sum()) == pytest.approx(0.2, abs=0.01)
    assert bool((x[dropped] == torch.tensor([NORM.sentinel_npho, NORM.sentinel_time])).all())
    assert torch.equal(x[~dropped], batch[0][~dropped])
    assert truth is batch[1]


def test_patterns_are_applied_whole_to_some_events(batch: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("5\n6\n# comment\n")
    (tmp_path / "b.txt").write_text("4700\n")
    files = (str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    x, _ = augmentation(pattern_dropout=0.6, patterns=files).apply(*batch, epoch=0)
    lost = valid(batch[0], NORM)[0] & ~valid(x, NORM)[0]
    kinds = {tuple(np.flatnonzero(event).tolist()) for event in lost.numpy()}
    assert kinds <= {(), (5, 6), (5,), (6,), (4700,)}
    assert () in kinds
    assert len(kinds) >= 3
    with pytest.raises(ValueError, match="pattern_dropout needs patterns"):
        AugmentConfig(pattern_dropout=0.5)
    (tmp_path / "none.txt").write_text("# nothing\n")
    with pytest.raises(ConfigError, match="does not name any dead channel"):
        augmentation(pattern_dropout=0.5, patterns=(str(tmp_path / "none.txt"),))


def test_photon_noise_is_in_units_of_the_square_root(batch: tuple[Tensor, Tensor]) -> None:
    x, _ = augmentation(npho_noise=0.5).apply(*batch, epoch=0)
    before, after = physical(batch[0])[0], physical(x)[0]
    bright = before > 50
    pull = ((after - before) / before.sqrt())[bright]
    assert float(pull.std()) == pytest.approx(0.5, rel=0.03)
    assert abs(float(pull.mean())) < 0.02
    assert torch.equal(after.isnan(), before.isnan())
    assert torch.equal(x[..., 1], batch[0][..., 1])


def test_time_jitter_is_in_nanoseconds_and_spares_invalid_times(batch: tuple[Tensor, Tensor]) -> None:
    x, _ = augmentation(time_jitter=2.0).apply(*batch, epoch=0)
    before, after = physical(batch[0])[1], physical(x)[1]
    assert torch.equal(before.isnan(), after.isnan())
    assert float((after - before)[~before.isnan()].std()) == pytest.approx(2e-9, rel=0.03)
    assert torch.equal(x[..., 0], batch[0][..., 0])


def test_the_energy_scale_moves_light_and_target_together(batch: tuple[Tensor, Tensor]) -> None:
    x, truth = augmentation(energy_scale=0.1).apply(*batch, epoch=0)
    energy = COLUMNS.index("energy")
    factor = truth[:, energy] / batch[1][:, energy]
    before, after = physical(batch[0])[0].nan_to_num(0), physical(x)[0].nan_to_num(0)
    light = (after * (before > 100)).sum(1) / (before * (before > 100)).sum(1)
    assert torch.allclose(light, factor, rtol=1e-4)
    assert 0.04 < float(factor.std()) < 0.2


@pytest.mark.parametrize(
    ("axis", "reversed_", "angle", "centre", "coordinate"),
    [("z", [1, 1, -1], "theta", 180, "u"), ("y", [1, -1, 1], "phi", 0, "v")],
)
def test_mirrored_events_are_mirror_images(
    batch: tuple[Tensor, Tensor], axis: Axis, reversed_: list[int], angle: str, centre: float, coordinate: str
) -> None:
    x, truth = augmentation(**{f"mirror_{axis}": 1.0}).apply(*batch, epoch=0)
    partner = mirror_partners(axis)
    positions = geo.nominal().positions
    assert np.allclose(positions[partner.numpy()], positions * reversed_, atol=1e-6)
    assert torch.equal(partner[partner], torch.arange(4760))
    assert torch.equal(x, batch[0][:, partner])
    changed = {name: truth[:, k].nan_to_num(0) for k, name in enumerate(COLUMNS)}
    given = {name: batch[1][:, k].nan_to_num(0) for k, name in enumerate(COLUMNS)}
    assert torch.allclose(changed.pop(angle), centre - given[angle])
    for name in (coordinate, axis):
        assert torch.equal(changed.pop(name), -given[name])
    assert all(torch.equal(values, given[name]) for name, values in changed.items())
    twice, back = augmentation(**{f"mirror_{axis}": 1.0}).apply(x, truth, epoch=0)
    assert torch.equal(twice, batch[0])
    assert torch.allclose(back.nan_to_num(-9), batch[1].nan_to_num(-9))


def test_mirrored_columns_are_those_of_the_mirrored_geometry() -> None:
    """u, v, w and the angles of mirrored points are what `geometry` makes of them."""
    points = np.random.default_rng(0).uniform([-110, -60, -30], [-66, 60, 30], (50, 3))
    for axis, reversed_, (name, k) in (("z", [1, 1, -1], ("u", 0)), ("y", [1, -1, 1], ("v", 1))):
        before, after = geo.uvw_from_xyz(points), geo.uvw_from_xyz(points * reversed_)
        expected = before.copy()
        expected[:, k] = MIRRORED[axis][name] - before[:, k]
        np.testing.assert_allclose(after, expected, atol=1e-9)
