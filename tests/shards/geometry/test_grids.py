"""Grids, hexagonal lattice and neighbour lists are what the positions say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from shards import geometry as geo
from shards.base import ConfigError

P = geo.nominal().positions
UVW = geo.uvw_from_xyz(P)
PHI = UVW[:, 1] / geo.R_INNER
face_codes = geo.nominal().face

SHAPES = {
    "inner": (93, 44),
    "outer_coarse": (24, 9),
    "outer_centre": (6, 5),
    "upstream": (24, 6),
    "downstream": (24, 6),
    "outer_fine": (72, 45),
}


@pytest.mark.parametrize("name", geo.GRID_NAMES)
def test_grids_have_their_shape_and_their_face(name: str) -> None:
    grid = geo.face_grid(name)
    assert grid.shape == SHAPES[name]
    assert grid.dtype == np.int32
    assert (face_codes[grid] == geo.FACE_NAMES.index(name.split("_")[0])).all()


@pytest.mark.parametrize(("name", "axis"), [("inner", 0), ("outer_centre", 0), ("upstream", 2), ("downstream", 2)])
def test_phi_falls_along_rows_and_z_or_r_rises_along_columns_with_even_pitch(name: str, axis: int) -> None:
    grid = geo.face_grid(name)
    assert (np.diff(PHI[grid], axis=0) < 0).all()
    assert (np.diff(UVW[grid, axis], axis=1) > 0).all()
    assert np.ptp(np.diff(PHI[grid], axis=0)) < 1e-12
    assert np.ptp(np.diff(UVW[grid, axis], axis=1)) < 1e-12
    assert np.ptp(PHI[grid], axis=1).max() < 1e-12


def test_coarse_grid_follows_the_positions_except_for_the_twelve_in_the_patch() -> None:
    grid = geo.face_grid("outer_coarse")
    in_patch = np.isin(grid, geo.face_grid("outer_centre"))
    assert np.array_equal(np.argwhere(in_patch), [(k, j) for k in range(10, 14) for j in range(3, 6)])
    phi = (11.5 - np.arange(24)) * geo.PHI_RANGE / 24
    z = (np.arange(9) - 4) * 10.356
    off = np.hypot(106.27 * (PHI[grid] - phi[:, None]), UVW[grid, 0] - z)
    assert off[~in_patch].max() < 1e-9
    assert off[in_patch].max() > 2  # (k = 11, j = 4) and (12, 4) sit almost at their coarse place, the others do not


def test_channels_fall_in_phi_with_their_number_as_the_grids_do() -> None:
    assert np.array_equal(geo.face_grid("inner").ravel(), np.arange(4092))
    assert np.array_equal(geo.face_grid("upstream").ravel(), np.arange(4308, 4452))
    assert np.array_equal(geo.face_grid("downstream").ravel(), np.arange(4452, 4596))


def test_an_unknown_grid_or_face_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"inner_fine: is not a face grid; did you mean 'outer_fine'"):
        geo.face_grid("inner_fine")
    with pytest.raises(ConfigError, match=r"topp: is not a face; did you mean 'top'"):
        geo.face_channels("topp")
    with pytest.raises(ConfigError, match="inner: is not a hexagonal face"):
        geo.hexagon("inner")


# ---------------------------------------------------------------------------------------------------- outer fine grid


def test_fine_grid_shows_every_outer_sensor_once_in_one_rectangle() -> None:
    grid = geo.outer_fine_grid()
    assert grid.shape == (72, 45)
    assert np.array_equal(np.unique(grid), geo.face_channels("outer"))
    assert len(np.unique(grid)) == 234
    for channel in np.unique(grid):
        rows, columns = np.nonzero(grid == channel)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height * width == len(rows)
        assert (height, width) == ((2, 3) if channel in geo.face_grid("outer_centre") else (3, 5))


@pytest.mark.parametrize("channels", [range(4174, 4178), range(4198, 4202), range(4222, 4226)])
def test_the_twelve_that_an_older_map_hid_are_there_with_all_their_cells(channels: range) -> None:
    assert geo.outer_fine_cells()[list(channels)].tolist() == [15] * 4
    assert np.isin(list(channels), geo.outer_fine_grid()).all()


def test_centroid_of_the_cells_is_within_0_03_of_the_sensor() -> None:
    grid = geo.outer_fine_grid()
    row, column = np.indices(grid.shape)
    cell_arc = (35.5 - row) * geo.PHI_RANGE / 72 * geo.R_OUTER
    cell_z = (column - 22) * 10.356 / 5
    for channel in np.unique(grid):
        own = grid == channel
        assert abs(cell_arc[own].mean() - PHI[channel] * geo.R_OUTER) < 1e-9
        assert abs(cell_z[own].mean() - P[channel, 2]) < 0.03


def test_every_cell_lies_in_the_area_of_its_sensor() -> None:
    grid = geo.outer_fine_grid()
    row, column = np.indices(grid.shape)
    patch = np.isin(grid, geo.face_grid("outer_centre"))
    assert np.array_equal(np.argwhere(patch)[[0, -1]], [(30, 15), (41, 29)])
    assert patch.sum() == 180
    phi_off = np.abs((35.5 - row) * geo.PHI_RANGE / 72 - PHI[grid])
    z_off = np.abs((column - 22) * 10.356 / 5 - P[grid, 2])
    assert (phi_off <= np.where(patch, 1, 1.5) * geo.PHI_RANGE / 72).all()
    assert (z_off <= np.where(patch, 6.2, 10.356) / 2).all()


def test_cell_counts() -> None:
    cells = geo.outer_fine_cells()
    assert cells.shape == (4760,)
    assert np.array_equal(np.unique(cells, return_counts=True), [[0, 6, 15], [4526, 30, 204]])
    assert cells.sum() == 72 * 45


# ---------------------------------------------------------------------------------------------------- hexagons

UNIT_STEPS = np.array([(6.12, 0), (3.06, 6.91), (-3.06, 6.91), (-6.12, 0), (-3.06, -6.91), (3.06, -6.91)])


@pytest.mark.parametrize("face", ["top", "bottom"])
def test_hexagonal_neighbours_are_all_sensors_at_6_12_or_7_56_and_no_others(face: str) -> None:
    graph = geo.hexagon(face)
    distance = cdist(P[graph.nodes], P[graph.nodes])
    near = (np.abs(distance - 6.12) < 0.01) | (np.abs(distance - 7.56) < 0.01)
    adjacency = np.zeros_like(near)
    adjacency[tuple(graph.edges.T)] = True
    assert np.array_equal(adjacency, near)
    assert len(graph.edges) == 366
    assert (adjacency == adjacency.T).all()


@pytest.mark.parametrize("face", ["top", "bottom"])
def test_each_direction_is_one_physical_step(face: str) -> None:
    graph = geo.hexagon(face)
    plane = np.stack([P[graph.nodes, 2], np.hypot(P[graph.nodes, 0], P[graph.nodes, 1])], axis=1)
    assert np.allclose(plane, graph.plane)
    for direction, step in enumerate(UNIT_STEPS):
        here = np.flatnonzero(graph.neighbours[:, direction] >= 0)
        there = graph.neighbours[here, direction]
        assert len(here) > 50
        assert np.allclose(plane[there] - plane[here], step, atol=1e-9)
        assert np.array_equal(graph.neighbours[there, (direction + 3) % 6], here)  # the opposite leads back
        name = geo.DIRECTIONS[direction]
        assert ("+z" in name) == (step[0] > 0)
        assert ("+r" in name) == (step[1] > 0)
        assert ("-r" in name) == (step[1] < 0)


def test_both_faces_have_the_same_graph() -> None:
    top, bottom = geo.hexagon("top"), geo.hexagon("bottom")
    assert np.array_equal(top.neighbours, bottom.neighbours)
    assert np.array_equal(top.nodes + 73, bottom.nodes)
    assert (top.neighbours >= 0).sum(axis=1).max() == 6
    assert top.nodes.shape == (73,)


# ---------------------------------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize("across_faces", [False, True])
@pytest.mark.parametrize("k", [1, 8, 72])
def test_nearest_agrees_with_the_full_distance_matrix(k: int, across_faces: bool) -> None:
    lists = geo.nearest(k, across_faces)
    assert lists.shape == (4760, k)
    assert lists.dtype == np.int32
    for channel in [0, 43, 2046, 4091, 4092, 4185, 4200, 4308, 4451, 4595, 4596, 4630, 4741, 4742, 4759]:
        allowed = (np.ones(4760, bool) if across_faces else face_codes == face_codes[channel]) & (
            np.arange(4760) != channel
        )
        distance = np.linalg.norm(P - P[channel], axis=1)
        best = sorted(np.flatnonzero(allowed), key=lambda i: (round(distance[i], 6), i))[:k]
        assert lists[channel].tolist() == best


def test_nearest_refuses_more_than_a_face_holds() -> None:
    with pytest.raises(ConfigError, match=r"k: there are not that many nearest sensors \(found 73, expected 1…72\)"):
        geo.nearest(73)
    assert geo.nearest(73, across_faces=True).shape == (4760, 73)
    with pytest.raises(ConfigError, match="found 0"):
        geo.nearest(0)


def test_nearest_across_faces_leaves_the_face_at_its_border_only() -> None:
    lists = geo.nearest(4, across_faces=True)
    leaves = (face_codes[lists] != face_codes[:, None]).any(axis=1)
    assert leaves[geo.face_grid("upstream")[:, 0]].all()  # next to the densely covered inner face
    assert not leaves[geo.face_grid("inner")[10:-10, 10:-10]].any()


@pytest.mark.parametrize("across_faces", [False, True])
def test_within_is_every_sensor_closer_than_the_radius(across_faces: bool) -> None:
    lists = geo.within(20.0, across_faces)
    for channel in [0, 2046, 4185, 4308, 4630, 4759]:
        near = np.linalg.norm(P - P[channel], axis=1) <= 20
        near[channel] = False
        if not across_faces:
            near &= face_codes == face_codes[channel]
        assert np.array_equal(lists.of(channel), np.flatnonzero(near))
    assert lists.start[-1] == len(lists.channels)


def test_ring_is_symmetric_and_stays_on_the_face() -> None:
    ring = geo.ring()
    source = np.repeat(np.arange(4760), np.diff(ring.start))
    pairs = set(zip(source.tolist(), ring.channels.tolist(), strict=True))
    assert all((b, a) in pairs for a, b in pairs)
    assert np.array_equal(face_codes[source], face_codes[ring.channels])
    assert (source != ring.channels).all()
    assert len(pairs) == len(source)


def test_ring_of_known_sensors() -> None:
    ring = geo.ring()
    centre = 44 * 46 + 20
    assert ring.of(centre).tolist() == [centre + 44 * i + j for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    assert ring.of(0).tolist() == [1, 44, 45]
    assert len(ring.of(4643)) == 6
    assert ring.of(4744).tolist() == [
        4184,
        4185,
        4193,
        4194,
        4742,
        4745,
        4749,
    ]  # left edge of the patch, coarse at left


def test_face_centres() -> None:
    centres = geo.face_centres()
    assert centres.shape == (6, 3)
    assert np.allclose(centres[[geo.INNER, geo.OUTER, geo.TOP, geo.BOTTOM], 2], 0, atol=1e-12)
    assert np.allclose(centres[geo.UPSTREAM], centres[geo.DOWNSTREAM] * [1, 1, -1])
    assert np.allclose(centres[geo.TOP], centres[geo.BOTTOM] * [1, -1, 1])
    assert centres[geo.INNER, 0] == pytest.approx(P[:4092, 0].mean())


# ---------------------------------------------------------------------------------------------------- areas, unrolling


def test_cells_tile_their_faces() -> None:
    cell = geo.cell_area()
    assert (geo.sensor_area() < cell).all()
    assert cell[face_codes == geo.INNER].sum() == pytest.approx(geo.R_INNER * geo.PHI_RANGE * 66.43)
    assert cell[face_codes == geo.OUTER].sum() == pytest.approx(geo.R_OUTER * geo.PHI_RANGE * 9 * 10.356)
    grid = geo.face_grid("downstream")
    slant = np.linalg.norm(P[grid[:, 1:]] - P[grid[:, :-1]], axis=2)
    arc = np.hypot(P[grid, 0], P[grid, 1]) * geo.PHI_RANGE / 24
    assert np.allclose(cell[grid], arc * slant[0, 0])
    assert geo.sensor_area()[[0, 4092]] == pytest.approx([1.3924, np.pi * 2.3**2])


def radii() -> np.ndarray:
    return np.where(np.arange(4760) < 4092, 0.615, 2.3)


def test_unrolled_sensors_do_not_overlap() -> None:
    flat, size = geo.unrolled().positions, radii()
    for code in range(6):
        own = np.flatnonzero(face_codes == code)
        distance = cdist(flat[own], flat[own]) + 1e3 * np.eye(len(own))
        assert distance.min() > 2 * size[own[0]]
    first = cdist(flat[face_codes == geo.INNER], flat[face_codes != geo.INNER])
    assert first.min() > 3


def test_unrolled_sensors_lie_in_their_panel() -> None:
    shape = geo.unrolled()
    for code, panel in enumerate(shape.panels):
        assert panel.name == geo.FACE_NAMES[code]
        edges = np.roll(panel.outline, -1, axis=0) - panel.outline
        for point in shape.positions[face_codes == code]:
            away = point - panel.outline
            assert (edges[:, 0] * away[:, 1] - edges[:, 1] * away[:, 0] > 0).all()  # left of every side


def test_panels_do_not_overlap_and_keep_their_side() -> None:
    panels = {panel.name: panel.outline for panel in geo.unrolled().panels}
    assert panels["upstream"][:, 0].max() < panels["inner"][:, 0].min()
    assert panels["downstream"][:, 0].min() > panels["inner"][:, 0].max()
    assert panels["outer"][:, 0].min() > panels["downstream"][:, 0].max()
    assert panels["top"][:, 1].min() > panels["inner"][:, 1].max()
    assert panels["bottom"][:, 1].max() < panels["inner"][:, 1].min()


def test_unrolling_keeps_distances_along_a_face() -> None:
    flat = geo.unrolled().positions
    for face in ("top", "bottom"):
        own = geo.face_channels(face)
        assert np.allclose(cdist(flat[own], flat[own]), cdist(P[own], P[own]), atol=1e-9)
    for name in ("upstream", "downstream"):
        grid = geo.face_grid(name)
        along = np.linalg.norm(flat[grid[:, 1:]] - flat[grid[:, :-1]], axis=2)
        assert np.allclose(along, np.linalg.norm(P[grid[:, 1:]] - P[grid[:, :-1]], axis=2))
    inner = geo.face_grid("inner")
    assert np.allclose(flat[inner], np.stack([UVW[inner, 0], UVW[inner, 1]], axis=-1))


def test_projection_of_a_sensor_is_its_place() -> None:
    for code in range(6):
        own = face_codes == code
        assert np.allclose(geo.project(UVW[own], code), geo.unrolled().positions[own])
    with pytest.raises(ValueError, match="face code 6"):
        geo.project([0, 0, 0], 6)
