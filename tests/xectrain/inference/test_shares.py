"""Predictions in shares, as the elements of a cluster's array make them, joined to what one run gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import uproot
from support.synthetic import make_dataset
from support.trained import COLUMNS, tiny_run, write_root

from shards.base import ConfigError, InputError, OutputError
from xectrain.inference.infer import infer, join, share_name
from xectrain.inference.load import load
from xectrain.inference.regressor import Predictor
from xectrain.inference.request import Request
from xectrain.inference.root_output import read_metadata
from xectrain.inference.sources import Part, ReadOptions, count_pieces, open_parts, share

EVENTS = 30


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets of 5 and 2 shards, three ROOT files, and a model."""
    folder = tmp_path_factory.mktemp("shares")
    first = make_dataset(folder / "first", EVENTS, events_per_shard=7, columns=COLUMNS)
    make_dataset(folder / "second", 9, events_per_shard=5, columns=COLUMNS, first_source=7)
    for number in range(3):
        write_root(folder / f"{number}.root", 6 + number, seed=number, first_event=1000 * number)
    tiny_run(folder / "run", first)
    return folder


@pytest.fixture(scope="module")
def predictor(place: Path) -> Predictor:
    found = load(place / "run", device="cpu", precision="fp32", batch_size=4)
    assert isinstance(found, Predictor)
    return found


def parts_of(place: Path, kind: str) -> list[Part]:
    names = ("first", "second") if kind == "shards" else ("0.root", "1.root", "2.root")
    return open_parts([place / name for name in names])


def rows(path: Path) -> dict[str, np.ndarray]:
    with uproot.open(path) as file:
        return dict(file["predictions"].arrays(library="np"))


@pytest.mark.parametrize(("kind", "pieces"), [("shards", 7), ("root", 3)])
@pytest.mark.parametrize("select", [None, "abs(u) < 20"])
def test_joined_shares_are_what_one_run_gives(
    place: Path, predictor: Predictor, tmp_path: Path, kind: str, pieces: int, select: str | None
) -> None:
    parts, request = parts_of(place, kind), Request(ReadOptions(select))
    assert count_pieces(parts) == pieces
    infer(predictor, parts, tmp_path / "whole.root", request)
    for index in reversed(range(3)):
        infer(predictor, parts, tmp_path / share_name(index, 3), request, (index, 3))
    result = join(predictor, parts, tmp_path / "joined.root", request, tmp_path, 3)
    whole, joined = rows(tmp_path / "whole.root"), rows(tmp_path / "joined.root")
    assert list(whole) == list(joined)
    for name, values in whole.items():
        if name.startswith("pred_"):  # batches differ at the edges of shares, and with them the last bit
            np.testing.assert_allclose(joined[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(joined[name], values, err_msg=name)
    assert read_metadata(tmp_path / "joined.root") == read_metadata(tmp_path / "whole.root")
    assert result.events == len(whole["event"])
    assert infer(predictor, parts, tmp_path / "joined.root", request).existed


def test_shares_are_disjoint_and_complete(place: Path) -> None:
    parts = parts_of(place, "shards")
    for count in range(1, 8):
        found = [(n, p.identity()) for i in range(count) for n, p in share(parts, i, count)]
        assert sum(p.events for i in range(count) for _, p in share(parts, i, count)) == EVENTS + 9
        assert len({str(f) for f in found}) == len(found)


def test_what_cannot_be_shared_or_joined_is_said(place: Path, predictor: Predictor, tmp_path: Path) -> None:
    parts = parts_of(place, "root")
    with pytest.raises(ConfigError, match=r"--task-count: exceeds the number of .*found 4, expected 3"):
        share(parts, 0, 4)
    with pytest.raises(ConfigError, match=r"--task-index: there is no such share \(found 2, expected 0 to 1\)"):
        share(parts, 2, 2)
    infer(predictor, parts, tmp_path / share_name(0, 2), Request(), (0, 2))
    with pytest.raises(InputError, match=r"part-00001-of-00002\.root: is missing; run --task-index 1 --task-count 2"):
        join(predictor, parts, tmp_path / "j.root", Request(), tmp_path, 2)
    infer(predictor, parts, tmp_path / share_name(1, 2), Request(columns=()), (1, 2))
    with pytest.raises(InputError, match=r"part-00001-of-00002\.root: came from a different model, data or"):
        join(predictor, parts, tmp_path / "j.root", Request(), tmp_path, 2)
    with pytest.raises(OutputError, match="exists, but came from a different model"):
        infer(predictor, parts, tmp_path / share_name(0, 2), Request(columns=()), (0, 2))
    assert not (tmp_path / "j.root").exists()


def test_the_command_says_how_many_pieces_there_are(place: Path, run_command: Callable[..., str]) -> None:
    said = run_command("xectrain.cli.infer:app", place / "run", place / "first", "--output", "x", "--check")
    assert said.strip() == "30 events in 5 pieces (shards and files)"
    with pytest.raises(ConfigError, match=r"--join: needs --task-count"):
        run_command("xectrain.cli.infer:app", place / "run", place / "first", "--output", "x", "--join", ".")
