"""Positions, normals, coordinates: against the tables and against what the specification claims."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import geometry as geo
from shards.base import InputError

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
POSITIONS = DATA / "sensor_positions.txt"
SURVEY = DATA / "sensor_directions.txt"
needs_positions = pytest.mark.skipif(not POSITIONS.exists(), reason="table of nominal positions not on this machine")
needs_survey = pytest.mark.skipif(not SURVEY.exists(), reason="surveyed geometry not on this machine")

P = geo.nominal().positions
N = geo.nominal().normals
face_codes = geo.nominal().face


def mirrored_in_z() -> np.ndarray:
    """The channel at (x, y, −z) of each channel, found from the positions alone."""
    key = np.round(P, 4) + 0.0
    place = {tuple(p): i for i, p in enumerate(key)}
    return np.array([place[tuple(p)] for p in key * [1, 1, -1] + 0.0])


@needs_positions
def test_positions_agree_with_the_table_of_the_real_detector() -> None:
    table = np.loadtxt(POSITIONS)
    assert np.array_equal(table[:, 0], np.arange(4760))
    assert np.linalg.norm(table[:, 1:] - P, axis=1).max() < 0.0006  # 0.006 mm


@needs_survey
def test_survey_agrees_with_nominal_faces_normals_and_positions_within_its_shifts() -> None:
    survey = geo.load(SURVEY)
    assert np.array_equal(survey.face, face_codes)
    shift = np.linalg.norm(survey.positions - P, axis=1)
    assert 1.0 < shift[face_codes == geo.INNER].max() < 1.04
    assert shift[face_codes != geo.INNER].max() < 0.11
    assert np.einsum("ij,ij->i", survey.normals, N).min() > np.cos(0.02)


def test_face_counts_and_codes() -> None:
    assert geo.FACE_NAMES == ("inner", "outer", "upstream", "downstream", "top", "bottom")
    assert np.bincount(face_codes).tolist() == [4092, 234, 144, 144, 73, 73]
    assert [len(geo.face_channels(name)) for name in geo.FACE_NAMES] == [4092, 234, 144, 144, 73, 73]
    assert np.array_equal(np.sort(np.concatenate([geo.face_channels(n) for n in geo.FACE_NAMES])), np.arange(4760))


def test_no_two_sensors_share_a_place() -> None:
    assert len(np.unique(np.round(P, 3), axis=0)) == 4760


def test_the_detector_is_symmetric_in_z_and_in_y() -> None:
    partner = mirrored_in_z()
    assert np.array_equal(partner[partner], np.arange(4760))
    assert np.allclose(P[partner], P * [1, 1, -1], atol=1e-12)
    assert np.allclose(N[partner], N * [1, 1, -1], atol=1e-12)
    swapped = np.array([0, 1, 3, 2, 4, 5])  # upstream <-> downstream
    assert np.array_equal(face_codes[partner], swapped[face_codes])
    assert np.allclose(np.sort(P[:, 1]), -np.sort(P[:, 1])[::-1], atol=1e-12)


def test_normals_are_unit_and_point_into_the_xenon() -> None:
    assert np.allclose(np.linalg.norm(N, axis=1), 1, atol=1e-14)
    assert geo.inside(P + 0.5 * N).all()
    assert not geo.inside(P - 0.5 * N).any()


def test_normals_are_perpendicular_to_their_face() -> None:
    for name in ("inner", "outer_centre", "upstream", "downstream"):
        grid = geo.face_grid(name)
        along = P[grid[:, 1:]] - P[grid[:, :-1]]  # within a row, so in the face
        assert np.abs(np.einsum("abi,abi->ab", along, N[grid[:, 1:]])).max() < 1e-12
        across = P[grid[2:]] - P[grid[:-2]]  # the chord over a sensor is parallel to its tangent
        assert np.abs(np.einsum("abi,abi->ab", across, N[grid[1:-1]])).max() < 1e-12
    for name in ("top", "bottom"):
        channels = geo.face_channels(name)
        assert np.ptp(P[channels] @ N[channels[0]]) < 1e-12


def test_tangents_and_normal_make_a_right_handed_frame_with_the_first_along_z() -> None:
    first, second = geo.nominal().tangents
    frame = np.stack([first, second, N], axis=1)
    assert np.allclose(frame @ frame.transpose(0, 2, 1), np.eye(3), atol=1e-14)
    assert np.allclose(np.linalg.det(frame), 1)
    assert np.allclose(first[face_codes == geo.INNER], [0, 0, 1])


def test_constants_of_the_specification() -> None:
    derived = [geo.TAN_TILT, geo.W_MAX, geo.V_MAX]
    assert np.allclose(derived, [0.34963, 41.3, 71.17], rtol=0, atol=[1e-5, 1e-9, 0.005])


def test_known_channels_in_detector_coordinates() -> None:
    uvw = geo.uvw_from_xyz(P)
    assert np.allclose(uvw[face_codes == geo.INNER, 2], 0, atol=1e-12)
    assert np.allclose(uvw[face_codes == geo.OUTER, 2], geo.W_MAX)
    assert np.allclose(uvw[face_codes == geo.TOP, 1], geo.V_MAX)
    assert np.allclose(uvw[face_codes == geo.BOTTOM, 1], -geo.V_MAX)
    assert uvw[44 * 46 + 21] == pytest.approx([-0.5 * 66.43 / 44, 0, 0])
    assert (uvw[face_codes == geo.UPSTREAM, 0] < 0).all()
    assert (uvw[face_codes == geo.DOWNSTREAM, 0] > 0).all()


depth = st.floats(-60, 100)
azimuth_arc = st.floats(-200, 200)
length = st.floats(-100, 100)


@given(st.lists(st.tuples(length, azimuth_arc, depth), min_size=1, max_size=20))
def test_uvw_to_xyz_and_back(points: list[tuple[float, float, float]]) -> None:
    uvw = np.array(points)
    assert np.allclose(geo.uvw_from_xyz(geo.xyz_from_uvw(uvw)), uvw, atol=1e-9)


@given(st.lists(st.tuples(length, length, length), min_size=1, max_size=20))
def test_xyz_to_uvw_and_back(points: list[tuple[float, float, float]]) -> None:
    xyz = np.array(points)
    assert np.allclose(geo.xyz_from_uvw(geo.uvw_from_xyz(xyz)), xyz, atol=1e-9)


def test_coordinates_keep_shape_and_type_and_propagate_nan() -> None:
    points = np.ones((2, 5, 3), dtype=np.float32)
    assert geo.uvw_from_xyz(points).dtype == np.float32
    assert geo.xyz_from_uvw(points).shape == (2, 5, 3)
    assert geo.xyz_from_uvw([1, 2, 3]).dtype == np.float64
    assert np.isnan(geo.uvw_from_xyz([np.nan, 0.0, 1.0])).tolist() == [False, True, True]
    with pytest.raises(ValueError, match=r"last axis of 3, got shape \(2,\)"):
        geo.uvw_from_xyz([1.0, 2.0])


def test_inside_and_fiducial_volume() -> None:
    uvw = np.array(
        [[0, 0, 0], [0, 0, -0.1], [0, 0, 41.29], [0, 0, 41.4], [0, 71.1, 5], [0, 71.3, 5], [34.5, 0, 1], [47, 0, 41]]
    )
    assert geo.inside(geo.xyz_from_uvw(uvw)).tolist() == [True, False, True, False, True, False, False, True]
    uvw = np.array([[23.8, 67.8, 0], [24, 0, 1], [0, -68, 1], [0, 0, -0.1], [0, 0, 42], [-23.8, -67.8, 41]])
    assert geo.in_fiducial(uvw).tolist() == [True, False, False, False, True, True]


def test_shared_arrays_cannot_be_changed() -> None:
    shared = [
        *(getattr(geo.nominal(), name) for name in ("positions", "normals", "face")),
        *(geo.face_grid(name) for name in geo.GRID_NAMES),
        *(geo.face_channels(name) for name in geo.FACE_NAMES),
        geo.outer_fine_cells(), geo.nearest(3), geo.face_centres(), geo.unrolled().positions,
        geo.sensor_area(), geo.cell_area(),
        geo.hexagon("top").nodes, geo.hexagon("top").neighbours, geo.ring().start, geo.ring().channels,
        *geo.nominal_cylindrical(), geo.nominal_faces(),
    ]  # fmt: skip
    for array in shared:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


# ---------------------------------------------------------------------------------------------------- survey files


def write_table(path: Path, positions: np.ndarray = P, normals: np.ndarray = N, face: np.ndarray = face_codes) -> Path:
    rows = np.column_stack([np.arange(len(positions)), normals, positions, face])
    np.savetxt(path, rows, fmt="%d %.9g %.9g %.9g %.9g %.9g %.9g %d", header="id normal position face")
    return path


def test_a_written_geometry_is_read_back(tmp_path: Path) -> None:
    moved = geo.Geometry(P + np.random.default_rng(3).normal(0, 0.1, P.shape), N, face_codes, "moved.txt")
    geo.save(tmp_path / "moved.txt", moved)
    assert geo.load(tmp_path / "moved.txt") == moved
    assert geo.geometry_of(geo.survey_document(moved)) == moved
    assert geo.survey_document(geo.nominal()) is None
    assert geo.geometry_of(None) == geo.nominal()


def test_a_survey_file_is_read_back(tmp_path: Path) -> None:
    shifted = P + np.random.default_rng(1).normal(0, 0.1, P.shape)
    survey = geo.load(write_table(tmp_path / "survey.txt", shifted, 3 * N))
    assert np.allclose(survey.positions, shifted, atol=1e-6)
    assert np.allclose(survey.normals, N, atol=1e-8)
    assert survey.name == "survey.txt"
    assert survey != geo.nominal()


def test_the_digest_follows_the_content_not_the_layout_of_the_file(tmp_path: Path) -> None:
    lines = write_table(tmp_path / "a.txt").read_text().splitlines()
    (tmp_path / "b.txt").write_text("\n\n".join(lines[:0:-1]) + "  # the end\n")
    one, two = geo.load(tmp_path / "a.txt"), geo.load(tmp_path / "b.txt")
    assert one == two
    assert hash(one) == hash(two)
    moved = P.copy()
    moved[4759, 2] += 2e-6
    assert geo.Geometry(moved, N, face_codes, "moved").digest != geo.nominal().digest


def test_the_nominal_digest_is_pinned_because_manifests_hold_it() -> None:
    assert geo.nominal().digest == "3618bea2b55e48d2f2e4cf3cf46318cc660a7a5a0930a9c53c3145577880d5d5"


def test_a_geometry_survives_pickling_between_processes() -> None:
    back = pickle.loads(pickle.dumps(geo.nominal()))
    assert back == geo.nominal()
    assert np.array_equal(back.positions, P)


def test_a_geometry_of_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"normals: shape \(4759, 3\), expected \(4760, 3\)"):
        geo.Geometry(P, N[:-1], face_codes, "short")


def broken(path: Path, what: str) -> Path:
    positions, normals, face = P.copy(), N.copy(), face_codes.copy()
    if what == "far":
        positions[17] *= 10
    elif what == "outwards":
        normals[4100] *= -1
    elif what == "zero":
        normals[4100] = 0
    elif what == "face":
        face[4600] = 5
    write_table(path, positions, normals, face)
    lines = path.read_text().splitlines()
    if what == "missing":
        del lines[12]
    elif what == "twice":
        lines[12] = lines[13]
    elif what == "columns":
        lines[5] = "4 1.0 2.0 3.0"
    elif what == "words":
        lines[5] = "4 a b c d e f g"
    elif what == "nan":
        lines[5] = lines[5].replace(lines[5].split()[4], "nan")
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "far",
            r"survey\.txt: sensor 17: is far from its nominal position \(found .* cm away, expected at most 5 cm\)",
        ),
        ("outwards", r"sensor 4100: has a normal that does not point into the xenon"),
        ("zero", r"sensor 4100: has a normal that does not point into the xenon"),
        ("face", r"sensor 4600: has sensors on another face \(found face 5 \(1 sensors differ\), expected 4 \(top\)\)"),
        (
            "missing",
            r"do not name every channel exactly once \(found 4759 lines, 1 channels missing, first 11, expected ids 0",
        ),
        ("twice", r"do not name every channel exactly once \(found 4760 lines, 1 channels missing, first 11"),
        (
            "columns",
            r"survey\.txt: line 6: is not a line of a geometry table \(found '4 1.0 2.0 3.0', expected 8 finite",
        ),
        ("words", r"line 6: is not a line of a geometry table"),
        ("nan", r"line 6: is not a line of a geometry table"),
    ],
)
def test_a_table_that_is_not_this_detector_is_refused(tmp_path: Path, what: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        geo.load(broken(tmp_path / "survey.txt", what))


def test_a_missing_or_binary_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.txt: cannot be read as a geometry table"):
        geo.load(tmp_path / "nowhere.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00root")
    with pytest.raises(InputError, match="cannot be read as a geometry table"):
        geo.load(tmp_path / "binary")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="found 0 lines, 4760 channels missing, first 0"):
        geo.load(tmp_path / "empty.txt")
