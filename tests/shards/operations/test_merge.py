"""Merging and splitting: the bytes that one conversion would have given, and nothing that would not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.synthetic import make_dataset

from ingest.conversion.convert import convert
from ingest.conversion.options import ConversionOptions
from ingest.reading.rootio import open_sources
from ingest.reading.schema import load_schema
from shards.base import ConfigError, CorruptError, InputError, OutputError
from shards.manifest import MANIFEST, Manifest
from shards.opening import open_dataset
from shards.operations.merge import merge
from shards.operations.split import split, split_rows
from shards.order import parse_split
from shards.writer import finalize


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith(".")
    }


def write_root(path: Path, events: int, run: int, seed: int, time_branch: str = "relative_time") -> Path:
    rng = np.random.default_rng(seed)
    npho = rng.exponential(200, (events, 4760)).astype(np.float32) - 3
    npho[:, 5] = np.nan
    time = rng.uniform(0, 1e-7, (events, 4760)).astype(np.float32)
    time[npho < 5] = 1e10
    energy = rng.uniform(0.04, 0.06, events)
    energy[rng.random(events) < 0.1] = 1e10
    branches = {
        "npho": npho,
        time_branch: time,
        "time_min_used": np.full(events, -6e-7),
        "run": np.full(events, run) + np.arange(events) % 3,
        "event": np.arange(events),
        "emiAng": rng.uniform(60, 120, (events, 2)),
        "energyTruth": energy,
        "timeTruth": rng.uniform(-1, 1, events),
        "uvwTruth": rng.uniform(0, 20, (events, 3)),
        "xyzVTX": rng.uniform(-1, 1, (events, 3)),
    }
    with uproot.recreate(path) as file:
        file.mktree("tree", {k: (v.dtype, v.shape[1:]) for k, v in branches.items()})
        file["tree"].extend(branches)
    return path


@pytest.fixture(scope="module")
def root_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("root")
    return [write_root(folder / f"in{i}.root", 20 + 7 * i, 430000 + 10 * i, seed=i) for i in range(3)]


def converted(files: list[Path], out: Path, **options: Any) -> Path:
    schema = load_schema("mc")
    sources = open_sources(files, schema=schema)
    found = sources[0] if isinstance(sources, tuple) else sources
    convert(found, out, ConversionOptions(schema=schema, events_per_shard=16, **options))
    return out


@pytest.mark.parametrize("options", [{}, {"dtype": "float16", "seed": 5}, {"shuffle": False}, {"select": "w > 5"}])
def test_merging_gives_the_bytes_of_one_conversion(
    root_files: list[Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    whole = converted(root_files, tmp_path / "whole", **options)
    parts = [
        converted(root_files[:1], tmp_path / "a", **options),
        converted(root_files[1:], tmp_path / "b", **options),
    ]
    merge(parts if not options.get("shuffle", True) else parts[::-1], tmp_path / "merged")
    assert digests(tmp_path / "merged") == digests(whole)
    assert len(digests(whole)) > 4


@pytest.mark.parametrize("by", ["event", "run", "source"])
def test_splitting_gives_the_bytes_of_a_conversion_with_that_split(
    root_files: list[Path], tmp_path: Path, by: str
) -> None:
    """Here nothing was out of domain, nudged or saturated, so that even the counts can be made again."""
    whole = converted(root_files, tmp_path / "whole")
    fractions, seed = {"train": 0.6, "val": 0.4}, 3
    converted(root_files, tmp_path / "parts", split="train=0.6,val=0.4", split_by=by, split_seed=seed)
    manifests = split(whole, tmp_path / "cut", fractions, by, seed)
    for name in ("train", "val"):
        assert manifests[name].uncounted == ()
        assert digests(tmp_path / "cut" / name) == digests(tmp_path / "parts" / name)
    merge([tmp_path / "parts" / "val", tmp_path / "parts" / "train"], tmp_path / "again")
    assert digests(tmp_path / "again") == digests(whole)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 20), min_size=2, max_size=3), st.permutations([0, 1, 2]), st.integers(3, 12))
def test_merging_is_sorting(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], order: list[int], per_shard: int
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    parts = [
        make_dataset(folder / f"{i}", n, per_shard, columns=("run", "event", "u"), sources=1, first_source=i)
        for i, n in enumerate(sizes)
    ]
    merged = merge([parts[i].path for i in order if i < len(parts)], folder / "merged")
    data = open_dataset(folder / "merged", check="full")
    assert merged.n_events == sum(sizes)
    assert [s.events for s in merged.shards[:-1]] == [per_shard] * (len(merged.shards) - 1)
    events = data.column("event").tolist()
    place = {e: k for k, e in enumerate(events)}
    assert len(place) == sum(sizes)
    for part in parts:
        own = part.column("event").tolist()
        assert own == sorted(own, key=place.__getitem__), "the order within a part is kept"
        sensors, truth = part.read(part.rows())
        got_sensors, got_truth = data.read([place[e] for e in own])
        np.testing.assert_array_equal(got_sensors, sensors)
        np.testing.assert_array_equal(got_truth, truth)
    assert merged.counts.totals()["dead"] == sum(p.manifest.counts.totals()["dead"] for p in parts)


def test_merging_again_changes_nothing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = [make_dataset(tmp_path / f"{i}", 20, 16, first_source=2 * i).path for i in range(2)]
    merge(parts, tmp_path / "out")
    before = digests(tmp_path / "out")
    with caplog.at_level("INFO"):
        merge(parts, tmp_path / "out")
    assert "is already complete" in caplog.text
    assert digests(tmp_path / "out") == before
    other = make_dataset(tmp_path / "other", 20, 16, first_source=9).path
    with pytest.raises(OutputError, match="holds another dataset"):
        merge([parts[0], other], tmp_path / "out")
    with pytest.raises(OutputError, match="is an input of this command"):
        merge(parts, parts[0])
    with pytest.raises(InputError, match="merging needs at least two datasets"):
        merge(parts[:1], tmp_path / "out")


def test_a_merge_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    parts = [make_dataset(tmp_path / f"{i}", 40, 16, first_source=2 * i).path for i in range(2)]
    merge(parts, tmp_path / "whole")
    merge(parts, tmp_path / "cut")
    (tmp_path / "cut" / MANIFEST).unlink()
    (tmp_path / "cut" / "shards" / "000003.tar").unlink()
    (tmp_path / "cut" / "shards" / "000001.tar").write_bytes(b"half")
    merge(parts, tmp_path / "cut")
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


KILLED_AT_A_RENAME = """
import os, signal, sys
from pathlib import Path
renames, replace = 0, os.replace
def counted(a, b):
    global renames
    renames += 1
    if renames == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(a, b)
os.replace = counted
from shards.operations.merge import merge
merge(sys.argv[3:], sys.argv[2])
"""


@pytest.mark.parametrize("rename", [1, 6, 16])
def test_a_merge_that_was_killed_is_finished_by_the_next(tmp_path: Path, rename: int) -> None:
    """Five shards are 15 renames; the sixteenth publishes the manifest."""
    parts = [make_dataset(tmp_path / f"{i}", 40, 16, first_source=2 * i).path for i in range(2)]
    command = [sys.executable, "-c", KILLED_AT_A_RENAME, str(rename), str(tmp_path / "out"), *map(str, parts)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / MANIFEST).exists()
    merge(parts, tmp_path / "out")
    merge(parts, tmp_path / "whole")
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob(".*")), "no temporary file and no lock stays"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float16"}, "dtype differs .found float16, expected float32"),
        ({"seed": 1}, "seed differs .found 1, expected 0"),
        ({"shuffle": False}, "shuffle differs"),
        ({"events_per_shard": 8}, "events_per_shard differs"),
        ({"columns": ("run", "event")}, "columns differs"),
    ],
)
def test_datasets_of_other_settings_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    one = make_dataset(tmp_path / "one", 10, 16).path
    two = make_dataset(tmp_path / "two", **({"events": 10, "events_per_shard": 16, "first_source": 5} | change)).path
    with pytest.raises(InputError, match=rf"two: cannot be merged with .*one: {message}"):
        merge([one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def rewrite(path: Path, change: Callable[[Manifest], Manifest]) -> None:
    m = change(Manifest.read(path))
    finalize(path, m.settings, m.shards, m.sources, m.counts, m.uncounted)


def with_conversion(**values: Any) -> Callable[[Manifest], Manifest]:
    return lambda m: dataclasses.replace(m, settings=dataclasses.replace(m.settings, conversion=values))


def test_conversions_with_other_options_are_refused(tmp_path: Path) -> None:
    one, two = (make_dataset(tmp_path / f"{i}", 10, 16, first_source=2 * i).path for i in range(2))
    rewrite(two, with_conversion(time_floor=10.0))
    with pytest.raises(InputError, match=r"conversion\.time_floor differs .found 10\.0"):
        merge([one, two], tmp_path / "out")
    for path in (one, two):
        rewrite(path, with_conversion(max_events=10))
    with pytest.raises(InputError, match="max_events: has only the first events of its sources"):
        merge([one, two], tmp_path / "out")


def test_dead_lists_are_united_unless_a_shared_run_contradicts(tmp_path: Path) -> None:
    one, two = (make_dataset(tmp_path / f"{i}", 10, 16, first_source=2 * i).path for i in range(2))

    def found(sensor: int, run: int) -> dict[str, Any]:
        return {"sensor": sensor, "run_first": run, "run_last": run, "kind": "invalid", "reason": "found"}

    runs = [set(open_dataset(path).column("run").astype(int).tolist()) for path in (one, two)]
    shared = sorted(runs[0] & runs[1])[0]
    rewrite(one, with_conversion(dead=[found(7, 1)], skipped=[{"name": "b", "reason": "r"}], source_order=None))
    rewrite(two, with_conversion(dead=[found(9, 2)], skipped=[{"name": "a", "reason": "r"}], source_order=None))
    conversion = merge([one, two], tmp_path / "out").settings.conversion
    assert [entry["sensor"] for entry in conversion["dead"]] == [7, 9]
    assert [entry["name"] for entry in conversion["skipped"]] == ["a", "b"]
    assert conversion["source_order"] is None
    rewrite(two, with_conversion(dead=[found(9, shared)], skipped=[], source_order=None))
    with pytest.raises(
        InputError, match=rf"other dead channels in run {shared} than .*found \[9\].*convert the sources"
    ):
        merge([one, two], tmp_path / "out2")


def test_an_event_in_two_datasets_is_refused(tmp_path: Path) -> None:
    one = make_dataset(tmp_path / "one", 10, 16).path
    two = make_dataset(tmp_path / "two", 10, 16).path
    with pytest.raises(InputError, match=r"synthetic-000\d\.root entry \d: an event is in two of the datasets"):
        merge([one, two], tmp_path / "out")


def test_sources_that_only_share_an_id_are_refused(tmp_path: Path) -> None:
    one, two = (make_dataset(tmp_path / f"{i}", 10, 16).path for i in range(2))
    rewrite(two, lambda m: dataclasses.replace(m, sources=tuple(dataclasses.replace(s, size=9) for s in m.sources)))
    with pytest.raises(InputError, match="has a different source with the same id: size differs"):
        merge([one, two], tmp_path / "out")
    rewrite(
        two,
        lambda m: dataclasses.replace(
            m, sources=tuple(dataclasses.replace(s, size=0, dropped={"x": 1}) for s in m.sources)
        ),
    )
    with pytest.raises(InputError, match="different events of a source were dropped"):
        merge([one, two], tmp_path / "out")


def test_parts_of_different_splits_are_refused(tmp_path: Path) -> None:
    whole = make_dataset(tmp_path / "whole", 60, 16, first_source=0).path
    other = make_dataset(tmp_path / "other", 60, 16, first_source=5).path
    split(whole, tmp_path / "a", {"train": 0.5, "val": 0.5})
    split(other, tmp_path / "b", {"train": 0.5, "val": 0.5})
    three = parse_split("train=0.4,val=0.3,test=0.3")
    split(whole, tmp_path / "c", three)
    for parts in (["a/train", "b/val", "b/train"], ["c/train", "c/val"], ["a/train", "other"]):
        with pytest.raises(InputError, match="only equal parts of splits, or all parts of one split"):
            merge([tmp_path / p for p in parts], tmp_path / "out")
    both = merge([tmp_path / "a" / "train", tmp_path / "b" / "train"], tmp_path / "train")
    assert both.settings.split is not None
    assert both.settings.split.name == "train"


def test_counts_that_stored_values_cannot_tell_are_marked_unknown(tmp_path: Path) -> None:
    from shards.normalization import preset

    whole = make_dataset(tmp_path / "whole", 60, 16, normalization=preset("sqrt"))
    assert whole.manifest.counts.totals()["out_of_domain"] > 0
    parts = split(whole.path, tmp_path / "parts", {"train": 0.5, "val": 0.5})
    for manifest in parts.values():
        assert manifest.uncounted == ("out_of_domain",)
        assert manifest.counts.totals()["out_of_domain"] == 0
    assert sum(m.counts.totals()["dead"] for m in parts.values()) == whole.manifest.counts.totals()["dead"]
    again = merge([tmp_path / "parts" / "train", tmp_path / "parts" / "val"], tmp_path / "again")
    assert again.uncounted == ("out_of_domain",)
    for name in ("000000.tar", "000001.parquet", "000003.idx"):
        assert digests(tmp_path / "again")[f"shards/{name}"] == digests(whole.path)[f"shards/{name}"]


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    whole = make_dataset(tmp_path / "whole", 40, 16, columns=("event", "energy")).path
    with pytest.raises(InputError, match="has no run numbers to split by"):
        split(whole, tmp_path / "out", {"a": 0.5, "b": 0.5}, by="run")
    with pytest.raises(InputError, match="no event falls into part 'b'"):
        split(whole, tmp_path / "out", {"a": 1 - 1e-9, "b": 1e-9})
    with pytest.raises(OutputError, match="is an input of this command"):
        split(whole, whole, {"a": 0.5, "b": 0.5})
    with pytest.raises(ConfigError, match="cannot split by 'file'"):
        split(whole, tmp_path / "out", {"a": 0.5, "b": 0.5}, by="file")
    split(whole, tmp_path / "out", {"a": 0.5, "b": 0.5})
    with pytest.raises(InputError, match="is already part 'a' of a split"):
        split(tmp_path / "out" / "a", tmp_path / "out2", {"a": 0.5, "b": 0.5})


def test_split_rows_copies_nothing_and_agrees_with_split(tmp_path: Path) -> None:
    whole = make_dataset(tmp_path / "whole", 60, 16)
    rows = split_rows(whole, {"train": 0.7, "val": 0.3}, by="run")
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(60))
    runs = whole.column("run")
    assert not set(runs[rows["train"]]) & set(runs[rows["val"]])
    split(whole.path, tmp_path / "parts", {"train": 0.7, "val": 0.3}, by="run")
    for name, mine in rows.items():
        np.testing.assert_array_equal(open_dataset(tmp_path / "parts" / name).read(mine * 0)[1].shape[0], len(mine))
        np.testing.assert_array_equal(
            open_dataset(tmp_path / "parts" / name).column("event"), whole.column("event")[mine]
        )


def test_damage_is_not_copied(tmp_path: Path) -> None:
    parts = [make_dataset(tmp_path / f"{i}", 20, 16, first_source=2 * i) for i in range(2)]
    with open(parts[0].file(0, "tar"), "r+b") as file:
        file.seek(9000)
        file.write(b"\x55\x55\x55\x55")
    for act in (
        lambda: merge([p.path for p in parts], tmp_path / "out"),
        lambda: split(parts[0].path, tmp_path / "out", {"a": 0.5, "b": 0.5}),
    ):
        with pytest.raises(CorruptError, match=r"000000\.tar: has changed since it was written"):
            act()
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_the_manifest_of_a_part_names_its_split(tmp_path: Path) -> None:
    whole = make_dataset(tmp_path / "whole", 40, 16).path
    split(whole, tmp_path / "out", {"a": 0.5, "b": 0.5}, seed=2)
    value = json.loads((tmp_path / "out" / "b" / MANIFEST).read_text())
    assert value["split"] == {"name": "b", "by": "event", "fractions": {"a": 0.5, "b": 0.5}, "seed": 2}
    assert value["dropped"] == {"other splits": 40 - value["events"]}
