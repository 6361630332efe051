"""The ROOT writer: what goes in comes back through another reader, and nothing half-written gets a final name."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import uproot

from shards.base import CorruptError, InputError, OutputError
from xectrain.inference.root_output import OutputBranch, read_metadata, root_output

BRANCHES = {
    "run": OutputBranch("int64"),
    "pred_energy": OutputBranch("float64"),
    "in_training_range": OutputBranch("bool"),
    "filled": OutputBranch("bool", 4760),
    "npho": OutputBranch("float32", 4760),
}


def rows(start: int, count: int) -> dict[str, np.ndarray]:
    index = np.arange(start, start + count)
    return {
        "run": index.astype(np.float64),
        "pred_energy": np.where(index % 3 == 0, np.nan, index * 0.1),
        "in_training_range": index % 2 == 0,
        "filled": (index[:, None] + np.arange(4760)) % 5 == 0,
        "npho": (index[:, None] + np.arange(4760) / 8192).astype(np.float32),
    }


def test_chunks_come_back_as_written(tmp_path):
    path = tmp_path / "pred.root"
    with root_output(path, BRANCHES) as out:
        for start, count in ((0, 7), (7, 0), (7, 1), (8, 12)):
            out.extend(rows(start, count))
        assert not path.exists()
        out.metadata({"tasks": "energy", "npho_scale": 1000.0, "events": 20, "note": "θ → °"})
    with uproot.open(path) as file:
        tree = file["predictions"]
        assert tree.classname == "TTree"
        assert tree["npho"].typename == "float[4760]"
        assert tree["run"].typename == "int64_t"
        back = tree.arrays(library="np")
    for name, values in rows(0, 20).items():
        np.testing.assert_array_equal(back[name], values)
    assert read_metadata(path) == {"tasks": "energy", "npho_scale": 1000.0, "events": 20, "note": "θ → °"}
    assert [p.name for p in tmp_path.iterdir()] == ["pred.root"]


def test_small_appends_are_collected_into_large_baskets(tmp_path):
    with root_output(tmp_path / "p.root", {"event": OutputBranch("int64")}) as out:
        for start in range(0, 20_000, 100):
            out.extend({"event": np.arange(start, start + 100)})
        out.metadata({"events": 20_000})
    with uproot.open(tmp_path / "p.root") as file:
        assert file["predictions"]["event"].num_baskets == 3
        np.testing.assert_array_equal(file["predictions"]["event"].array(library="np"), np.arange(20_000))


def test_no_events_is_a_valid_file(tmp_path):
    with root_output(tmp_path / "empty.root", {"run": OutputBranch("int64")}) as out:
        out.metadata({"events": 0})
    with uproot.open(tmp_path / "empty.root") as file:
        assert file["predictions"].num_entries == 0


def test_a_failing_block_leaves_nothing(tmp_path):
    def half_way() -> None:
        with root_output(tmp_path / "p.root", BRANCHES) as out:
            out.extend(rows(0, 3))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half_way()
    assert list(tmp_path.iterdir()) == []


def test_columns_must_fit_the_branches(tmp_path):
    branches = {"run": OutputBranch("int64"), "npho": OutputBranch("float32", 4)}
    good = {"run": np.arange(2), "npho": np.zeros((2, 4))}
    for bad, text in (
        ({"run": np.arange(2)}, r"branches differ .*expected \['npho'\]"),
        ({**good, "luck": np.arange(2)}, r"branches differ .*found \['luck'\]"),
        ({**good, "npho": np.zeros((2, 5))}, r"npho: has the wrong shape \(found \(2, 5\), expected \(2, 4\)\)"),
        ({**good, "run": np.array([1, np.nan])}, r"run: is missing in some events.*row 1"),
    ):
        with pytest.raises(OutputError, match=text), root_output(tmp_path / "p.root", branches) as out:
            out.extend(bad)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_metadata_is_not_published(tmp_path):
    with (
        pytest.raises(OutputError, match="does not hold the two trees"),
        root_output(tmp_path / "p.root", {"run": OutputBranch("int64")}) as out,
    ):
        out.extend({"run": np.arange(2)})
    assert list(tmp_path.iterdir()) == []


def test_metadata_of_other_files(tmp_path):
    with uproot.recreate(tmp_path / "other.root") as file:
        file.mktree("tree", {"x": "int32"}).extend({"x": np.arange(3)})
    with pytest.raises(InputError, match="has no tree `metadata`"):
        read_metadata(tmp_path / "other.root")
    (tmp_path / "not.root").write_bytes(b"rooty" * 100)
    with pytest.raises(CorruptError, match=r"not\.root: cannot be opened as a ROOT file"):
        read_metadata(tmp_path / "not.root")


def test_a_killed_writer_leaves_no_file_of_the_final_name(tmp_path):
    """Killed with rows on disk: only the temporary name exists, and the next writer sweeps it away."""
    path = tmp_path / "pred.root"
    code = f"""
        import numpy as np, os, signal
        from pathlib import Path
        from xectrain.inference.root_output import OutputBranch, root_output
        with root_output(Path({str(path)!r}), {{"run": OutputBranch("int64")}}) as out:
            out.extend({{"run": np.arange(10_000)}})
            os.kill(os.getpid(), signal.SIGKILL)
    """
    root = Path(__file__).parents[3]
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    with root_output(path, {"run": OutputBranch("int64")}) as out:
        out.metadata({"events": 0})
    assert [p.name for p in tmp_path.iterdir()] == ["pred.root"]
