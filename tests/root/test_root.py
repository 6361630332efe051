"""Files that ROOT wrote, and ours as ROOT reads them: with the wheel `ROOT` (`pip install ROOT`), else skipped."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import uproot
from support.trained import Trained

from ingest.conversion.convert import convert
from ingest.conversion.options import ConversionOptions
from ingest.reading.rootio import open_sources, read_chunks
from ingest.reading.schema import load_schema
from ingest.toymc.options import ToyOptions
from ingest.toymc.rootfile import write as write_toy
from shards.opening import open_dataset
from xectrain.inference.infer import infer
from xectrain.inference.load import load
from xectrain.inference.request import Request
from xectrain.inference.sources import open_parts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ROOT") is None, reason="the wheel ROOT is not installed"),
]
SCRIPT = Path(__file__).with_name("write_with_root.py")
KINDS = ("zlib", "lzma", "lz4", "zstd", "none", "clusters", "vectors", "autosave", "packed", "snapshot", "rntuple")


def with_root(*arguments: object) -> str:
    """ROOT in a process of its own, as it takes over signals and warnings of the one that it is imported in."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    with_root("write", folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_what_root_wrote_is_read_to_the_bit(written: Path, tmp_path: Path, kind: str) -> None:
    truth = np.load(written / "truth.npz")
    (source,) = open_sources([written / f"{kind}.root"])
    chunks = list(read_chunks(source, 5))
    for name in ("npho", "time"):
        found = np.concatenate([getattr(chunk, name) for chunk in chunks])
        np.testing.assert_array_equal(found, truth["npho" if name == "npho" else "relative_time"])
    for column, expected in {
        "energy": truth["energyTruth"],
        "v": truth["uvwTruth"][:, 1],
        "event": truth["event"],
        "run": truth["run"],
        "time_min_used": truth["time_min_used"],
    }.items():
        found = np.concatenate([chunk.columns[column] for chunk in chunks])
        if kind == "packed" and column == "energy":  # Double32_t without a range is a float in the file
            np.testing.assert_array_equal(found, expected.astype("f4"))
        else:
            np.testing.assert_array_equal(found, expected)
    convert([source], tmp_path / "d", ConversionOptions(schema=load_schema("mc")))
    assert sorted(open_dataset(tmp_path / "d").column("event")) == sorted(truth["event"])


def test_predictions_are_friends_of_their_input(trained: Trained, tmp_path: Path) -> None:
    """Rows out are rows in: ROOT finds the prediction of each event beside it."""
    infer(load(trained.regress, device="cpu"), open_parts([trained.roots[0]]), tmp_path / "p.root", Request())
    lines = with_root("friends", trained.roots[0], tmp_path / "p.root", "pred_energy").split()
    event, of_prediction, energy = np.array(lines, dtype=np.float64).reshape(-1, 3).T
    with uproot.open(tmp_path / "p.root") as file:
        predicted = file["predictions/pred_energy"].array(library="np")
    assert len(event) == 20
    np.testing.assert_array_equal(event, of_prediction)
    np.testing.assert_array_equal(energy, predicted)


def test_root_reads_what_we_write(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy.root", 6, ToyOptions())
    (source,) = open_sources([tmp_path / "toy.root"])
    (chunk,) = read_chunks(source)
    theirs = [float(line) for line in with_root("read", tmp_path / "toy.root", "tree", "energyTruth").split()]
    np.testing.assert_array_equal(theirs, chunk.columns["energy"])
