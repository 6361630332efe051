"""What a conversion leaves out, selects, marks dead, and says about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from support.conversion import N, options, rows, run
from support.ingest_files import S, digests, events, write_tree

from ingest.conversion.convert import convert, run_step
from ingest.conversion.plan import make_plan
from ingest.reading.rootio import open_sources
from shards.base import ConfigError, InputError, OutputError
from shards.dead import DeadEntry, DeadList
from shards.gains import GainFile
from shards.geometry import Geometry, nominal, save
from shards.normalization import denormalize, normalize, preset, valid
from shards.opening import open_dataset
from shards.operations.describe import describe

pytestmark = pytest.mark.usefixtures("small_units")


@pytest.mark.parametrize("copies", [1, 2])
def test_events_that_come_twice_are_refused_unless_allowed(
    trees: list[dict[str, np.ndarray]], files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, copies: int
) -> None:
    again = write_tree(tmp_path / "again.root", {k: v[:5] for k, v in trees[0].items()})
    inputs = [*files, again]
    with pytest.raises(InputError, match=r"5 events occur more than once, such as run 100 event \d in .*again\.root"):
        run(inputs, tmp_path / "d", workers=copies)
    assert not list((tmp_path / "d").rglob("*.tar"))
    result = run(inputs, tmp_path / "e", allow_duplicates=True)
    assert result.manifest.n_events == sum(N) + 5
    assert "5 events occur more than once" in caplog.text


def test_events_without_numbers_of_their_own_are_never_the_same(tmp_path: Path) -> None:
    inputs = [
        write_tree(tmp_path / f"{i}.root", {k: v for k, v in events(9, seed=i).items() if k not in ("run", "event")})
        for i in range(2)
    ]
    assert run(inputs, tmp_path / "d").manifest.n_events == 18


@pytest.mark.parametrize(
    ("branch", "factor", "message"),
    [
        (
            "relative_time",
            1e9,
            r"relative_time: 100 % of .*expected -1e-06 to 1e-06 s.*sensors.time.unit",
        ),
        ("energyTruth", 1e3, r"energyTruth \(energy\): 100 % .*0 to 1 GeV.*columns, names \[energy\], unit"),
        ("uvwTruth", 10, r"uvwTruth\[0\] \(u\): .*-40 to 40 cm"),
        ("timeTruth", 1e-9, r"timeTruth \(timing\): 100 % .*ns"),
    ],
)
def test_values_in_another_unit_are_remarked_on_once(
    trees: list[dict[str, np.ndarray]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    branch: str,
    factor: float,
    message: str,
) -> None:
    values = trees[1][branch]
    path = write_tree(
        tmp_path / "a.root", {**trees[1], branch: np.where(np.abs(values) < 1e9, values * factor, values)}
    )
    run([path], tmp_path / "d")
    found = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert sum(bool(re.search(rf"a\.root: {message}", line)) for line in found) == 1, found


def test_good_values_are_not_remarked_on(files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(files, tmp_path / "d")
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


def test_what_was_lost_is_said(
    trees: list[dict[str, np.ndarray]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = {
        **trees[1],
        "energyTruth": np.full(N[1], 1e10),
        "relative_time": trees[1]["relative_time"] * np.float32(1e6),
    }
    run([write_tree(tmp_path / "a.root", lost)], tmp_path / "d", dtype="float16")
    assert "column 'energy' has no value in any event" in caplog.text
    assert "sensor values are beyond the range of float16 and were stored as its largest number" in caplog.text


def test_an_event_without_sensors_is_left_out_and_counted(
    trees: list[dict[str, np.ndarray]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = {k: v[:20] for k, v in trees[0].items()}
    with uproot.recreate(tmp_path / "t.root") as file:
        types = {k: v.dtype if v.ndim == 1 else np.dtype((v.dtype, v.shape[1:])) for k, v in tree.items()}
        out = file.mktree("tree", {**types, "npho": "var * float32"})
        out.extend({**tree, "npho": ak.Array([row[:0] if i == 7 else row for i, row in enumerate(tree["npho"])])})
    manifest = run([tmp_path / "t.root"], tmp_path / "d").manifest
    assert manifest.n_events == 19
    assert manifest.summed("dropped") == {"empty sensor vector": 1}
    assert "left out 1 event without sensor values" in caplog.text


def test_selections_on_columns_and_on_summaries(files: list[Path], reference: Path, tmp_path: Path) -> None:
    table = open_dataset(reference).table()
    threshold = float(np.median(table["npho_sum"].to_numpy()))
    for number, expression in enumerate(("u > 0 and event < 560", f"npho_sum > {threshold}", "entry < 10")):
        out = tmp_path / str(number)
        manifest = run(files, out, select=expression).manifest
        expected = open_dataset(reference).rows(expression)
        assert np.array_equal(rows(out)[2], table["event"].to_numpy()[expected])
        assert manifest.settings.selection == expression
        assert manifest.summed("dropped") == {"selection": sum(N) - len(expected)}
    with pytest.raises(ConfigError, match=r"unknown column 'theta'"):
        run(files, tmp_path / "e", select="theta < 1")
    with pytest.raises(InputError, match="no events are left"):
        run(files, tmp_path / "f", select="u > 1000")


@pytest.mark.parametrize("select", [None, "u > 0", "n_good > 10 and u > 0"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_max_events_keeps_the_first_of_the_output(
    files: list[Path], tmp_path: Path, select: str | None, shuffle: bool
) -> None:
    run(files, tmp_path / "all", select=select, shuffle=shuffle)
    manifest = run(files, tmp_path / "some", select=select, shuffle=shuffle, max_events=12).manifest
    assert manifest.n_events == 12
    assert rows(tmp_path / "some")[2].tolist() == rows(tmp_path / "all")[2].tolist()[:12]
    assert manifest.summed("dropped")["max_events"] > 0
    assert int(manifest.counts.dead[17]) == 12


def test_dead_channels_of_every_source_are_united_and_remembered(trees: list[Any], tmp_path: Path) -> None:
    flags = np.zeros((N[0], S), np.uint8)
    flags[:, 40] = 1
    flags[3, 41] = 1
    files = [write_tree(tmp_path / "a.root", {**trees[0], "dead": flags}), write_tree(tmp_path / "b.root", trees[1])]
    given = DeadList.of([DeadEntry(5, reason="cable"), DeadEntry(6, 101, 101, "invalid", "noisy")])
    run(files, tmp_path / "d", dead=given, dead_if_invalid_fraction=0.9)
    data, run_numbers, event = rows(tmp_path / "d")
    found, _ = valid(data.read(np.arange(sum(N)))[0], data.normalization)
    np.testing.assert_array_equal(~found[:, 5], True)
    np.testing.assert_array_equal(~found[:, 6], run_numbers == 101)
    np.testing.assert_array_equal(~found[:, 40], run_numbers == 100)
    np.testing.assert_array_equal(~found[:, 41], (run_numbers == 100) & (event == 3))
    listed = DeadList.from_list(data.manifest.settings.conversion["dead"])
    assert given.entries[0] in listed.entries
    assert DeadEntry(40, 100, 100, "bad", "flagged by the dead branch") in listed.entries
    by_data = {(e.sensor, e.run_first) for e in listed.entries if "invalid in at least" in e.reason}
    assert {(17, 100), (17, 101), (4100, 100), (4100, 101)} <= by_data
    assert all(e.kind == "invalid" for e in listed.entries if e.sensor == 17)


def test_channels_found_dead_are_dead_in_all_events_of_the_run(tmp_path: Path) -> None:
    tree = events(20)
    tree["npho"][:, 9] = 50
    tree["npho"][1:, 9] = np.inf
    path = write_tree(tmp_path / "a.root", tree)
    run([path], tmp_path / "with", dead_if_invalid_fraction=0.9)
    run([path], tmp_path / "without")
    assert open_dataset(tmp_path / "with").manifest.counts.dead[9] == 20
    assert open_dataset(tmp_path / "without").manifest.counts.dead[9] == 19


def test_preparing_is_a_step_of_its_own_where_it_is_needed(files: list[Path], tmp_path: Path) -> None:
    wanted = options(dead_if_invalid_fraction=0.9, max_events=30, select="u > 0")
    plan, out = make_plan(open_sources(files), (), wanted), tmp_path / "d"
    with pytest.raises(OutputError, match="the preparation step has not been run; run --step prepare first"):
        run_step("bucket", plan, out)
    for step in ("prepare", "bucket", "sort", "finalize"):
        run_step(step, plan, out)
    convert(open_sources(files), tmp_path / "e", wanted)
    assert digests(out) == digests(tmp_path / "e")


def test_a_time_floor_invalidates_times_for_ever(files: list[Path], tmp_path: Path) -> None:
    run(files[:1], tmp_path / "d", time_floor=100.0)
    data = open_dataset(tmp_path / "d")
    npho, time = denormalize(data.read(np.arange(N[0]))[0], data.normalization)
    assert np.isnan(time[npho < 99.9]).all()
    assert np.isfinite(time[npho > 100.1]).all()
    assert data.manifest.settings.conversion["time_floor"] == 100.0


def test_float16_and_other_normalizations(files: list[Path], trees: list[Any], tmp_path: Path) -> None:
    norm = preset("sqrt", npho_scale=10000.0)
    run(files[:1], tmp_path / "d", normalization=norm, dtype="float16", shuffle=False)
    data = open_dataset(tmp_path / "d")
    sensors, _ = data.read(np.arange(N[0]))
    assert data.dtype == "float16"
    expected = normalize(trees[0]["npho"], trees[0]["relative_time"], norm, dtype="float16").sensors
    np.testing.assert_array_equal(sensors, expected)
    assert data.normalization == norm


def test_a_column_that_only_some_sources_have_is_missing_in_the_others(trees: list[Any], tmp_path: Path) -> None:
    first = write_tree(tmp_path / "a.root", {**trees[0], "energyDep": np.full(N[0], 0.05)})
    second = write_tree(tmp_path / "b.root", trees[1])
    manifest = run([first, second], tmp_path / "d").manifest
    table = open_dataset(tmp_path / "d").table()
    np.testing.assert_array_equal(np.isnan(table["energy_dep"].to_numpy()), table["run"].to_numpy() == 101)
    assert manifest.summed("invalid_scalars") == {}


def test_unknown_scalars_are_nan_and_counted(trees: list[Any], tmp_path: Path) -> None:
    energy = trees[0]["energyTruth"].copy()
    energy[[2, 5, 60]] = (np.nan, 1e10, -np.inf)
    path = write_tree(tmp_path / "a.root", {**trees[0], "energyTruth": energy})
    manifest = run([path], tmp_path / "d", select="event != 60").manifest
    assert manifest.sources[0].invalid_scalars == {"energy": 2}
    assert int(np.isnan(open_dataset(tmp_path / "d").table()["energy"].to_numpy()).sum()) == 2


def test_sources_that_disagree_on_the_time_reference_are_refused(trees: list[Any], tmp_path: Path) -> None:
    absolute = {("time" if k == "relative_time" else k): v for k, v in trees[1].items()}
    files = [write_tree(tmp_path / "a.root", trees[0]), write_tree(tmp_path / "b.root", absolute)]
    with pytest.raises(
        InputError, match=r"b\.root: has absolute times, but another input has relative ones \(found time"
    ):
        run(files, tmp_path / "d")


def test_a_surveyed_geometry_is_remembered(files: list[Path], tmp_path: Path) -> None:
    geometry = nominal()
    moved = Geometry(geometry.positions + 0.1, geometry.normals, geometry.face, "survey.txt")
    save(tmp_path / "survey.txt", moved)
    surveyed = run(files, tmp_path / "d", geometry=str(tmp_path / "survey.txt")).manifest.settings
    assert surveyed.geometry != "nominal"
    assert surveyed.channel_map != geometry.digest
    assert run(files, tmp_path / "e").manifest.settings.channel_map == geometry.digest


def test_photons_are_divided_by_the_gains_of_their_channels(files, reference, tmp_path):
    """Recorded in the manifest; a conversion without them is the undo."""
    response = np.round(np.random.default_rng(0).uniform(0.8, 1.25, 4760), 5)
    lines = [f"100,101,{sensor},{value}" for sensor, value in enumerate(response)]
    (tmp_path / "gains.csv").write_text("run_first,run_last,sensor,response\n" + "\n".join(lines) + "\n")
    gain = GainFile.of(tmp_path / "gains.csv")
    run(files, tmp_path / "out", channel_gain=gain)
    before, after = open_dataset(reference), open_dataset(tmp_path / "out")
    (old, truth), (new, same) = (data.read(np.arange(before.n_events)) for data in (before, after))
    np.testing.assert_array_equal(truth, same)
    (npho, time), (divided, same_time) = (denormalize(sensors, before.normalization) for sensors in (old, new))
    np.testing.assert_allclose(divided, npho / response, rtol=2e-4, atol=0.05)
    np.testing.assert_array_equal(time, same_time)
    assert after.manifest.settings.conversion["channel_gain"] == {"file": "gains.csv", "sha256": gain.sha256}
    assert f"channel gains  gains.csv, sha256 {gain.sha256[:12]}" in describe(after, None)
    assert "channel_gain" not in before.manifest.settings.conversion
    (tmp_path / "few.csv").write_text("run_first,run_last,sensor,response\n100,100,5,1.1\n")
    with pytest.raises(InputError, match=r"few.csv: has no gains for a run in the data \(found run 101, expected 100"):
        run(files, tmp_path / "no", channel_gain=GainFile.of(tmp_path / "few.csv"))
