"""Inference: the same events from shards and from ROOT give the same rows; nothing is lost, nothing half-written."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import uproot
from support.synthetic import make_events
from support.trained import COLUMNS, EVENTS, Trained, write_root

from ingest.reading.rootio import Skipped
from shards.base import ConfigError, CorruptError, InputError, OutputError
from shards.dead import DeadEntry, DeadList
from shards.opening import open_dataset
from xectrain.inference.events import Events
from xectrain.inference.infer import infer
from xectrain.inference.load import load
from xectrain.inference.model import IN_RANGE
from xectrain.inference.readahead import ahead, read_source
from xectrain.inference.regressor import Predictor
from xectrain.inference.request import Request
from xectrain.inference.root_output import read_metadata
from xectrain.inference.sources import FEW, ReadOptions, open_parts
from xectrain.inference.unlike import Watch

XEC = [sys.executable, "-m", "xec"]


@pytest.fixture(scope="module")
def place(trained: Trained) -> Path:
    """`data` (a dataset), `a.root` and `b.root` (its two sources) and `regress` (a model)."""
    assert trained.data.parent == trained.roots[0].parent == trained.regress.parent
    return trained.folder


@pytest.fixture(scope="module")
def predictor(place: Path) -> Predictor:
    return load(place / "regress", device="cpu", precision="fp32", batch_size=7)


def rows(path: Path) -> dict[str, np.ndarray]:
    with uproot.open(path) as file:
        found = file["predictions"].arrays(library="np")
    return dict(found)


def by_event(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.lexsort((table["event"], table["run"]))
    return {name: values[order] for name, values in table.items()}


def test_shards_in_dataset_order(place, predictor, tmp_path):
    out = tmp_path / "pred.root"
    result = infer(predictor, open_parts([place / "data"]), out, Request())
    assert (result.events, result.existed) == (EVENTS, False)
    table, truth = rows(out), open_dataset(place / "data").table()
    np.testing.assert_array_equal(table["run"], truth["run"].to_numpy())
    np.testing.assert_array_equal(table["event"], truth["event"].to_numpy())
    np.testing.assert_array_equal(table["true_energy"], truth["energy"].to_numpy())
    np.testing.assert_array_equal(table["energyReco"], truth["energyReco"].to_numpy())
    np.testing.assert_array_equal(table["vtx_x"], truth["vtx_x"].to_numpy())
    for column in ("theta", "phi", "energy", "timing", "u", "v", "w"):
        assert np.isfinite(table[f"pred_{column}"]).all()
    assert table[IN_RANGE].dtype == bool


def test_root_and_shards_give_the_same_predictions(place, predictor, tmp_path):
    infer(predictor, open_parts([place / "data"]), tmp_path / "s.root", Request())
    infer(predictor, open_parts([place / "a.root", place / "b.root"]), tmp_path / "r.root", Request())
    direct = rows(tmp_path / "r.root")
    assert direct["source"].tolist() == [0] * 20 + [1] * 20
    assert direct["entry"].tolist() == [*range(20), *range(20)]
    np.testing.assert_array_equal(direct["event"], np.r_[0:20, 1000:1020])
    stored, direct = by_event(rows(tmp_path / "s.root")), by_event(direct)
    assert set(direct) == set(stored) | {"source", "entry"}
    for name, values in stored.items():
        if name.startswith("pred_"):
            np.testing.assert_allclose(direct[name], values, rtol=2e-4, atol=2e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(direct[name], values, err_msg=name)


@pytest.mark.parametrize("data", [("data",), ("a.root", "b.root")])
@pytest.mark.parametrize(("run", "hide"), [("regress", False), ("mae", False), ("inpaint", False), ("inpaint", True)])
def test_the_number_of_workers_changes_no_bit(trained, place, run, hide, data, tmp_path):
    model = load(getattr(trained, run), device="cpu", precision="fp32", batch_size=7)
    tables = []
    for model.workers in (1, 3):
        out = tmp_path / f"{model.workers}.root"
        infer(model, open_parts([place / name for name in data]), out, Request(hide=hide))
        tables.append(rows(out))
    assert tables[0].keys() == tables[1].keys()
    for name, values in tables[0].items():
        np.testing.assert_array_equal(tables[1][name], values, err_msg=name)


def test_the_time_is_absolute_and_its_truth_is_the_conversion_time(place, predictor, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        infer(predictor, open_parts([place / "a.root"]), tmp_path / "r.root", Request())
    assert "true_timing and the predicted time are at the conversion point" in caplog.text
    table = rows(tmp_path / "r.root")
    truth = dict(zip(COLUMNS, make_events(20, 0, COLUMNS)[2].T, strict=True))
    flight = np.sqrt(sum((truth[a] - truth[f"vtx_{a}"]) ** 2 for a in "xyz")) / 29.9792458
    np.testing.assert_allclose(table["true_timing"], truth["timing"] + flight)
    npho, time, _ = make_events(20, 0, COLUMNS)
    relative = predictor.predict(npho, time)["pred_timing"]
    np.testing.assert_allclose(table["pred_timing"], relative + 1e9 * truth["time_min_used"], rtol=1e-12, atol=1e-3)


@pytest.mark.parametrize(
    ("branch", "factor", "hint"),
    [
        ("npho", 1e4, "correct npho's in the schema's sensors.npho.unit"),
        ("relative_time", 1e9, "correct relative_time's in the schema's sensors.time.unit"),
    ],
)
def test_a_file_in_another_unit_is_named_once_with_the_key_that_corrects_it(
    place, predictor, tmp_path, caplog, branch, factor, hint
):
    with uproot.open(place / "b.root") as file:
        arrays = dict(file["tree"].arrays(library="np"))
    arrays[branch] = np.where(arrays[branch] < 9e9, factor * arrays[branch], arrays[branch])
    with uproot.recreate(tmp_path / "other.root") as file:
        types = {n: np.dtype((a.dtype, a.shape[1:])) if a.ndim > 1 else a.dtype for n, a in arrays.items()}
        file.mktree("tree", types).extend(arrays)
    predictor = load(predictor.facts.file, device="cpu", precision="fp32", batch_size=5)
    infer(predictor, open_parts([place / "a.root", tmp_path / "other.root"]), tmp_path / "p.root", Request())
    (line,) = [line for line in caplog.messages if "unlike those that the model was trained on" in line]
    assert line.startswith("other.root: most events are unlike")
    assert line.endswith(f"; if the unit is not the one stated, {hint}")


def test_what_is_outside_by_different_quantities_is_said_once_and_looked_at_once(place, predictor, caplog, monkeypatch):
    npho, time, _ = make_events(9, 2, COLUMNS)
    events, looks = Events.of_raw(npho, time), []
    monkeypatch.setattr(predictor, "strays", lambda events: looks.append(len(events)) or [])
    (part,), watch = open_parts([place / "a.root"]), Watch(predictor)
    for _ in range(3):
        watch.look(part, events, 9)
    assert looks == [9]
    said = "most events are unlike those that the model was trained on: some in one quantity, some in another"
    assert caplog.messages == [f"a.root: {said}"]


def test_a_time_without_reference_is_not_called_an_absolute_one(place, predictor, tmp_path, caplog):
    """`pred_timing` beside `true_timing` has one meaning in every row, whichever files are read together."""
    with uproot.open(place / "b.root") as file:
        arrays = dict(file["tree"].arrays(library="np"))
    del arrays["time_min_used"]
    with uproot.recreate(tmp_path / "without.root") as file:
        types = {n: np.dtype((a.dtype, a.shape[1:])) if a.ndim > 1 else a.dtype for n, a in arrays.items()}
        file.mktree("tree", types).extend(arrays)
    infer(predictor, open_parts([place / "a.root", tmp_path / "without.root"]), tmp_path / "both.root", Request())
    both = rows(tmp_path / "both.root")["pred_timing"]
    assert np.isfinite(both[:20]).all()
    assert np.isnan(both[20:]).all()
    assert "without.root: no time_min_used: pred_timing is NaN there" in caplog.text
    infer(predictor, open_parts([tmp_path / "without.root"]), tmp_path / "alone.root", Request())
    alone = rows(tmp_path / "alone.root")
    assert "pred_timing" not in alone
    expected = predictor.predict(arrays["npho"], arrays["relative_time"])["pred_timing"]
    np.testing.assert_allclose(alone["pred_relative_timing"], expected, atol=1e-3)
    assert "as pred_relative_timing" in caplog.text
    assert [read_metadata(tmp_path / f"{n}.root")["predicted_times"] for n in ("both", "alone")] == [
        "absolute",
        "relative",
    ]


def test_batch_size_changes_nothing(place, predictor):
    npho, time, _ = make_events(10, 3, COLUMNS)
    alone = [predictor.predict(npho[i], time[i]) for i in range(10)]
    together = predictor.predict(npho, time)
    for name, values in together.items():
        np.testing.assert_allclose(np.concatenate([a[name] for a in alone]), values, rtol=1e-4, atol=1e-4)
    empty = predictor.predict(np.empty((0, 4760)), np.empty((0, 4760)))
    assert {name: len(v) for name, v in empty.items()} == dict.fromkeys(together, 0)


def test_dead_values_lists_and_masks_mean_the_same(predictor):
    npho, time, _ = make_events(4, 5, COLUMNS)
    dead = np.zeros(4760, dtype=bool)
    dead[[5, 700, 4300]] = True
    with_nan = npho.copy()
    with_nan[:, dead] = np.nan
    huge = npho.copy()
    huge[:, dead] = 1e10
    reference = predictor.predict(npho, time, dead=dead)
    for other in (predictor.predict(with_nan, time), predictor.predict(huge, time)):
        for name in reference:
            np.testing.assert_array_equal(other[name], reference[name])
    assert any((predictor.predict(npho, time)[n] != reference[n]).any() for n in reference)


def test_predict_refuses_other_shapes(predictor):
    with pytest.raises(InputError, match=r"sensors have the wrong shape \(found \(\(2, 5\), \(2, 5\)\)"):
        predictor.predict(np.zeros((2, 5)), np.zeros((2, 5)))


def test_dead_lists_act_on_shards_and_root_alike(place, predictor, tmp_path):
    dead = DeadList.of([DeadEntry(k) for k in range(0, 4000, 3)])
    request = Request(ReadOptions(dead=dead))
    infer(predictor, open_parts([place / "data"]), tmp_path / "s.root", request)
    infer(predictor, open_parts([place / "a.root", place / "b.root"]), tmp_path / "r.root", request)
    infer(predictor, open_parts([place / "data"]), tmp_path / "plain.root", Request())
    stored, direct = by_event(rows(tmp_path / "s.root")), by_event(rows(tmp_path / "r.root"))
    np.testing.assert_allclose(direct["pred_energy"], stored["pred_energy"], rtol=2e-4)
    assert not stored[IN_RANGE].any()
    assert (stored["pred_energy"] != by_event(rows(tmp_path / "plain.root"))["pred_energy"]).all()


@pytest.mark.parametrize("expression", ["energy > 0.05 and event < 1010", "npho_sum > 1.36e6", "entry < 5"])
def test_selections_agree(place, predictor, tmp_path, expression):
    request = Request(ReadOptions(select=expression))
    shards = infer(predictor, open_parts([place / "data"]), tmp_path / "s.root", request)
    root = infer(predictor, open_parts([place / "a.root", place / "b.root"]), tmp_path / "r.root", request)
    assert 0 < shards.events == root.events < EVENTS
    stored, direct = by_event(rows(tmp_path / "s.root")), by_event(rows(tmp_path / "r.root"))
    np.testing.assert_array_equal(stored["event"], direct["event"])


@pytest.mark.parametrize("backend", ["dali", "webdataset"])
def test_a_few_events_are_read_without_a_reader_and_are_the_same(place, predictor, tmp_path, backend):
    few, read = tmp_path / "few.root", tmp_path / "read.root"
    infer(predictor, open_parts([place / "data"]), few, Request(ReadOptions("event < 9")))
    infer(predictor, open_parts([place / "data"]), read, Request(ReadOptions("event < 9", backend=backend)))
    one, other = rows(few), rows(read)
    assert 0 < len(one["event"]) <= FEW
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)


@pytest.mark.slow
def test_a_few_events_take_no_package_that_they_do_not_need(place, tmp_path):
    code = (
        "import sys, xec\ntry:\n    xec.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print([m for m in ('pandas', 'scipy', 'nvidia.dali', 'torch._dynamo', 'matplotlib') if m in sys.modules])"
    )
    arguments = ["infer", place / "regress", place / "data", "-o", tmp_path / "p.root", "--select", "event < 9"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_selection_that_nothing_passes_gives_an_empty_tree_and_says_so(place, predictor, tmp_path, caplog):
    request = Request(ReadOptions(select="energy > 1"))
    for data, name in ((place / "data", "s.root"), (place / "a.root", "r.root")):
        assert infer(predictor, open_parts([data]), tmp_path / name, request).events == 0
        assert len(rows(tmp_path / name)["pred_energy"]) == 0
        assert f"{name}: no event passes 'energy > 1', so that it is empty (energies are in GeV" in caplog.text


def test_columns_are_those_asked_for(place, predictor, tmp_path):
    request = Request(columns=("energyReco", "true_w"))
    infer(predictor, open_parts([place / "data"]), tmp_path / "p.root", request)
    assert {n for n in rows(tmp_path / "p.root") if not n.startswith("pred_")} == {
        *("run", "event", "in_training_range", "energyReco", "true_w")
    }
    with pytest.raises(ConfigError, match=r"no column 'energyRecco'; did you mean 'energyReco'"):
        infer(predictor, open_parts([place / "data"]), tmp_path / "q.root", Request(columns=("energyRecco",)))


def test_an_output_that_is_there_is_recognised_or_refused(place, predictor, tmp_path):
    out = tmp_path / "p.root"
    first = infer(predictor, open_parts([place / "a.root"]), out, Request())
    stamp = out.stat().st_mtime_ns
    again = infer(predictor, open_parts([place / "a.root"]), out, Request())
    assert again.existed
    assert (again.events, again.outside) == (first.events, first.outside)
    assert out.stat().st_mtime_ns == stamp
    for parts, request in (
        (open_parts([place / "b.root"]), Request()),
        (open_parts([place / "a.root"]), Request(ReadOptions(select="energy > 0.05"))),
    ):
        with pytest.raises(OutputError, match="exists, but came from a different model, data or options"):
            infer(predictor, parts, out, request)
    out.write_bytes(b"something else")
    with pytest.raises(OutputError, match="exists, but is not recognised"):
        infer(predictor, open_parts([place / "a.root"]), out, Request())


def test_metadata_says_how(place, predictor, tmp_path):
    infer(predictor, open_parts([place / "data"]), tmp_path / "p.root", Request())
    found = read_metadata(tmp_path / "p.root")
    assert found["tasks"] == "angle,energy,timing,uvwFI"
    assert found["npho_scheme"] == "log1p"
    assert found["npho_threshold"] == 100.0
    assert found["dataset_fingerprint"] == open_dataset(place / "data").fingerprint
    assert found["model_digest"] == predictor.facts.digest
    assert found["events"] == EVENTS
    assert "0 inner" in str(found["face_names"])


def test_events_unlike_the_training_set_are_flagged(place, predictor, tmp_path):
    npho, time, _ = make_events(8, 2, COLUMNS)
    assert predictor.predict(npho, time)[IN_RANGE].any()
    assert not predictor.predict(npho * 50, time)[IN_RANGE].any()
    assert not predictor.predict(npho, time, dead=np.arange(4760) < 3000)[IN_RANGE].any()


def test_times_of_the_other_kind_are_refused(place, predictor, tmp_path):
    schema = tmp_path / "absolute.yaml"
    schema.write_text(
        "name: absolute\nextends: mc\nsensors:\n"
        "  npho: {branches: [npho], unit: photons}\n  time: {branches: [relative_time], unit: s}\n"
    )
    with pytest.raises(ConfigError, match="has another kind of sensor times"):
        infer(predictor, open_parts([place / "a.root"], schema=str(schema)), tmp_path / "p.root", Request())
    assert not (tmp_path / "p.root").exists()


def test_a_truncated_input_leaves_no_output(place, predictor, tmp_path):
    data = (place / "a.root").read_bytes()
    (tmp_path / "cut.root").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises((CorruptError, InputError), match=r"cut\.root"):
        infer(predictor, open_parts([tmp_path / "cut.root"]), tmp_path / "p.root", Request())
    assert not list(tmp_path.glob("*p.root*"))


def test_a_file_whose_damage_shows_when_it_is_read_is_left_out_if_asked(place, predictor, tmp_path, caplog):
    """A basket in the middle: the rows before it are not half of a file worth having."""
    write_root(tmp_path / "bad.root", 30, first_event=5000)
    data = bytearray((tmp_path / "bad.root").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = b"\x55" * 2000
    (tmp_path / "bad.root").write_bytes(data)
    parts, out = open_parts([place / "a.root", tmp_path / "bad.root", place / "b.root"]), tmp_path / "p.root"
    with pytest.raises(CorruptError, match=r"bad\.root"):
        infer(predictor, parts, out, Request())
    assert not out.exists()
    skipped: list[Skipped] = []
    assert infer(predictor, parts, out, Request(), skipped=skipped).events == 40
    assert [item.path.name for item in skipped] == ["bad.root"]
    assert rows(out)["source"].tolist() == [0] * 20 + [2] * 20
    assert read_metadata(out)["skipped_files"] == skipped[0].reason
    caplog.clear()
    assert infer(predictor, parts, out, Request(), skipped=[]).existed
    assert "p.root does not include what was skipped when it was made: " in caplog.text
    with pytest.raises(InputError, match=r"no usable input files are left \(found 1 skipped"):
        infer(predictor, parts[1:2], tmp_path / "q.root", Request(), skipped=[])


def test_datasets_and_root_files_do_not_mix(place):
    with pytest.raises(InputError, match="not both"):
        open_parts([place / "data", place / "a.root"])


def test_reading_ahead_keeps_order_and_errors():
    assert list(ahead(iter(range(100)))) == list(range(100))

    def failing():
        yield 1
        raise InputError("bad basket")

    seen = []
    with pytest.raises(InputError, match="bad basket"):
        for item in ahead(failing()):
            seen.append(item)
    assert seen == [1]
    abandoned = ahead(iter(range(10**9)))
    assert next(abandoned) == 0
    abandoned.close()


def test_the_command(place, tmp_path, run_command):
    given = ("xectrain.cli.infer:app", place / "regress", place / "a.root", place / "b.root", "--device", "cpu")
    per_file = (*given, "-o", tmp_path / "out", "--per-file")
    assert run_command(*per_file).count("Wrote predictions to") == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_pred.root", "b_pred.root"]
    assert run_command(*per_file).count("Nothing to do") == 2


@pytest.mark.slow
def test_killed_and_started_again(place, tmp_path):
    """SIGKILL in the middle: no file of the final name; the same command then gives what it would have given."""
    big = tmp_path / "big.root"
    write_root(big, 3000)
    root = Path(__file__).parents[3]
    call = [*XEC, "infer", str(place / "regress"), str(big), "--device", "cpu", "-o", str(tmp_path / "p.root")]
    process = subprocess.Popen(call, cwd=root)
    while process.poll() is None and not list(tmp_path.glob(".p.root.*.part")):
        pass
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "p.root").exists()
    subprocess.run(call, cwd=root, check=True)
    assert len(rows(tmp_path / "p.root")["event"]) == 3000
    assert not list(tmp_path.glob("*.part"))


def test_threads_read_every_entry_once_and_in_order(tmp_path):
    """Storage blocks of different sizes; a huge block is read in pieces by one thread."""
    npho, time, _ = make_events(90, 0, COLUMNS)
    with uproot.recreate(tmp_path / "blocks.root") as file:
        types = {"npho": np.dtype(("f4", (4760,))), "relative_time": np.dtype(("f4", (4760,))), "event": "int32"}
        tree = file.mktree("tree", types)
        for start, stop in ((0, 7), (7, 40), (40, 41), (41, 90)):
            rows = slice(start, stop)
            tree.extend({"npho": npho[rows], "relative_time": time[rows], "event": np.arange(start, stop)})
    (part,) = open_parts([tmp_path / "blocks.root"])
    for step, threads in ((10, 1), (10, 3), (1000, 3), (1, 2)):
        chunks = list(read_source(part.source, step, threads))
        assert [c.entry_start for c in chunks] == np.cumsum([0, *(len(c) for c in chunks)])[:-1].tolist()
        assert np.concatenate([c.columns["event"] for c in chunks]).tolist() == list(range(90))
        np.testing.assert_array_equal(np.concatenate([c.npho for c in chunks]), npho)
    assert len(list(read_source(part.source, 10, 3))) == 2  # 0–40 (7 alone is too few) and 40–90 (1 is)


def test_a_bad_basket_ends_reading_with_its_name(tmp_path):
    write_root(tmp_path / "a.root", 30)
    data = bytearray((tmp_path / "a.root").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = b"\x55" * 2000
    (tmp_path / "a.root").write_bytes(data)
    (part,) = open_parts([tmp_path / "a.root"])
    for threads in (1, 3):
        with pytest.raises(CorruptError, match=r"a\.root"):
            list(read_source(part.source, 10, threads))


def test_the_sensors_to_hide_are_chosen(trained, run_command, tmp_path):
    """Two of each face, in every event; another choice is another output."""
    out = tmp_path / "hidden.root"
    line = ("xectrain.cli.infer:app", trained.inpaint, trained.data, "--output", out)
    run_command(*line, "--hide", "--masks", "fixed:2")
    with uproot.open(out) as file:
        rows = file["predictions"].arrays(["event_idx", "face"], library="np")
    assert len(rows["face"]) == 2 * 6 * 40
    assert read_metadata(out)["masks"] == "fixed:2"
    assert "nothing to do" in run_command(*line, "--hide", "--masks", "fixed:2").lower()
    with pytest.raises(OutputError, match="came from a different model, data or options"):
        run_command(*line, "--hide", "--masks", "fixed:3")
    with pytest.raises(ConfigError, match="--masks: needs --hide; without it, dead sensors are filled"):
        run_command(*line, "--masks", "fixed:2")
    with pytest.raises(ConfigError, match="--masks: needs an inpainter or autoencoder"):
        run_command("xectrain.cli.infer:app", trained.regress, *line[2:], "--masks", "fixed:2")
