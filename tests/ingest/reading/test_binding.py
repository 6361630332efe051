"""What the branches of a file mean: units, codes, missing values, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from support.ingest_files import S, events, write_tree
from support.reading import joined, read

from ingest.reading.rootio import open_sources, read_chunks
from ingest.reading.schema import load_schema
from shards.base import InputError


def test_units_scales_and_codes(tmp_path: Path) -> None:
    text = (
        "extends: mc\nsensors:\n  npho: {branches: [light], scale: 2}\n  time: {branches: [t_ns], unit: ns}\n"
        "columns:\n- {names: [energy], branches: [e], unit: MeV, invalid: [-999]}\n"
    )
    (tmp_path / "s.yaml").write_text(text)
    light = np.full((3, S), 5, "f4")
    light[0, 0], light[0, 1] = 1e10, np.nan
    path = write_tree(
        tmp_path / "u.root",
        {"light": light, "t_ns": np.where(light == 5, 20, 1e10).astype("f4"), "e": np.array([52.8, -999.0, 1e10])},
    )
    (source,) = open_sources([path], schema=str(tmp_path / "s.yaml"))
    (chunk,) = read_chunks(source)
    assert chunk.npho[1, 1] == 10
    assert chunk.npho[0, 0] == np.float32(1e10), "a code is not scaled away"
    assert np.isnan(chunk.npho[0, 1])
    assert chunk.time[1, 1] == np.float32(20e-9)
    assert chunk.time[0, 0] == np.float32(1e10)
    np.testing.assert_allclose(chunk.columns["energy"], [0.0528, np.nan, np.nan])
    assert chunk.invalid == {"energy": 2}


def test_relative_times_are_known_as_such_and_come_first(tmp_path: Path) -> None:
    tree = events(2)
    tree["time"] = tree["relative_time"] + 1
    path = write_tree(tmp_path / "t.root", tree)
    (source,) = open_sources([path])
    assert source.binding.relative
    np.testing.assert_array_equal(read(path)[1], tree["relative_time"])
    del tree["relative_time"]
    assert not open_sources([write_tree(tmp_path / "u.root", tree)])[0].binding.relative


def test_dead_branch_missing_times_and_filled_numbers(tmp_path: Path) -> None:
    dead = np.zeros((2, S), np.uint8)
    dead[1, 7] = 1
    path = write_tree(tmp_path / "t.root", {"npho": np.ones((2, S), "f4"), "dead": dead})
    (chunk,) = read_chunks(open_sources([path], schema="sensors-only")[0])
    assert chunk.dead is not None
    assert np.argwhere(chunk.dead).tolist() == [[1, 7]]
    assert np.isnan(chunk.time).all()
    np.testing.assert_array_equal(chunk.columns["event"], [0, 1])
    (tmp_path / "l.txt").write_text("431 t.root\n")
    (chunk,) = read_chunks(open_sources([tmp_path / "l.txt"], schema="sensors-only")[0])
    np.testing.assert_array_equal(chunk.columns["run"], [431, 431])


def test_the_run_of_a_list_takes_the_place_of_the_branch(tmp_path: Path) -> None:
    tree = events(2)
    del tree["run"]
    write_tree(tmp_path / "t.root", tree)
    with pytest.raises(InputError, match=r"t\.root: tree: has no branch for run \(expected 'run'\)"):
        open_sources([tmp_path / "t.root"], schema="real")
    (tmp_path / "l.txt").write_text("431 t.root\n")
    assert open_sources([tmp_path / "l.txt"], schema="real")[0].columns[:2] == ("run", "event")


def test_carried_patterns_take_scalar_numbers_that_nothing_else_has(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("extends: mc\ncarry: ['*']\n")
    path = write_tree(tmp_path / "t.root", {**events(2), "qa": np.arange(2.0), "xyz": np.ones((2, 3))})
    (source,) = open_sources([path], schema=str(tmp_path / "s.yaml"))
    assert [c.name for c in source.binding.columns if c.carried] == ["qa"]


def test_missing_branches_are_named_with_the_nearest(tmp_path: Path) -> None:
    tree = events(2)
    tree["nphoton"] = tree.pop("npho")
    path = write_tree(tmp_path / "t.root", tree)
    with pytest.raises(
        InputError, match=r"tree: has no branch for npho \(expected 'npho' or 'relative_npho'\); did you mean 'nphoton'"
    ):
        open_sources([path])


def test_wrong_numbers_of_values_are_refused(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "t.root", {"npho": np.ones((2, 4092), "f4"), "time": np.ones((2, S), "f4")})
    with pytest.raises(
        InputError, match=r"tree/npho: has the wrong number of values \(found 4092 values per event, expected 4760\)"
    ):
        open_sources([path])
    path = tmp_path / "j.root"
    with uproot.recreate(path) as out:
        tree = out.mktree("tree", {"npho": "var * float32", "time": np.dtype(("f4", (S,)))})
        lengths = [S, S, S - 1]
        tree.extend({"npho": ak.unflatten(np.ones(sum(lengths), "f4"), lengths), "time": np.ones((3, S), "f4")})
    (source,) = open_sources([path])
    with pytest.raises(
        InputError, match=r"tree/npho: has the wrong number of values \(found 4759 values in entry 2, expected 4760\)"
    ):
        list(read_chunks(source))


def test_text_branches_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.root"
    with uproot.recreate(path) as out:
        out["tree"] = {"npho": ["a", "b"], "time": np.ones((2, S), "f4")}
    with pytest.raises(InputError, match=r"tree/npho: does not hold numbers"):
        open_sources([path])


def test_run_numbers_must_be_numbers(tmp_path: Path) -> None:
    tree = {**events(3), "run": np.array([1.0, np.nan, 1.0])}
    (source,) = open_sources([write_tree(tmp_path / "t.root", tree)])
    with pytest.raises(InputError, match=r"tree/run: run number of entry 1 is not a whole number \(found nan\)"):
        list(read_chunks(source))


def test_presets_read_what_the_other_names_mean(tmp_path: Path) -> None:
    tree = {
        "relative_npho": np.ones((2, S), "f4"),
        "time": np.ones((2, S), "f4"),
        "angleVec": np.ones((2, 2)),
        "run": np.ones(2),
    }
    (source,) = open_sources([write_tree(tmp_path / "t.root", tree)], schema=load_schema("mc"))
    assert source.binding.npho.branch == "relative_npho"
    assert source.columns == ("run", "event", "theta", "phi")


def test_a_schema_that_names_only_the_last_part_of_nested_names_finds_them(tmp_path: Path) -> None:
    path = tmp_path / "r.root"
    tree = events(5)
    with uproot.recreate(path) as out:
        record = ak.zip(
            {"npho": ak.from_numpy(tree["npho"]), "time": ak.from_numpy(tree["relative_time"])}, depth_limit=1
        )
        out["tree"] = {"det": record, "run": tree["run"], "event": tree["event"]}
    (source,) = open_sources([path])
    assert source.binding.npho.branch == "det.npho"
    np.testing.assert_array_equal(joined(list(read_chunks(source)))[0], tree["npho"])


def test_integers_have_no_mark_for_missing_and_are_kept_exactly(tmp_path: Path) -> None:
    stamps = np.array([2**53, 10**10, -(10**12)])
    tree = {**events(3), "event": np.arange(3) + 2**40, "stamp": stamps, "code": np.array([1.0, 1e10, 3.0])}
    path = write_tree(tmp_path / "t.root", tree)
    (tmp_path / "s.yaml").write_text("extends: mc\ncarry: [{branches: [stamp], invalid: [1e10]}, code]\n")
    _, _, columns = read(path, str(tmp_path / "s.yaml"))
    np.testing.assert_array_equal(columns["stamp"], [2.0**53, np.nan, -1e12])
    np.testing.assert_array_equal(columns["event"], np.arange(3) + 2**40)
    np.testing.assert_array_equal(columns["code"], [1, np.nan, 3])
    write_tree(path, {**tree, "event": np.array([0, 2**62 + 1, -(2**53) - 1])})
    assert read(path)[2]["event"].tolist() == [0, 2**62 + 1, -(2**53) - 1]
    write_tree(path, {**tree, "stamp": np.array([0, 2**62, 2**53])})
    problem = r"integer of entry 1 is beyond 2⁵³.*found 4611686018427387904\); leave it out of the schema's carry$"
    with pytest.raises(InputError, match=rf"tree/stamp: .*{problem}"):
        read(path, str(tmp_path / "s.yaml"))
    write_tree(path, {**tree, "event": np.array([1.0, 1e10, 3.0])})
    with pytest.raises(InputError, match=r"event number of entry 1 is not a whole number .found 1e.10, which means"):
        read(path)


def test_a_scalar_is_never_taken_for_sensors(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "t.root", events(3))
    (tmp_path / "s.yaml").write_text("extends: sensors-only\nsensors: {npho: {branches: [event]}}\n")
    with pytest.raises(InputError, match=r"event: has the wrong number of values .found 1 values per event, exp"):
        open_sources([path], schema=str(tmp_path / "s.yaml"))


def test_an_empty_vector_is_missing_truth_or_an_event_without_sensors(tmp_path: Path) -> None:
    tree = events(20)
    ragged = {
        key: ak.Array([row[:0] if i in gone else row for i, row in enumerate(tree[key])])
        for key, gone in (("uvwTruth", {3}), ("npho", {5, 17}))
    }
    with uproot.recreate(tmp_path / "t.root") as file:
        types = {key: v.dtype if v.ndim == 1 else np.dtype((v.dtype, v.shape[1:])) for key, v in tree.items()}
        out = file.mktree("tree", {**types, "uvwTruth": "var * float64", "npho": "var * float32"})
        out.extend({**tree, **ragged})
    (source,) = open_sources([tmp_path / "t.root"])
    (chunk,) = read_chunks(source, 20)
    assert np.flatnonzero(np.isnan(chunk.columns["u"])).tolist() == [3]
    assert chunk.invalid == {"u": 1, "v": 1, "w": 1}
    assert chunk.empty is not None
    assert np.flatnonzero(chunk.empty).tolist() == [5, 17]
    np.testing.assert_array_equal(chunk.npho[4], tree["npho"][4])
    assert np.isnan(chunk.npho[5]).all()
    assert next(read_chunks(source, 4)).empty is None


def test_what_is_not_known_of_times_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = events(3)
    write_tree(tmp_path / "a.root", {k: v for k, v in tree.items() if k != "time_min_used"})
    write_tree(tmp_path / "b.root", {k: v for k, v in tree.items() if k != "relative_time"})
    open_sources([tmp_path / "a.root", tmp_path / "b.root"], schema="sensors-only")
    assert "b.root has no sensor times: all of them count as invalid" in caplog.text
    assert "a.root has relative times (relative_time) but no time_min_used: absolute times are unknown" in caplog.text
    assert len(caplog.records) == 2
