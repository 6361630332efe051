"""Files: the tree and its types, several files, the same command again, interrupted writing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import uproot

from ingest.toymc import ToyOptions, generate, rootfile
from ingest.toymc.rootfile import write
from shards.base import ConfigError, OutputError

TYPES = {
    "npho": "float[4760]",
    "time": "float[4760]",
    "relative_time": "float[4760]",
    "time_min_used": "double",
    "emiAng": "double[2]",
    "energyTruth": "double",
    "energyDep": "double",
    "nGamma": "int32_t",
    "timeTruth": "double",
    "uvwTruth": "double[3]",
    "xyzTruth": "double[3]",
    "emiVec": "double[3]",
    "xyzVTX": "double[3]",
    "run": "int32_t",
    "event": "int32_t",
}
CEX_TYPES = {"Ebgo": "double", "Angle": "double", "gstatus": "int32_t", "patch": "int32_t", "nDead": "int32_t"}


@pytest.mark.parametrize("compression", ["zstd", "zlib", "lz4", "none"])
def test_file_holds_the_generated_events_in_a_ttree(tmp_path: Path, compression: str) -> None:
    options = ToyOptions(energy="cex", seed=3)
    (written,) = write(tmp_path / "toy.root", 30, options, compression=compression)
    assert (written.events, written.runs, written.existed) == (30, (1, 1), False)
    expected = generate(30, options).branches()
    with uproot.open(written.path) as file:
        tree = file["tree"]
        assert tree.classname == "TTree"
        assert tree.typenames() == TYPES | CEX_TYPES
        found = tree.arrays(library="np")
    assert list(tmp_path.iterdir()) == [written.path]
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_chunks_and_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rootfile, "CHUNK", 100)
    options = ToyOptions(runs=2)
    write(tmp_path / "toy.root", 300, options)
    expected = generate(300, options)
    with uproot.open(tmp_path / "toy.root") as file:
        np.testing.assert_array_equal(file["tree"]["npho"].array(library="np"), expected.npho)
        np.testing.assert_array_equal(file["tree"]["event"].array(library="np"), [*range(150)] * 2)


def test_several_files_hold_whole_runs_and_the_events_of_one(tmp_path: Path) -> None:
    options = ToyOptions(runs=5, first_run=40)
    one = write(tmp_path / "one.root", 33, options)
    three = write(tmp_path / "three.root", 33, options, files=3, processes=2)
    assert [w.path.name for w in three] == ["three_000.root", "three_001.root", "three_002.root"]
    assert [w.runs for w in three] == [(40, 41), (42, 43), (44, 44)]
    parts = [uproot.open(w.path)["tree"].arrays(["run", "event", "npho"], library="np") for w in three]
    whole = uproot.open(one[0].path)["tree"].arrays(["run", "event", "npho"], library="np")
    for name in whole:
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), whole[name])


def test_same_command_again_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "toy.root"
    write(path, 5, ToyOptions())
    before = path.stat().st_mtime_ns
    (again,) = write(path, 5, ToyOptions())
    assert again.existed
    assert path.stat().st_mtime_ns == before


def test_the_same_events_are_the_same_source(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write(tmp_path / f"{name}.root", 5, ToyOptions(seed=seed))
    one, same, other = (uproot.open(tmp_path / f"{name}.root").file.uuid for name in "abc")
    assert one == same != other


@pytest.mark.parametrize(
    ("n", "options", "text"),
    [
        (5, ToyOptions(seed=2), r"toy.root: exists with different contents \(found seed 1 instead of 2\)"),
        (6, ToyOptions(), r"found runs \[\[1, 5\]\] instead of \[\[1, 6\]\]"),
    ],
)
def test_other_options_are_refused(tmp_path: Path, n: int, options: ToyOptions, text: str) -> None:
    write(tmp_path / "toy.root", 5, ToyOptions())
    with pytest.raises(OutputError, match=text):
        write(tmp_path / "toy.root", n, options)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "toy.root"
    path.write_text("not a ROOT file")
    with pytest.raises(OutputError, match="exists, but is not a readable ROOT file"):
        write(path, 5, ToyOptions())
    with uproot.recreate(path) as file:
        file.mktree("tree", {"npho": "float32"})
    with pytest.raises(OutputError, match="found nothing written by this command"):
        write(path, 5, ToyOptions())


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def failing(block: rootfile.Block, options: ToyOptions) -> object:
        done.append(block)
        if len(done) > 1:
            raise MemoryError
        return generate(block.count, options)

    monkeypatch.setattr(rootfile, "generate_block", failing)
    monkeypatch.setattr(rootfile, "CHUNK", 1)
    with pytest.raises(MemoryError):
        write(tmp_path / "toy.root", 200, ToyOptions())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"n": 0}, "events: is too small"),
        ({"n": 5, "files": 2}, r"files: does not fit the number of runs \(found 2, expected 1…1"),
        ({"n": 5, "compression": "zstdd"}, "compression: is not known .*did you mean 'zstd'"),
        ({"n": 5, "processes": 0}, "processes: is too small"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, arguments: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        write(tmp_path / "toy.root", **{"options": ToyOptions(), **arguments})  # type: ignore[arg-type]


def test_killed_while_writing_and_run_again(tmp_path: Path) -> None:
    """What a killed command leaves behind is not a result, and the next one makes it as if nothing had been."""
    path = tmp_path / "toy.root"
    command = [sys.executable, "-m", "xec", "toymc", "--events", "700", "--out", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("*.part")):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not path.exists()
    subprocess.run(command, check=True, capture_output=True)
    assert list(tmp_path.iterdir()) == [path]
    with uproot.open(path) as file:
        np.testing.assert_array_equal(file["tree"]["npho"].array(library="np"), generate(700).npho)


def test_public_names_are_what_they_say() -> None:
    import ingest.toymc
    import ingest.toymc.likelihood

    assert callable(ingest.toymc.expectation)
    for name in ingest.toymc.__all__:
        assert getattr(ingest.toymc, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'genrate'"):
        _ = ingest.toymc.genrate
