"""The event display: what is drawn, where, and in which colour; and the command around it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from shards import geometry as geo
from shards.base import ConfigError, OutputError
from xectrain.display.event import event_figure, inpainting_figure, picture_bytes, save_figure
from xectrain.display.page import TIME_THRESHOLD
from xectrain.display.sensor_map import draw_sensors, sensor_outlines

TRUTH = np.array([5.0, -30.0, 2.5])
PREDICTION = np.array([6.1, -28.2, 4.0])


def shower(uvw: np.ndarray = TRUTH) -> tuple[np.ndarray, np.ndarray]:
    """npho and time of light from one point."""
    point = geo.xyz_from_uvw(uvw)
    npho = 6e4 * geo.solid_angle(point[None])[0] + 20
    distance = np.linalg.norm(geo.nominal().positions - point, axis=1)
    return npho, 2e-8 + distance * 1.2e-10


NPHO, TIME = shower()
DEAD = np.zeros(4760, dtype=bool)
DEAD[[0, 1, 1500, 4091, 4100, 4755]] = True


def maps(figure: Figure) -> list[Axes]:
    """The axes that show the detector, in the order they were drawn."""
    return [axes for axes in figure.axes if any(c.get_gid() == "sensors" for c in axes.collections)]


def collections(axes: Axes, gid: str) -> list[PolyCollection]:
    return [c for c in axes.collections if c.get_gid() == gid]


def shown(axes: Axes) -> np.ma.MaskedArray:
    """The value of every sensor in a map, masked where blank."""
    return np.ma.concatenate([c.get_array() for c in collections(axes, "sensors")])


def centres(parts: list[PolyCollection]) -> np.ndarray:
    return np.array([(path.vertices[:-1]).mean(axis=0) for part in parts for path in part.get_paths()])


def marks(axes: Axes, gid: str) -> np.ndarray:
    return np.unique(np.concatenate([[*line.get_xydata()] for line in axes.lines if line.get_gid() == gid]), axis=0)


def texts(figure: Figure) -> str:
    return "\n".join(
        [t.get_text() for t in figure.texts] + [t.get_text() for e in figure.legends for t in e.get_texts()]
    )


# ---------------------------------------------------------------------------------------------------- sensors


def test_photons_above_and_time_below_show_every_sensor_at_its_place() -> None:
    photons, times = maps(event_figure(NPHO, TIME))
    assert photons.get_position().y0 > times.get_position().y1
    for axes in (photons, times):
        sensors = collections(axes, "sensors")
        assert [len(c.get_paths()) for c in sensors] == [4092, 668]
        assert np.allclose(centres(sensors), geo.unrolled().positions, atol=1e-6)
        assert axes.get_aspect() == 1
    left, right = maps(event_figure(NPHO, TIME, side_by_side=True))
    assert left.get_position().x1 < right.get_position().x0


def test_sipms_are_squares_and_pmts_circles_of_their_true_size() -> None:
    outlines = sensor_outlines()
    assert len(outlines) == 4760
    square, circle = outlines[7], outlines[4100]
    assert np.ptp(square, axis=0) == pytest.approx([1.23, 1.23])
    assert len(square) == 4
    assert np.hypot(*(circle - geo.unrolled().positions[4100]).T) == pytest.approx(2.3)
    assert len(circle) > 24


def test_photons_are_drawn_in_logarithmic_colour_and_nothing_is_the_darkest() -> None:
    npho = NPHO.copy()
    npho[[3, 4, 5, 6]] = [0.0, -4.0, np.nan, 1e10]
    axes = maps(event_figure(npho, TIME))[0]
    values = shown(axes)
    assert values.mask.nonzero()[0].tolist() == [5, 6]
    assert np.allclose(values[7:], npho[7:])
    sipms = collections(axes, "sensors")[0]
    assert isinstance(sipms.norm, matplotlib.colors.LogNorm)
    assert sipms.norm.vmax == pytest.approx(NPHO.max())
    axes.figure.draw_without_rendering()
    colors = sipms.get_facecolor()
    assert np.array_equal(colors[3], sipms.cmap(0.0))
    assert np.array_equal(colors[4], sipms.cmap(0.0))
    assert np.array_equal(colors[5], sipms.cmap.get_bad())


def test_both_kinds_of_sensor_share_one_scale() -> None:
    for axes in maps(event_figure(NPHO, TIME)):
        sipms, pmts = collections(axes, "sensors")
        assert sipms.norm is pmts.norm
        assert sipms.cmap == pmts.cmap


def test_times_count_from_the_first_bright_sensor_and_only_bright_sensors_have_one() -> None:
    time = TIME.copy()
    bright = np.flatnonzero(NPHO >= TIME_THRESHOLD)
    time[bright[:2]] = [1e10, np.nan]
    axes = maps(event_figure(NPHO, time))[1]
    values = shown(axes)
    drawn = NPHO >= TIME_THRESHOLD
    drawn[bright[:2]] = False
    assert 100 < drawn.sum() < 4000
    assert np.array_equal(~np.ma.getmaskarray(values), drawn)
    zero = np.percentile(time[drawn], 0.5)
    assert np.allclose(values[drawn], (time[drawn] - zero) * 1e9)
    assert collections(axes, "sensors")[0].norm.vmin == 0


def test_panels_can_be_chosen() -> None:
    (only,) = maps(event_figure(NPHO, TIME, panels=["time"]))
    assert np.ma.getmaskarray(shown(only)).any()
    with pytest.raises(ConfigError, match=r"panels: there is no panel 'charge' .expected npho or time"):
        event_figure(NPHO, TIME, panels=["charge"])


def test_a_surveyed_geometry_moves_the_sensors() -> None:
    nominal = geo.nominal()
    moved = geo.Geometry(nominal.positions + np.array([0, 0, 1.0]), nominal.normals, nominal.face, "moved")
    axes = maps(event_figure(NPHO, TIME, geometry=moved))[0]
    shift = centres(collections(axes, "sensors")) - geo.unrolled().positions
    flat = np.isin(nominal.face, [geo.INNER, geo.OUTER, geo.TOP, geo.BOTTOM])
    assert np.allclose(shift[flat], [1, 0], atol=1e-6)


@pytest.mark.parametrize("npho", [np.full(4760, np.nan), np.zeros(4760), np.full(4760, -1.0), np.eye(1, 4760)[0]])
def test_events_without_light_are_drawn_too(npho: np.ndarray) -> None:
    figure = event_figure(npho, np.full(4760, 1e10), dead=np.isnan(npho))
    figure.draw_without_rendering()
    assert len(maps(figure)) == 2


def test_arrays_of_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sensor values: shape \(4759,\), expected \(4760,\)"):
        event_figure(NPHO[:-1], TIME)
    with pytest.raises(ValueError, match=r"sensor flags: shape \(2,\)"):
        event_figure(NPHO, TIME, dead=[True, False])
    with pytest.raises(ValueError, match=r"values: shape \(1, 4760\)"):
        draw_sensors(
            Figure().subplots(), NPHO[None], cmap=matplotlib.colormaps["magma"], norm=matplotlib.colors.Normalize()
        )


# ---------------------------------------------------------------------------------------------------- dead, markers


def test_dead_sensors_are_hatched_at_their_place_and_have_no_colour() -> None:
    figure = event_figure(NPHO, TIME, dead=DEAD)
    for axes in maps(figure):
        overlays = collections(axes, "dead")
        assert sum(len(c.get_paths()) for c in overlays) == DEAD.sum()
        assert all("/" in c.get_hatch() for c in overlays)
        assert np.allclose(centres(overlays), geo.unrolled().positions[DEAD], atol=1e-6)
        assert np.ma.getmaskarray(shown(axes))[DEAD].all()
    assert "dead" in texts(figure)


def test_nothing_is_hatched_where_nothing_is_dead() -> None:
    figure = event_figure(NPHO, TIME, dead=np.zeros(4760, dtype=bool))
    assert not any(c.get_hatch() for axes in maps(figure) for c in axes.collections)
    assert "dead" not in texts(figure)


def test_a_dead_sensor_with_a_huge_value_does_not_spoil_the_scale() -> None:
    npho = np.where(DEAD, 8e9, NPHO)
    assert collections(maps(event_figure(npho, TIME, dead=DEAD))[0], "sensors")[0].norm.vmax < 1e6


def test_markers_stand_at_the_foot_of_the_point_on_every_face() -> None:
    figure = event_figure(NPHO, TIME, truth=TRUTH, prediction=PREDICTION, conventional=[1, 2, 3])
    for axes in maps(figure):
        for gid, point in (("truth", TRUTH), ("prediction", PREDICTION), ("conventional", [1, 2, 3])):
            feet = np.array([geo.project(point, face) for face in range(6)])
            assert np.allclose(marks(axes, gid), np.unique(feet, axis=0))
    assert "truth: u, v, w = 5.00, -30.00, 2.50 cm" in texts(figure)
    assert "prediction: 6.10, -28.20, 4.00 cm" in texts(figure)


def test_the_marker_of_the_truth_is_on_the_brightest_spot_of_the_inner_face() -> None:
    axes = maps(event_figure(NPHO, TIME, truth=TRUTH))[0]
    on_inner = next(line.get_xydata()[0] for line in axes.lines if line.get_gid() == "truth")
    brightest = centres(collections(axes, "sensors")[:1])[NPHO[:4092].argmax()]
    assert np.abs(on_inner - brightest).max() < 1.6  # a pitch
    assert on_inner == pytest.approx(TRUTH[:2])


def test_unknown_points_are_not_marked() -> None:
    figure = event_figure(NPHO, TIME, truth=[np.nan, 1, 2], prediction=None)
    assert not any(line.get_gid() == "truth" for axes in maps(figure) for line in axes.lines)
    assert "truth" not in texts(figure)


def test_a_title_of_several_lines_stays_above_the_maps() -> None:
    figure = event_figure(NPHO, TIME, title="run 1\nevent 2\nloss 3")
    figure.draw_without_rendering()
    (title,) = [t for t in figure.texts if t.get_text().startswith("run 1")]
    box = title.get_window_extent().transformed(figure.transFigure.inverted())
    assert box.y0 > maps(figure)[0].get_position().y1
    assert box.y1 <= 1


@pytest.mark.parametrize("side_by_side", [False, True])
def test_nothing_sticks_out_of_the_page(side_by_side: bool) -> None:
    corner = [-33.4, -71.1, 41.2]
    options: dict[str, Any] = {"dead": DEAD, "truth": corner, "prediction": corner, "conventional": corner}
    figure = event_figure(NPHO, TIME, title="run 1, event 2", side_by_side=side_by_side, **options)
    figure.draw_without_rendering()
    lettering = [*figure.legends, *figure.texts, *(t for a in figure.axes for t in a.texts if t.get_text())]
    for artist in lettering:
        low, high = artist.get_window_extent().get_points()
        assert (low >= 0).all(), artist
        assert (high <= figure.bbox.max).all(), artist


# ---------------------------------------------------------------------------------------------------- inpainting


def test_inpainting_rows_are_truth_masked_input_prediction_difference() -> None:
    mask = np.zeros(4760, dtype=bool)
    mask[[10, 2000, 2001, 4200]] = True
    figure = inpainting_figure(NPHO, TIME, mask, 1.1 * NPHO, TIME + 2e-10, dead=DEAD, truth=TRUTH)
    axes = maps(figure)
    assert len(axes) == 8
    photons, times = axes[0::2], axes[1::2]
    alive = ~DEAD
    assert np.allclose(shown(photons[0])[alive], NPHO[alive])
    assert np.ma.getmaskarray(shown(photons[1])).nonzero()[0].tolist() == sorted([*np.flatnonzero(mask | DEAD)])
    overlay = collections(photons[1], "masked")
    assert np.allclose(centres(overlay), geo.unrolled().positions[mask], atol=1e-6)
    assert all("x" in c.get_hatch() for c in overlay)
    assert np.allclose(shown(photons[2])[alive], np.where(mask, 1.1 * NPHO, NPHO)[alive])
    assert np.allclose(shown(photons[3]).compressed(), 10)  # percent
    assert (~np.ma.getmaskarray(shown(photons[3]))).nonzero()[0].tolist() == np.flatnonzero(mask).tolist()
    bright = mask & (NPHO >= TIME_THRESHOLD)
    assert np.allclose(shown(times[3]).compressed(), 0.2)  # ns
    assert (~np.ma.getmaskarray(shown(times[3]))).nonzero()[0].tolist() == np.flatnonzero(bright).tolist()
    assert photons[3].get_position().y1 < photons[2].get_position().y0
    assert collections(photons[0], "sensors")[0].norm == collections(photons[2], "sensors")[0].norm


def test_inpainting_without_times_and_with_unknown_truth() -> None:
    mask = np.zeros(4760, dtype=bool)
    mask[[10, 11]] = True
    npho = NPHO.copy()
    npho[10] = np.nan
    axes = maps(inpainting_figure(npho, TIME, mask, NPHO))
    assert len(axes) == 4
    assert not np.ma.getmaskarray(shown(axes[2]))[10]
    assert np.ma.getmaskarray(shown(axes[3]))[10]


# ---------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(("suffix", "magic"), [(".pdf", b"%PDF"), (".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_equal_events_give_equal_files(tmp_path: Path, suffix: str, magic: bytes) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
    for path in paths:
        assert save_figure(event_figure(NPHO, TIME, panels=["npho"], dead=DEAD), path) == path
    one, two = (path.read_bytes() for path in paths)
    assert one.startswith(magic)
    assert one == two
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)


def test_hatching_and_markers_are_to_be_seen() -> None:
    plain = picture_bytes(event_figure(NPHO, TIME, panels=["npho"]), "x.png")
    assert picture_bytes(event_figure(NPHO, TIME, panels=["npho"], dead=DEAD), "x.png") != plain
    assert picture_bytes(event_figure(NPHO, TIME, panels=["npho"], truth=TRUTH), "x.png") != plain


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"event\.jpg: is not the name of a picture file \(found \.jpg, expected \.pdf"
    ):
        save_figure(Figure(), tmp_path / "event.jpg")
    with pytest.raises(ConfigError, match="found no suffix"):
        save_figure(Figure(), tmp_path / "event")
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from matplotlib.figure import Figure
from xectrain.display.event import save_figure
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
save_figure(Figure(), sys.argv[1])
"""


def test_a_kill_while_writing_leaves_the_old_picture(tmp_path: Path) -> None:
    path = tmp_path / "event.png"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    save_figure(Figure(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["event.png"]  # what the killed one left is gone


def test_an_error_while_writing_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "event.pdf"
    path.write_bytes(b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"event\.pdf: cannot be written: No space left on device"):
        save_figure(Figure(), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["event.pdf"]
