from __future__ import annotations

import dataclasses
import os
import re
import resource
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from support.ingest_files import S, digests, events, write_tree

from ingest.conversion import bucket
from ingest.conversion import convert as module
from ingest.conversion import plan as plan_module
from ingest.conversion.convert import Conversion, convert, finalize_folder, run_step
from ingest.conversion.options import ConversionOptions
from ingest.conversion.plan import make_plan
from ingest.reading.rootio import Skipped, open_sources
from ingest.reading.schema import load_schema
from shards.base import ConfigError, InputError, LockedError, OutputError, locked
from shards.dataset import Dataset
from shards.dead import DeadEntry, DeadList
from shards.geometry import nominal
from shards.normalization import denormalize, normalize, preset, valid
from shards.opening import open_dataset
from shards.operations.merge import merge
from shards.order import event_keys

MC = load_schema("mc")
N = (70, 33)


@pytest.fixture(scope="module")
def trees() -> list[dict[str, np.ndarray]]:
    return [events(N[0], run=100), events(N[1], run=101, first=500)]


@pytest.fixture(scope="module")
def files(trees: list[dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("root")
    return [write_tree(folder / f"run{i}.root", tree) for i, tree in enumerate(trees)]


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units, spills and reads so small that a hundred events go through all of it."""
    monkeypatch.setattr(plan_module, "MIN_UNIT", 20)
    monkeypatch.setattr("ingest.reading.sources.CUT_DISTANCE", 16)
    monkeypatch.setattr(bucket, "SPILL", 16)
    monkeypatch.setattr(bucket, "READ", 8)


def options(**changes: Any) -> ConversionOptions:
    return ConversionOptions(**{"schema": MC, "events_per_shard": 25, **changes})


def run(files: list[Path], out: Path, workers: int = 1, **changes: Any) -> Conversion:
    wanted = options(**changes)
    return convert(open_sources(files, schema=wanted.schema), out, wanted, workers=workers)


@pytest.fixture(scope="module")
def reference(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain conversion, with the units of real life."""
    out = tmp_path_factory.mktemp("reference") / "data"
    convert(open_sources(files, schema=MC), out, options())
    return out


def rows(out: Path) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """(dataset, run, event) in dataset order."""
    data = open_dataset(out, check="full")
    table = data.table()
    return data, table["run"].to_numpy(), table["event"].to_numpy()


# -- what is in the dataset -----------------------------------------------------------------------------------------


def test_every_event_is_there_once_as_normalizing_it_directly_gives(reference: Path, trees: list[Any]) -> None:
    data, run, event = rows(reference)
    assert data.n_events == sum(N)
    sensors, truth = data.read(np.arange(sum(N)))
    for r, tree in zip((100, 101), trees, strict=True):
        mine = np.flatnonzero(run == r)
        assert sorted(event[mine]) == sorted(tree["event"])
        source = event[mine] - tree["event"][0]
        expected = normalize(tree["npho"][source], tree["relative_time"][source], preset("standard")).sensors
        np.testing.assert_array_equal(sensors[mine], expected)
        np.testing.assert_array_equal(truth[mine, data.columns.index("u")], tree["uvwTruth"][source, 0])
        np.testing.assert_array_equal(truth[mine, data.columns.index("timing")], tree["timeTruth"][source])


def test_the_order_is_that_of_the_hash(reference: Path, files: list[Path]) -> None:
    data, *_ = rows(reference)
    table = data.table()
    ids = [source.id for source in data.manifest.sources]
    assert ids == sorted(s.id for s in open_sources(files))
    entries, source = table["entry"].to_numpy(), table["source"].to_numpy()
    keys = np.array([event_keys(0, ids[s], e) for s, e in zip(source, entries, strict=True)]).ravel()
    assert (np.diff(keys.astype(object)) > 0).all()
    assert [shard.events for shard in data.manifest.shards] == [25, 25, 25, 25, 3]


def test_counts_are_those_of_the_data(reference: Path, trees: list[Any]) -> None:
    manifest = open_dataset(reference).manifest
    total = None
    for tree in trees:
        counts = normalize(tree["npho"], tree["relative_time"], preset("standard")).counts
        source = next(s for s in manifest.sources if s.entries == len(tree["npho"]))
        assert source.counts == counts.totals()
        total = counts if total is None else total + counts
    assert total is not None
    for field in dataclasses.fields(total):
        np.testing.assert_array_equal(getattr(manifest.counts, field.name), getattr(total, field.name))
    assert manifest.counts.out_of_domain.sum() > 0
    assert manifest.counts.dead[17] == sum(N)


def test_the_manifest_says_what_was_read(reference: Path, files: list[Path]) -> None:
    manifest = open_dataset(reference).manifest
    assert {s.name for s in manifest.sources} == {"run0.root", "run1.root"}
    assert manifest.settings.time_reference == "relative"
    columns = {c.name: c for c in manifest.settings.columns}
    assert columns["v"].branch == "uvwTruth[1]"
    assert columns["energy"].description == "gamma energy (incident)"
    assert columns["run"].role == "identity"
    assert "theta" not in columns
    text = (reference / "manifest.json").read_text()
    assert str(files[0].parent) not in text


# -- the same bytes however it runs ---------------------------------------------------------------------------------


def test_small_units_change_nothing(files: list[Path], reference: Path, tmp_path: Path) -> None:
    plan = make_plan(open_sources(files), (), options())
    assert len(plan.units) > 4
    run(files, tmp_path / "d")
    assert digests(tmp_path / "d") == digests(reference)


def test_workers_and_order_of_files_change_nothing(files: list[Path], reference: Path, tmp_path: Path) -> None:
    run(files[::-1], tmp_path / "d", workers=2)
    assert digests(tmp_path / "d") == digests(reference)


def test_steps_in_tasks_change_nothing(files: list[Path], reference: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "d", make_plan(open_sources(files), (), options())
    for step in ("bucket", "sort"):
        for task in (2, 0, 1):
            assert run_step(step, plan, out, task=task, tasks=3) is None
    assert not (out / "manifest.json").exists()
    result = finalize_folder(out)
    assert not result.was_complete
    assert digests(out) == digests(reference)
    assert finalize_folder(out).was_complete


@pytest.mark.parametrize("changes", [{}, {"dead_if_invalid_fraction": 0.9, "select": "u > 0"}], ids=["plain", "dead"])
def test_merging_conversions_of_parts_gives_the_conversion_of_all(
    files: list[Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    for i, file in enumerate(files):
        run([file], tmp_path / str(i), **changes)
    run(files, tmp_path / "whole", **changes)
    merge([tmp_path / "1", tmp_path / "0"], tmp_path / "merged")
    assert digests(tmp_path / "merged") == digests(tmp_path / "whole")


def test_steps_that_come_too_early_say_what_is_missing(files: list[Path], tmp_path: Path) -> None:
    out, plan = tmp_path / "d", make_plan(open_sources(files), (), options())
    with pytest.raises(InputError, match="no conversion was begun here"):
        finalize_folder(out)
    run_step("bucket", plan, out, task=0, tasks=3)
    with pytest.raises(
        OutputError, match=r"\d of \d units of the bucket step are not done \(found unit 1 is missing\)"
    ):
        run_step("sort", plan, out)
    for task in (1, 2):
        run_step("bucket", plan, out, task=task, tasks=3)
    run_step("sort", plan, out, task=1, tasks=2)
    with pytest.raises(OutputError, match=r"3 of 5 shards are not written \(found shard 0 is missing\)"):
        finalize_folder(out)
    with pytest.raises(ConfigError, match="no such step or task"):
        run_step("sort", plan, out, task=2, tasks=2)


def test_ties_of_the_hash_are_broken_by_source_and_entry(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a hash of three values, shards begin and end in the middle of equal keys."""
    monkeypatch.setattr(
        "ingest.conversion.cleaning.event_keys", lambda seed, source, entries: (entries % 3).astype(np.uint64)
    )
    run(files, tmp_path / "d")
    table = open_dataset(tmp_path / "d", check="full").table()
    found = list(zip(table["entry"] % 3, table["source"], table["entry"], strict=True))
    assert found == sorted(found)
    assert len(set(found)) == sum(N)


# -- options --------------------------------------------------------------------------------------------------------


def test_without_shuffling_the_order_given_is_kept(files: list[Path], tmp_path: Path) -> None:
    for order, runs in ((files, [100] * 70 + [101] * 33), (files[::-1], [101] * 33 + [100] * 70)):
        out = tmp_path / str(runs[0])
        run(order, out, shuffle=False)
        _, run_numbers, event = rows(out)
        assert run_numbers.tolist() == runs
        assert (np.diff(event[run_numbers == 100]) == 1).all()
    with pytest.raises(OutputError, match="source_order"):
        run(files[::-1], tmp_path / "100", shuffle=False)


def test_another_seed_gives_another_order_of_the_same_events(
    files: list[Path], reference: Path, tmp_path: Path
) -> None:
    run(files, tmp_path / "d", seed=1)
    (_, *one), (_, *two) = rows(reference), rows(tmp_path / "d")
    assert sorted(zip(*one, strict=True)) == sorted(zip(*two, strict=True))
    assert not np.array_equal(one[1], two[1])


@pytest.mark.parametrize("by", ["event", "run", "source"])
def test_splits_are_disjoint_complete_and_in_hash_order(
    files: list[Path], reference: Path, tmp_path: Path, by: str
) -> None:
    result = run(files, tmp_path / "d", split="train=0.6,val=0.4", split_by=by)
    assert [f.name for f in result.folders] == ["train", "val"]
    parts = [list(zip(*rows(folder)[1:], strict=True)) for folder in result.folders]
    whole = list(zip(*rows(reference)[1:], strict=True))
    assert sorted(parts[0] + parts[1]) == sorted(whole)
    for part, manifest in zip(parts, result.manifests, strict=True):
        assert part == [row for row in whole if row in set(part)]
        assert sum(s.used for s in manifest.sources) == len(part)
        for source in manifest.sources:
            assert source.used + sum(source.dropped.values()) == source.entries
            assert set(source.dropped) <= {"other splits"}
    if by != "event":
        assert len({r for r, _ in parts[0]} & {r for r, _ in parts[1]}) == 0
    total = result.manifests[0].counts + result.manifests[1].counts
    np.testing.assert_array_equal(total.dead, open_dataset(reference).manifest.counts.dead)


def test_what_a_split_cannot_give_is_said_before_anything_is_read(
    files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match=r"1 run cannot be divided into 2 parts; .*--split-by event"):
        run(files[:1], tmp_path / "d", split="train=0.9,val=0.1", split_by="run")
    assert not list((tmp_path / "d").rglob("*.tar"))
    assert not list((tmp_path / "d").rglob("*.rows"))
    result = run(files, tmp_path / "e", split="train=0.9,val=0.1", split_by="run")
    assert [m.n_events for m in result.manifests] == [70, 33]
    assert "far from what was asked for: train has 68 % (90 % asked), val has 32 % (10 % asked)" in caplog.text
    assert result.manifest.settings.split is not None
    assert result.manifest.settings.split.groups == {"train": (100,), "val": (101,)}


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
    assert "column 'energy' is unknown in all events" in caplog.text
    assert "sensor values are beyond float16 and stored as its largest number" in caplog.text


def test_more_inputs_than_a_process_may_have_open_files(tmp_path: Path) -> None:
    """Index files of units are mapped one after another: 40 units under a limit of 30 files more than are open now."""
    inputs = [write_tree(tmp_path / f"{i}.root", events(2, run=i)) for i in range(40)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 30, hard))
        assert run(inputs, tmp_path / "d").manifest.n_events == 80
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_name_that_is_no_utf8_is_an_input_like_others(trees: list[dict[str, np.ndarray]], tmp_path: Path) -> None:
    path = write_tree(tmp_path / "a.root", trees[1]).rename(os.fsdecode(bytes(tmp_path) + b"/r\xf6.root"))
    result = run([path], tmp_path / "d")
    assert [source.name for source in result.manifest.sources] == [r"r\xf6.root"]
    assert run([path], tmp_path / "d").was_complete


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
    assert "1 events without any sensor value were left out" in caplog.text


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
    with pytest.raises(InputError, match="no event is left"):
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
    with pytest.raises(OutputError, match="the preparation is missing; run --step prepare first"):
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
    with pytest.raises(InputError, match=r"b\.root: has absolute times, another input has relative ones \(found time"):
        run(files, tmp_path / "d")


# -- what is there already ------------------------------------------------------------------------------------------


def test_the_same_again_is_complete_and_anything_else_is_refused(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "d"
    run(files, out)
    before = digests(out)
    assert run(files[::-1], out, workers=2).was_complete
    for changes, message in (
        ({"seed": 1}, r"made with another 'seed' \(found 0, expected 1\)"),
        ({"dtype": "float16"}, "another 'dtype'"),
        ({"select": "u > 0"}, "another 'selection'"),
        ({"time_floor": 3.0}, r"another 'conversion.time_floor' \(found none, expected 3.0\)"),
        ({"events_per_shard": 26}, "another 'events_per_shard'"),
    ):
        with pytest.raises(OutputError, match=message):
            run(files, out, **changes)
    with pytest.raises(OutputError, match=r"is a dataset of other sources \(found also run1.root\)"):
        run(files[:1], out)
    assert digests(out) == before


def test_an_interrupted_conversion_continues_only_as_what_it_was(files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "d"
    run_step("bucket", make_plan(open_sources(files), (), options()), out)
    with pytest.raises(
        OutputError, match=r"holds an unfinished conversion with another 'seed' \(found 0, expected 1\).*--out"
    ):
        run(files, out, seed=1)
    with pytest.raises(OutputError, match=r"unfinished conversion of other inputs \(found also of .*run1\.root\)"):
        run(files[:1], out)
    assert not run(files, out).was_complete


def test_a_source_that_changed_is_noticed_on_resuming(files: list[Path], trees: list[Any], tmp_path: Path) -> None:
    source = tmp_path / "a.root"
    source.write_bytes(files[0].read_bytes())
    run_step("bucket", make_plan(open_sources([source]), (), options()), tmp_path / "d")
    write_tree(source, trees[1])
    with pytest.raises(
        OutputError, match=r"a\.root: changed since the conversion began; remove .*\.ingest to begin anew"
    ):
        run([source], tmp_path / "d")


def test_work_that_is_done_is_not_done_again(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, plan = tmp_path / "d", make_plan(open_sources(files), (), options())
    run_step("bucket", plan, out)
    run_step("sort", plan, out, task=0, tasks=2)
    written: list[int] = []
    original = module.Engine.sort

    def sort(self: Any, split: int, shard: int) -> Any:
        written.append(shard)
        return original(self, split, shard)

    monkeypatch.setattr(module.Engine, "sort", sort)
    monkeypatch.setattr(module.Engine, "bucket", None)
    run(files, out)
    assert written == [1, 3]


def test_damaged_temporary_rows_are_noticed_and_made_again(files: list[Path], reference: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "d", make_plan(open_sources(files), (), options())
    run_step("bucket", plan, out)
    victim = out / ".ingest" / "units" / "000001.rows"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(
        InputError, match=r"temporary rows are damaged: checksum of entry \d+ is wrong; run the same command again"
    ):
        run(files, out)
    run(files, out)
    assert digests(out) == digests(reference)


def test_rows_that_are_missing_are_made_again(files: list[Path], reference: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "d", make_plan(open_sources(files), (), options())
    run_step("bucket", plan, out)
    units = out / ".ingest" / "units"
    (units / "000000.rows").write_bytes((units / "000000.rows").read_bytes()[:-5])
    (units / "000001.index").unlink()
    (units / "000002.counts.npy").unlink()
    run(files, out)
    assert digests(out) == digests(reference)


def test_two_conversions_into_one_output_are_refused(files: list[Path], tmp_path: Path) -> None:
    with (
        locked(tmp_path / "d" / ".ingest.lock", "converting"),
        pytest.raises(LockedError, match=r"\.ingest\.lock: is held by process \d+ .*\(converting\)"),
    ):
        run(files, tmp_path / "d")
    run(files, tmp_path / "d")


def test_a_dataset_is_never_written_among_its_inputs(files: list[Path], tmp_path: Path) -> None:
    before = sorted(files[0].parent.iterdir())
    with pytest.raises(OutputError, match="holds an input of this command"):
        run(files, files[0].parent)
    with pytest.raises(OutputError, match="is a URL, outputs are local files"):
        run(files, "s3://bucket/o")  # type: ignore[arg-type]
    assert sorted(files[0].parent.iterdir()) == before


def test_too_little_space_is_said_before_anything_is_read(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**6}))
    with pytest.raises(OutputError, match=r"has too little free space \(found 1 MB, expected [\d.]+ MB\); free some"):
        run(files, tmp_path / "d")
    assert not (tmp_path / "d" / "manifest.json").exists()


def test_an_output_that_cannot_be_a_folder_is_one_error(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "d").write_text("a file")
    with pytest.raises(OutputError, match=r"is a file .expected the folder of a dataset"):
        run(files, tmp_path / "d")


def test_a_folder_that_refuses_is_one_error(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(OutputError, match=r"d/\.ingest\.lock.*: cannot be written: Permission denied"):
        run(files, tmp_path / "d")


def test_splits_do_not_go_into_a_dataset(files: list[Path], tmp_path: Path) -> None:
    run(files, tmp_path / "d")
    with pytest.raises(OutputError, match="is a dataset itself, splits cannot go into it"):
        run(files, tmp_path / "d", split="train=0.5,val=0.5")


def test_a_surveyed_geometry_is_remembered(files: list[Path], tmp_path: Path) -> None:
    geometry = nominal()
    table = np.column_stack([np.arange(S), geometry.normals, geometry.positions + 0.1, geometry.face])
    np.savetxt(tmp_path / "survey.txt", table, fmt=["%d"] + ["%.6f"] * 6 + ["%d"])
    surveyed = run(files, tmp_path / "d", geometry=str(tmp_path / "survey.txt")).manifest.settings
    assert surveyed.geometry != "nominal"
    assert surveyed.channel_map != geometry.digest
    assert run(files, tmp_path / "e").manifest.settings.channel_map == geometry.digest


# -- bad inputs -----------------------------------------------------------------------------------------------------


def corrupted(path: Path, target: Path) -> Path:
    import uproot

    with uproot.open(path) as opened:
        branch = opened["tree"]["npho"]
        seek, size = int(branch.member("fBasketSeek")[2]), branch.basket_compressed_bytes(2)
    data = bytearray(path.read_bytes())
    data[seek + size // 2] ^= 0x40
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_basket_stops_the_conversion_with_nothing_published(
    files: list[Path], tmp_path: Path, workers: int
) -> None:
    bad = corrupted(files[0], tmp_path / "bad.root")
    with pytest.raises(InputError, match=r"bad\.root: tree/npho: entries 32 to 47 cannot be read"):
        run([files[1], bad], tmp_path / "d", workers=workers)
    assert not list((tmp_path / "d").rglob("*.tar"))
    assert not (tmp_path / "d" / "manifest.json").exists()


@pytest.mark.parametrize("prepared", [False, True])
def test_skipping_bad_files_gives_what_the_good_ones_alone_give(
    files: list[Path], tmp_path: Path, prepared: bool
) -> None:
    bad = corrupted(files[0], tmp_path / "bad.root")
    (tmp_path / "none.root").write_bytes(b"text")
    changes = {"dead_if_invalid_fraction": 0.9, "select": "u > 0", "max_events": 9} if prepared else {}
    wanted = options(skip_bad_files=True, **changes)
    skipped: list[Skipped] = []
    sources = open_sources([files[1], bad, tmp_path / "none.root"], skipped=skipped)
    manifest = convert(sources, tmp_path / "d", wanted, skipped=skipped).manifest
    entries = manifest.settings.conversion["skipped"]
    assert [entry["name"] for entry in entries] == ["bad.root", "none.root"]
    assert entries[0]["reason"].startswith("bad.root: tree/npho: entries 32 to 47 cannot be read")
    run([files[1]], tmp_path / "good", **changes)
    assert digests(tmp_path / "d" / "shards") == digests(tmp_path / "good" / "shards")
    assert convert(sources, tmp_path / "d", wanted, skipped=skipped).was_complete


def test_no_usable_file_is_an_error_even_when_skipping(files: list[Path], tmp_path: Path) -> None:
    bad = corrupted(files[0], tmp_path / "bad.root")
    with pytest.raises(InputError, match="no event is left"):
        run([bad], tmp_path / "d", skip_bad_files=True)


def test_a_killed_worker_is_an_error_and_the_work_goes_on_afterwards(
    files: list[Path], reference: Path, tmp_path: Path
) -> None:
    import contextlib
    import signal
    import threading
    import time

    import psutil

    from shards.base import XecError

    def kill_one() -> None:
        for _ in range(2000):
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    if any("spawn_main" in part for part in child.cmdline()):
                        child.send_signal(signal.SIGKILL)
                        return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(XecError, match=r"a worker process died.*the same command continues"):
        run(files, tmp_path / "d", workers=2)
    killer.join()
    run(files, tmp_path / "d")
    assert digests(tmp_path / "d") == digests(reference)
