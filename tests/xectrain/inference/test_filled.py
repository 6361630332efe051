"""Files that an inpainter has filled: they are read back without a word from the user, and say what their times are."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import uproot
from support.trained import Trained

from ingest.reading.rootio import read_chunks
from shards.base import ConfigError, InputError
from shards.dead import DeadEntry, DeadList
from xectrain.inference.infer import infer
from xectrain.inference.load import load
from xectrain.inference.model import Model
from xectrain.inference.request import Request
from xectrain.inference.root_output import read_metadata
from xectrain.inference.sources import ReadOptions, RootPart, open_parts
from xectrain.targets import TargetOptions

DEAD = np.array([5, 700, 4300])


@pytest.fixture(scope="module")
def inpainter(trained: Trained) -> Model:
    return load(trained.inpaint, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def filled(trained: Trained, inpainter: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a.root` with three dead sensors filled."""
    out = tmp_path_factory.mktemp("filled") / "filled.root"
    dead = DeadList([DeadEntry(None, int(sensor)) for sensor in DEAD])
    infer(inpainter, open_parts([trained.roots[0]]), out, Request(ReadOptions(dead=dead)))
    return out


def test_relative_times_are_called_so(filled):
    assert read_metadata(filled)["time_reference"] == "relative"
    with uproot.open(filled) as file:
        names = file["predictions"].keys()
    assert "relative_time" in names
    assert "time" not in names


@pytest.mark.parametrize(("schema", "tree"), [("mc", None), ("real", None), ("mc", "predictions"), ("filled", None)])
def test_a_shipped_schema_reads_it_back_as_it_was(trained, filled, caplog, schema, tree):
    with caplog.at_level(logging.INFO):
        (part,) = open_parts([filled], schema, tree)
    said = "its dead sensors were filled by an inpainter; its times (relative_time) are relative to time_min_used"
    assert f"{filled}: {said}" in caplog.messages
    assert part.relative_time is True
    (before,) = open_parts([trained.roots[0]])
    assert isinstance(part, RootPart)
    assert isinstance(before, RootPart)
    (old,), (new,) = list(read_chunks(before.source)), list(read_chunks(part.source))
    assert new.columns.keys() == old.columns.keys()
    for name, values in old.columns.items():
        np.testing.assert_array_equal(new.columns[name], values, err_msg=name)
    with uproot.open(filled) as file:
        flags = file["predictions/filled"].array(library="np")
    assert flags[:, DEAD].all()
    for one, two in ((old.npho, new.npho), (old.time, new.time)):
        np.testing.assert_array_equal(one[~flags], two[~flags])
        assert np.isfinite(two[flags]).all()


def test_a_regressor_reads_it(trained, filled, tmp_path):
    infer(load(trained.regress, device="cpu"), open_parts([filled]), tmp_path / "p.root", Request())
    with uproot.open(tmp_path / "p.root") as file:
        table = file["predictions"].arrays(["pred_energy", "true_energy", "pred_timing"], library="np")
    assert all(np.isfinite(values).all() for values in table.values())


def test_absolute_times_are_called_time_and_are_refused_by_a_model_of_relative_ones(trained, inpainter, tmp_path):
    """The same with an inpainter and a file of absolute times."""
    schema = tmp_path / "absolute.yaml"
    schema.write_text(
        "extends: mc\nsensors:\n  npho: {branches: [npho]}\n  time: {branches: [relative_time]}\n", encoding="utf-8"
    )
    facts = dataclasses.replace(inpainter.facts, targets=TargetOptions(relative_time=False))
    other = load(trained.inpaint, device="cpu", precision="fp32")
    other.facts = facts
    infer(other, open_parts([trained.roots[0]], str(schema)), tmp_path / "filled.root", Request())
    (part,) = open_parts([tmp_path / "filled.root"])
    assert part.relative_time is False
    with pytest.raises(ConfigError, match="has another kind of sensor times"):
        infer(load(trained.regress, device="cpu"), [part], tmp_path / "p.root", Request())


def test_found_in_a_folder_it_is_an_output_and_named_a_dataset_of_its_own(trained, filled, tmp_path, caplog):
    for path in (trained.roots[0], filled):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (part,) = open_parts([tmp_path])
    assert part.name == "a.root"
    assert "filled.root: passed over, since it holds predictions" in caplog.text
    (tmp_path / "a.root").unlink()
    with pytest.raises(InputError, match=r"no usable input files are left \(found predictions only\); to read files"):
        open_parts([tmp_path])
