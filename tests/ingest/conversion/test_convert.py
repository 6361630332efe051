"""Conversion: what is in the dataset and in which order, whoever does which part of the work."""

from __future__ import annotations

import dataclasses
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.conversion import N, options, rows, run
from support.ingest_files import digests, events, write_tree

from ingest.conversion.convert import finalize_folder, run_step
from ingest.conversion.plan import make_plan
from ingest.reading.rootio import open_sources
from shards.base import ConfigError, InputError, OutputError
from shards.normalization import normalize, preset
from shards.opening import open_dataset
from shards.operations.merge import merge
from shards.order import event_keys
from shards.writer import ShardRows, write_shard

pytestmark = pytest.mark.usefixtures("small_units")


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


def test_the_bytes_are_those_of_writing_the_events_directly(reference: Path, tmp_path: Path) -> None:
    data, *_ = rows(reference)
    place = data.table(["source", "entry"])
    source, entry = place["source"].to_numpy().astype(np.int64), place["entry"].to_numpy().astype(np.int64)
    sensors, truth = data.read_stored(np.arange(data.n_events))
    ids = [s.id for s in data.manifest.sources]
    for number, start in enumerate(range(0, data.n_events, 25)):
        part = ShardRows(sensors, truth, source, entry)[slice(start, start + 25)]
        assert write_shard(tmp_path, number, [part], data.manifest.settings, ids) == data.manifest.shards[number]


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
