from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import uproot
from support.ingest_files import S, add_tree, events, write_tree

from ingest.inspection import report
from ingest.inspection.inspect import expected_bytes, find_duplicates, list_trees, sample
from ingest.reading.rootio import open_sources
from shards.dead import DeadEntry, DeadList
from shards.normalization import preset

STANDARD = preset("standard")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = events(60)
    tree["npho"][:, 44] = 12.0
    tree["event"][30] = 3
    tree["energyTruth"][[1, 2]] = np.nan
    return write_tree(tmp_path_factory.mktemp("root") / "a.root", tree)


def test_trees_are_listed_whatever_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "t.root"
    with uproot.recreate(path) as out:
        for _ in range(2):
            add_tree(out, {"light": np.ones((3, S), "f4"), "n": np.arange(3)}, "odd")
        out["other"] = {"x": np.ones(2)}
        out["text"] = "no tree"
    trees = {tree.path: tree for tree in list_trees(path)}
    assert set(trees) == {"odd", "other"}
    assert (trees["odd"].cycles, trees["odd"].entries, trees["odd"].kind) == ((2, 1), 3, "TTree")
    assert trees["other"].kind == "RNTuple"
    lines = "\n".join(report.tree_lines(path, list_trees(path)))
    assert "TTree 'odd': 3 entries, newest of cycles 2, 1" in lines
    assert "light  float[4760]" in lines


def test_a_sample_counts_what_is_bad_per_face(file: Path) -> None:
    found = sample(open_sources([file]), 1000, STANDARD, DeadList())
    assert found.events == 60
    assert {17, 4100} <= set(found.dead_candidates().tolist())
    assert found.constant[44]
    assert found.constant.sum() == 1
    faces = found.per_face()
    assert faces["inner"]["dead"] == pytest.approx(1 / 4092, rel=0.05)
    assert faces["outer"]["dead"] == pytest.approx(1 / 234, rel=0.05)
    assert faces["top"]["dead"] == 0
    assert 0 < faces["bottom"]["out_of_domain"] < 0.01
    assert found.ranges["energy"].unknown == 2
    assert found.ranges["npho"].low == -2000
    text = "\n".join(report.sample_lines(found))
    assert "dead-channel candidates: 17, 4100" in text
    assert "channels with the same photon number in every event: 44" in text


def test_a_listed_channel_counts_as_dead(file: Path) -> None:
    found = sample(open_sources([file]), 1000, STANDARD, DeadList.of([DeadEntry(4596)]))
    assert found.per_face()["top"]["dead"] == pytest.approx(1 / 73)


def test_a_small_sample_is_spread_over_the_file(file: Path) -> None:
    found = sample(open_sources([file]), 16, STANDARD, DeadList())
    assert found.events == 16
    assert (found.ranges["event"].low, found.ranges["event"].high) == (0, 59)


def test_duplicates_are_found_across_files(file: Path, tmp_path: Path) -> None:
    once = find_duplicates(open_sources([file]))
    assert (once.groups, once.events, once.examples) == (1, 1, ((100, 3),))
    other = write_tree(tmp_path / "b.root", events(5))
    both = find_duplicates(open_sources([file, other]))
    assert (both.groups, both.events) == (5, 6)
    assert "5 (run, event) occur more than once (6 surplus events): (100, 0)" in report.duplicate_line(both)
    unique = write_tree(tmp_path / "c.root", events(5, run=7))
    assert report.duplicate_line(find_duplicates(open_sources([unique]))) == "every (run, event) occurs once"


def test_the_expected_size_is_what_conversion_gives(file: Path, tmp_path: Path) -> None:
    from ingest.conversion.convert import convert
    from ingest.conversion.options import ConversionOptions
    from ingest.reading.schema import load_schema

    sources = open_sources([file])
    manifest = convert(
        sources, tmp_path / "d", ConversionOptions(schema=load_schema("mc"), allow_duplicates=True)
    ).manifest
    size = sum(shard.tar.bytes for shard in manifest.shards)
    assert expected_bytes(sources, "float32") <= size <= expected_bytes(sources, "float32") + 10240 + 1024
    assert expected_bytes(sources, "float16") < 0.53 * size


def test_mapping_and_differences_between_files_are_told(file: Path, tmp_path: Path) -> None:
    other = {**events(2), "energyDep": np.ones(2), "seed": np.ones(2)}
    other["time"] = other.pop("relative_time")
    (tmp_path / "s.yaml").write_text("extends: mc\ncarry: [seed]\n")
    sources = open_sources([file, write_tree(tmp_path / "b.root", other)], schema=str(tmp_path / "s.yaml"))
    lines = list(report.mapping_lines(sources[1], "s"))
    assert any("time" in line and "s, absolute" in line for line in lines)
    assert any("energy_dep" in line and "GeV, deposited" in line for line in lines)
    assert any("seed" in line and "carried" in line for line in lines)
    assert any("absent: theta, phi" in line for line in lines)
    assert list(report.difference_lines(sources)) == [
        "  b.root differs: +energy_dep, +seed",
        "  b.root differs: its times are absolute",
    ]
