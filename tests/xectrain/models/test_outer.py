import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import HIDDEN_TWELVE

from shards import geometry as geo
from shards.normalization import Normalization, preset
from xectrain.models.outer import OuterGrid

NORMS = [
    preset("standard"),
    preset("sqrt"),
    preset("legacy"),
    Normalization(scheme="anscombe"),
    Normalization(scheme="linear"),
]
POOLS = [(1, 1), (3, 3), (3, 5), (2, 3), (8, 9)]
OUTER = geo.face_channels("outer")


def values(seed: int, norm: Normalization, masked: float = 0.1) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    photons = torch.rand(3, 234, generator=draw) * 3000 + 1
    keep = torch.rand(3, 234, generator=draw) >= masked
    timed = (torch.rand(3, 234, generator=draw) < 0.7) & keep
    time = torch.where(timed, torch.rand(3, 234, generator=draw), norm.sentinel_time)
    return photons, norm.forward_npho(photons), time, timed, keep


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.scheme + str(norm.npho_scale))
@pytest.mark.parametrize("pool", POOLS, ids=str)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_photons_are_conserved(norm: Normalization, pool: tuple[int, int], seed: int) -> None:
    photons, npho, time, timed, keep = values(seed, norm)
    cells, _, visible = OuterGrid(pool, norm)(npho, time, timed, keep, norm.sentinel_time)
    found = torch.where(visible, norm.inverse_npho(cells), 0).sum(dim=1)
    torch.testing.assert_close(found, (photons * keep).sum(dim=1), rtol=1e-3, atol=0.1)


def test_a_cell_holds_its_share_of_its_sensor_and_the_sensors_time() -> None:
    norm = preset("standard")
    photons, npho, time, timed, keep = values(1, norm)
    cells, times, visible = OuterGrid((1, 1), norm)(npho, time, timed, keep, norm.sentinel_time)
    grid = geo.outer_fine_grid().ravel()
    for row, channel in ((0, 4092), (1, HIDDEN_TWELVE[0]), (2, 4185), (0, 4759)):
        o = list(OUTER).index(channel)
        mine = grid == channel
        share = photons[row, o] / geo.outer_fine_cells()[channel]
        assert mine.sum() == geo.outer_fine_cells()[channel]
        assert visible[row, mine].all() == keep[row, o]
        if keep[row, o]:
            torch.testing.assert_close(norm.inverse_npho(cells[row, mine]), share.expand(int(mine.sum())))
            expected = time[row, o] if timed[row, o] else norm.sentinel_time
            assert (times[row, mine] == expected).all()


def test_a_pooled_cell_sums_unmasked_cells_and_averages_valid_times() -> None:
    norm = preset("standard")
    photons, npho, time, timed, keep = values(2, norm, masked=0.4)
    fine = torch.from_numpy(geo.outer_fine_grid().astype("int64"))
    owner = torch.searchsorted(torch.from_numpy(OUTER.astype("int64")), fine)
    owned = torch.from_numpy(geo.outer_fine_cells()[OUTER].copy())
    cells, times, visible = OuterGrid((3, 3), norm)(npho, time, timed, keep, norm.sentinel_time)
    for p, row, column in ((0, 0, 0), (7 * 15 + 3, 7, 3), (11 * 15 + 6, 11, 6), (13 * 15 + 9, 13, 9)):
        nine = owner[3 * row : 3 * row + 3, 3 * column : 3 * column + 3].flatten()
        for event in range(3):
            shown = nine[keep[event, nine]]
            assert visible[event, p] == (len(shown) > 0)
            expected = (photons[event, shown] / owned[shown]).sum()
            found = norm.inverse_npho(cells[event, p])
            assert float(found) == pytest.approx(float(expected), rel=1e-3, abs=1e-3)
            good = nine[timed[event, nine]]
            mean = float(time[event, good].mean()) if len(good) else (norm.sentinel_time if len(shown) else 0.0)
            assert float(times[event, p]) == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.scheme + str(norm.npho_scale))
def test_masked_cells_are_zero_and_nothing_is_ever_infinite(norm: Normalization) -> None:
    lowest = max(norm.domain_minimum, -1e6)
    npho = norm.forward_npho(torch.full((2, 234), lowest))
    keep = torch.zeros(2, 234, dtype=torch.bool)
    keep[1] = True
    npho.requires_grad_()
    cells, times, visible = OuterGrid((3, 3), norm)(npho, torch.zeros(2, 234), keep, keep, norm.sentinel_time)
    assert not visible[0].any()
    assert visible[1].all()
    assert (cells[0] == 0).all()
    assert (times[0] == 0).all()
    assert cells.isfinite().all()
    cells.sum().backward()
    assert npho.grad is not None
    assert npho.grad.isfinite().all()
    assert (npho.grad[0] == 0).all()


def test_the_domain_is_not_left_when_pedestals_add_up() -> None:
    norm = preset("standard")
    assert not math.isinf(norm.domain_minimum)
    npho = norm.forward_npho(torch.full((1, 234), norm.domain_minimum))
    everything = torch.ones(1, 234, dtype=torch.bool)
    cells, _, _ = OuterGrid((8, 9), norm)(npho, torch.zeros(1, 234), everything, everything, 0.0)
    torch.testing.assert_close(cells, torch.full_like(cells, float(norm.forward_npho(norm.domain_minimum))))
