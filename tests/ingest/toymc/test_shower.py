"""Showers: cross sections, energy conservation, the numbers of the specification, reduction, library, placing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.toymc import cascade, crosssections, library
from ingest.toymc import constants as c
from ingest.toymc.options import ToyOptions
from ingest.toymc.shower import draw_deposits, place
from ingest.toymc.source import Gammas, draw_gammas
from shards import geometry as geo
from shards.base import CorruptError, InputError


@pytest.fixture(scope="module")
def steps() -> cascade.Steps:
    return cascade.simulate(np.random.default_rng(1), np.full(1500, 52.83))


@pytest.mark.parametrize(("energy", "length"), [(15, 7.5), (30, 6.2), (52.8, 5.5), (83, 5.0)])
def test_mean_free_path_of_the_cross_sections(energy: float, length: float) -> None:
    assert crosssections.mean_free_path(np.array([energy]))[0] == pytest.approx(length, rel=0.04)


def test_cross_sections_against_textbook_limits() -> None:
    low = np.array([1e-3])
    thomson = 8 / 3 * np.pi * crosssections.CLASSICAL_RADIUS2 * c.Z * crosssections.ATOMS_PER_BARN_CM
    assert crosssections.compton(low)[0] == pytest.approx(thomson, rel=0.01)
    assert crosssections.pair(np.array([1.0, 1.02]))[0] == 0
    assert crosssections.pair(np.array([80.0]))[0] < 7 / 9 / c.X0
    # photoelectric and Compton cross near 0.3 MeV in xenon
    assert crosssections.photoelectric(np.array([0.2]))[0] > crosssections.compton(np.array([0.2]))[0]
    assert crosssections.photoelectric(np.array([0.4]))[0] < crosssections.compton(np.array([0.4]))[0]
    # minimum ionization, PDG for liquid xenon: 1.25 MeV cm²/g for muons, a little less for electrons of 1 MeV
    assert crosssections.stopping_power(np.array([1.0]))[0] / c.DENSITY == pytest.approx(1.12, rel=0.03)


def test_compton_scattering_conserves_momentum_and_follows_klein_and_nishina() -> None:
    rng = np.random.default_rng(2)
    energy = np.full(100_000, 2.0)
    scattered, cosine = crosssections.draw_compton(rng, energy)
    np.testing.assert_allclose(scattered, energy / (1 + energy / c.ELECTRON_MASS * (1 - cosine)), rtol=1e-9)
    x = np.linspace(-1, 1, 20001)
    ratio = 1 / (1 + 2.0 / c.ELECTRON_MASS * (1 - x))
    density = ratio**2 * (ratio + 1 / ratio - (1 - x**2))
    assert cosine.mean() == pytest.approx((density * x).sum() / density.sum(), abs=0.005)


def test_radiated_and_pair_shares_have_their_means() -> None:
    rng = np.random.default_rng(3)
    y = crosssections.draw_radiated_share(rng, np.full(100_000, 0.01))
    grid = np.geomspace(0.01, 1, 20001)
    density = 4 / 3 - 4 / 3 * grid + grid**2  # times dy/y
    mean = np.trapezoid(density, grid) / np.trapezoid(density / grid, grid)
    assert y.mean() == pytest.approx(mean, rel=0.01)
    share = crosssections.draw_pair_share(rng, 100_000)
    assert share.mean() == pytest.approx(0.5, abs=0.004)
    # variance of x² + (1−x)² + ⅔x(1−x) on 0…1
    x = np.linspace(0, 1, 20001)
    pdf = x**2 + (1 - x) ** 2 + 2 / 3 * x * (1 - x)
    assert share.var() == pytest.approx(np.trapezoid(pdf * (x - 0.5) ** 2, x) / np.trapezoid(pdf, x), rel=0.02)


def test_energy_is_conserved(steps: cascade.Steps) -> None:
    total = np.bincount(steps.shower, steps.energy, 1500)
    np.testing.assert_allclose(total, 52.83, rtol=1e-9)
    assert (steps.energy >= 0).all()


def test_no_light_before_light_could_be_there(steps: cascade.Steps) -> None:
    flight = np.linalg.norm(steps.position, axis=1) / c.LIGHT_SPEED
    assert (steps.time >= flight - 1e-9).all()


def test_shower_at_the_signal_energy(steps: cascade.Steps) -> None:
    centre = np.stack([np.bincount(steps.shower, steps.energy * x, 1500) for x in steps.position.T], axis=1) / 52.83
    assert centre[:, 2].mean() == pytest.approx(6.3, abs=0.4)
    assert np.median(centre[:, 2]) == pytest.approx(5.5, abs=0.4)
    assert centre[:, 2].std() == pytest.approx(3.0, abs=0.4)
    assert centre[:, :2].std() == pytest.approx(1.5, abs=0.3)
    far = np.linalg.norm(steps.position, axis=1) > 10
    assert steps.energy[far].sum() / steps.energy.sum() == pytest.approx(0.24, abs=0.03)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60))
def test_reduction_keeps_energy_and_centre(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    position, energy = rng.normal(size=(steps, 3)), rng.exponential(size=steps)
    points, shares = cascade.reduce(rng, position, energy, 8)
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(shares @ points, energy @ position / energy.sum(), atol=1e-9)
    assert (np.diff(shares) <= 1e-12).all()


def test_library_is_normalized_and_dense_at_the_lines() -> None:
    showers = library.read_showers()
    np.testing.assert_allclose(showers.shares.sum(axis=1), 1, rtol=1e-5)
    assert (np.diff(showers.energy) >= 0).all()
    for line in (52.83, 54.9, 82.9):
        assert (np.abs(np.log(showers.energy / line)) < 0.04).sum() > 2000
    assert (showers.delay >= np.linalg.norm(showers.points, axis=2) / c.LIGHT_SPEED - 1e-5).all()
    centre = np.einsum("ns,nsx->nx", showers.shares, showers.points)[np.abs(np.log(showers.energy / 52.83)) < 0.03]
    assert centre[:, 2].mean() == pytest.approx(6.3, abs=0.3)


def test_library_file_survives_writing_and_rounding(tmp_path: Path) -> None:
    made = library.make_showers(seed=4, count=100)
    library.write_showers(tmp_path / "a.npz", made)
    read = library.read_showers(tmp_path / "a.npz")
    real = made.shares > 0
    assert np.abs(read.points - made.points)[real].max() <= library.LENGTH_UNIT / 2 + 1e-4
    assert np.abs(read.shares - made.shares).max() < 0.003
    assert np.abs(read.delay - made.delay)[real & (made.delay < 2)].max() < 0.02
    library.write_showers(tmp_path / "b.npz", library.make_showers(seed=4, count=100))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.slow
def test_shipped_library_is_the_one_that_the_command_makes(tmp_path: Path) -> None:
    library.write_showers(tmp_path / "showers.npz", library.make_showers())
    assert (tmp_path / "showers.npz").read_bytes() == library.SHOWERS.read_bytes()


def test_damaged_and_missing_libraries_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.npz: is missing; make it with `xec toymc library`"):
        library.read_showers(tmp_path / "no.npz")
    content = library.SHOWERS.read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptError, match=r"cut.npz: cannot be read"):
        library.read_showers(tmp_path / "cut.npz")
    np.savez(tmp_path / "other.npz", energy=np.zeros(3))
    with pytest.raises(CorruptError, match=r"other.npz: holds the wrong arrays \(found \['energy'\]"):
        library.read_showers(tmp_path / "other.npz")


def test_placing_is_a_rotation_and_cuts_at_the_walls() -> None:
    rng = np.random.default_rng(5)
    gammas = draw_gammas(rng, np.full(200, 52.83), ToyOptions())
    local = rng.normal(size=(200, 8, 3)) * 5
    energy = rng.exponential(size=(200, 8))
    deposits = place(gammas, local, energy, np.zeros((200, 8)))
    away = deposits.points - gammas.first[:, None]
    np.testing.assert_allclose(np.linalg.norm(away, axis=2), np.linalg.norm(local, axis=2), atol=1e-3)
    np.testing.assert_allclose(np.einsum("ndx,nx->nd", away, gammas.direction), local[:, :, 2], atol=1e-3)
    inside = geo.inside(deposits.points.astype(np.float64))
    assert ((deposits.energy > 0) == inside).mean() > 0.999
    assert (deposits.contained <= energy.sum(axis=1) + 1e-5).all()


def test_drawn_showers_scale_with_the_energy_and_do_not_lean_sideways() -> None:
    rng = np.random.default_rng(6)
    n = 4000
    origin, along = np.zeros((n, 3)), np.tile([-1.0, 0, 0], (n, 1))
    first = np.tile(geo.xyz_from_uvw(np.array([0.0, 0.0, 3.0])), (n, 1))
    deposits = draw_deposits(rng, Gammas(origin, along, first, np.full(n, 40.0)))
    assert (deposits.energy.sum(axis=1) <= 40 * (1 + 1e-5)).all()
    assert np.median(deposits.contained) == pytest.approx(40, abs=0.5)
    shares = deposits.energy / deposits.energy.sum(axis=1, keepdims=True)
    centre = np.einsum("nd,ndx->nx", shares, deposits.points) - first
    assert np.abs(centre[:, 1:].mean(axis=0)).max() < 5 * centre[:, 1].std() / np.sqrt(n)
    assert len(np.unique(deposits.points[:, 0], axis=0)) > 3900
