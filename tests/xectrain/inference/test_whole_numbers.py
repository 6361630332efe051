"""Whole numbers of 64 bits go through inference as they came, from ROOT and from shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import uproot
from support.ingest_files import write_tree
from support.trained import Trained

from ingest.conversion.convert import convert
from ingest.conversion.options import ConversionOptions
from ingest.reading.rootio import open_sources
from ingest.reading.schema import load_schema
from shards.base import OutputError
from xectrain.display.event_source import read_event, read_prediction
from xectrain.inference.infer import Request, infer
from xectrain.inference.load import load
from xectrain.inference.sources import ReadOptions, open_parts


def test_they_are_exact_in_predictions_or_refused(trained: Trained, tmp_path: Path) -> None:
    with uproot.open(trained.roots[0]) as file:
        branches = file["tree"].arrays(library="np")
    stamps = np.random.default_rng(1).integers(2**53, 2**63 - 1, len(branches["run"]))
    numbers = 2**53 + np.arange(len(stamps), dtype=np.int64)
    large = {"stamp": stamps, "event": numbers, "run": 2**63 - 1 - branches["run"].astype(np.int64)}
    write_tree(tmp_path / "a.root", {**branches, **large})
    (tmp_path / "s.yaml").write_text("extends: mc\ncarry: [stamp]\n")
    schema = str(tmp_path / "s.yaml")
    wanted = ConversionOptions(schema=load_schema(schema), shuffle=False)
    convert(open_sources([tmp_path / "a.root"], schema=schema), tmp_path / "d", wanted)
    model = load(trained.regress, device="cpu", precision="fp32")
    for name in ("a.root", "d"):
        out = tmp_path / f"{name}.pred.root"
        infer(model, open_parts([tmp_path / name], schema), out, Request())
        with uproot.open(out) as file:
            for branch, values in large.items():
                found = file["predictions"][branch]
                assert found.typename == "int64_t"
                np.testing.assert_array_equal(found.array(library="np"), values)
        event = read_event([tmp_path / name], run=int(large["run"][3]), event=int(numbers[3]))
        assert (event.run, event.event) == (large["run"][3], numbers[3])
        assert read_prediction(out, event.run, event.event)["pred_energy"] > 0
        one = f"event == {2**53 + 1}"
        infer(model, open_parts([tmp_path / name], schema), tmp_path / "one.root", Request(settings=ReadOptions(one)))
        with uproot.open(tmp_path / "one.root") as file:
            assert file["predictions"]["event"].array(library="np").tolist() == [2**53 + 1]
        (tmp_path / "one.root").unlink()
    both = open_parts([tmp_path / "a.root", trained.roots[1]], schema)
    with pytest.raises(OutputError, match=r"stamp: is an integer beyond 2⁵³, but another input lacks it or has"):
        infer(model, both, tmp_path / "both.root", Request())
