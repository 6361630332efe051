"""`xec display` on real ROOT files and real datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from support.synthetic import make_dataset, make_events
from typer.testing import CliRunner

from shards.base import ConfigError, InputError, OutputError, XecError
from shards.normalization import preset
from xectrain.cli import display as display_cli
from xectrain.cli.display import app, title_of
from xectrain.display.event_source import read_event, read_prediction
from xectrain.inference.root_output import OutputBranch, root_output

EVENTS = 5
NPHO = np.random.default_rng(0).exponential(300, (EVENTS, 4760)).astype(np.float32)
TIME = np.random.default_rng(1).uniform(0, 1e-7, (EVENTS, 4760)).astype(np.float32)
NPHO[:, 7] = np.nan
NPHO[:, 4100] = 1e10
TIME[:, 9] = 1e10
UVW = np.random.default_rng(2).uniform(1, 20, (EVENTS, 3))
RUN = np.array([1, 1, 2, 2, 2])
EVENT = np.array([10, 11, 10, 11, 12])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("root") / "events.root"
    branches: dict[str, Any] = {
        "run": RUN,
        "event": EVENT,
        "npho": NPHO,
        "time": TIME,
        "uvwTruth": UVW,
        "energyTruth": np.full(EVENTS, 0.05283),
        "uvwRecoFI": UVW + 1,
    }
    with uproot.recreate(path) as file:
        tree = file.mktree("tree", {k: np.dtype((v.dtype, v.shape[1:])) for k, v in branches.items()})
        tree.extend(branches)
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def failed(result: Any) -> XecError:
    assert isinstance(result.exception, XecError), result.output
    return result.exception


# ---------------------------------------------------------------------------------------------------- finding events


@pytest.mark.parametrize(
    ("which", "entry"),
    [
        ({"run": 1, "event": 11}, 1),
        ({"run": 2, "event": 11}, 3),
        ({"event": 10}, 0),
        ({"event": 12}, 4),
        ({"entry": 3}, 3),
    ],
)
def test_events_of_a_root_file_by_number_or_entry(root: Path, which: dict[str, int], entry: int) -> None:
    found = read_event([root], **which)
    assert (found.run, found.event) == (RUN[entry], EVENT[entry])
    assert found.point() == pytest.approx(UVW[entry])
    assert np.flatnonzero(found.dead).tolist() == [7, 4100]
    assert np.array_equal(found.npho[~found.dead], NPHO[entry].astype(float)[~found.dead])
    assert np.isnan(found.time[9])
    assert found.place == f"events.root, entry {entry}"


def test_entries_count_over_several_files(root: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.root"
    with uproot.recreate(second) as file:
        tree = file.mktree("tree", {n: np.dtype(("f4", (4760,))) for n in ("npho", "time")})
        tree.extend({"npho": NPHO[:2] + 1, "time": TIME[:2]})
    found = read_event([root, second], entry=EVENTS + 1)
    assert found.place == "second.root, entry 1"
    assert found.npho[0] == NPHO[1, 0] + 1
    assert found.point() is None
    with pytest.raises(InputError, match=r"no entry 7 in the input \(found 7 entries, expected 0…6\)"):
        read_event([root, second], entry=7)


def test_the_dead_branch_of_a_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "dead.root"
    dead = np.zeros((1, 4760), dtype=np.int8)
    dead[0, [3, 4200]] = 1
    branches = {"npho": NPHO[:1], "time": TIME[:1], "dead": dead}
    with uproot.recreate(path) as file:
        file.mktree("tree", {k: np.dtype((v.dtype, v.shape[1:])) for k, v in branches.items()}).extend(branches)
    assert np.flatnonzero(read_event([path], entry=0).dead).tolist() == [3, 7, 4100, 4200]


def test_events_of_a_dataset_in_physical_units(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", events=20, events_per_shard=8)
    npho, time, truth = make_events(10, 1, first_event=1000)
    found = read_event([data.path], event=1004)
    good = ~found.dead & (npho[4] > 0)
    assert 4000 < good.sum() < 4760
    assert np.allclose(found.npho[good], npho[4][good], rtol=1e-3, atol=0.1)
    timed = np.isfinite(found.time)
    assert np.allclose(found.time[timed], time[4][timed], atol=1e-10)
    assert found.columns["energy"] == truth[4][4]
    row = int(found.place.rpartition(" ")[2])
    assert read_event([data.path], entry=row).event == 1004
    with pytest.raises(InputError, match="no run 3 event 1004 in the input"):
        read_event([data.path], run=3, event=1004)
    assert preset("standard") == data.normalization


def test_which_event_must_be_said_once(root: Path) -> None:
    with pytest.raises(ConfigError, match="exactly one event must be chosen; give either --event"):
        read_event([root])
    with pytest.raises(ConfigError, match="exactly one event must be chosen"):
        read_event([root], event=1, entry=1)
    with pytest.raises(ConfigError, match="--run and --entry exclude each other"):
        read_event([root], run=1, entry=1)
    with pytest.raises(InputError, match="no run 1 event 12 in the input"):
        read_event([root], run=1, event=12)


# ---------------------------------------------------------------------------------------------------- predictions


@pytest.fixture(params=["root", "parquet", "csv"])
def predictions(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    import polars as pl

    path = tmp_path / f"pred.{request.param}"
    columns = {"run": RUN, "event": EVENT, "pred_energy": np.full(EVENTS, 0.0519)}
    columns |= {f"pred_{axis}": UVW[:, i] + 0.25 for i, axis in enumerate("uvw")}
    if path.suffix == ".root":
        with root_output(
            path, {n: OutputBranch("int32" if n in ("run", "event") else "float64") for n in columns}
        ) as out:
            out.extend(columns)
            out.metadata({"model": "test"})
    elif path.suffix == ".csv":
        pl.DataFrame(columns).write_csv(path)
    else:
        pl.DataFrame(columns).write_parquet(path)
    return path


def test_predictions_are_found_by_run_and_event(predictions: Path) -> None:
    found = read_prediction(predictions, 2, 11)
    assert [found[f"pred_{axis}"] for axis in "uvw"] == pytest.approx(UVW[3] + 0.25)
    with pytest.raises(InputError, match="no run 3 event 11 in the input"):
        read_prediction(predictions, 3, 11)


def test_files_that_hold_no_predictions_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="predictions"):
        read_prediction(root, 1, 10)
    with pytest.raises(InputError, match=r"nothing\.root: there is no such file"):
        read_prediction(tmp_path / "nothing.root", 1, 10)
    (tmp_path / "a.csv").write_text("pred_u\n1\n")
    with pytest.raises(InputError, match=r"a\.csv: has no column 'run'"):
        read_prediction(tmp_path / "a.csv", 1, 10)
    (tmp_path / "b.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match=r"b\.parquet: cannot be read"):
        read_prediction(tmp_path / "b.parquet", 1, 10)


def test_the_title_names_the_event_and_compares_truth_and_prediction(root: Path) -> None:
    found = read_event([root], run=2, event=11)
    first, second = title_of(found, {"pred_energy": 0.0519, "pred_theta": 91.5}).splitlines()
    assert first == "run 2, event 11 (events.root, entry 3)"
    assert "E = 52.83 MeV → 51.90 MeV" in second
    assert "θ = 91.50°" in second


# ---------------------------------------------------------------------------------------------------- the command


def test_the_command_draws_says_so_and_repeats_itself_harmlessly(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "event.png"
    first = run(root, "--run", 1, "--event", 11, "--output", out, "--only", "npho")
    assert first.exit_code == 0
    assert first.output == f"Drew events.root, entry 1 to {out}.\n"
    content = out.read_bytes()
    assert content.startswith(b"\x89PNG")
    again = run(root, "--entry", 1, "--output", out, "--only", "npho")
    assert again.output == f"{out} exists with the same picture; nothing to do.\n"
    other = run(root, "--entry", 2, "--output", out, "--only", "npho")
    assert isinstance(failed(other), OutputError)
    assert "exists with a different picture; give --overwrite" in str(other.exception)
    assert out.read_bytes() == content
    assert run(root, "--entry", 2, "--output", out, "--only", "npho", "--overwrite").exit_code == 0
    assert out.read_bytes() != content


def test_the_command_hands_everything_to_the_figure(
    root: Path, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xectrain.display import event as module

    seen: dict[str, Any] = {}
    original = module.event_figure

    def spy(npho: Any, time: Any, **options: Any) -> Any:
        seen.update(options)
        return original(npho, time, **options)

    monkeypatch.setattr(module, "event_figure", spy)
    dead = tmp_path / "dead.txt"
    dead.write_text("100\n4700\n")
    out = tmp_path / "event.pdf"
    result = run(
        root, "--run", 2, "--event", 11, "-o", out, "--predictions", predictions, "--dead", dead, "--only", "time"
    )
    assert result.exit_code == 0, result.exception
    assert np.flatnonzero(seen["dead"]).tolist() == [7, 100, 4100, 4700]
    assert seen["truth"] == pytest.approx(UVW[3])
    assert seen["prediction"] == pytest.approx(UVW[3] + 0.25)
    assert seen["conventional"] == pytest.approx(UVW[3] + 1)
    assert seen["panels"] == ("time",)


def test_errors_come_before_any_work_and_leave_nothing(root: Path, tmp_path: Path) -> None:
    assert "is not the name of a picture" in str(
        failed(run(tmp_path / "no.root", "--entry", 0, "-o", tmp_path / "a.jpg"))
    )
    assert "no.root" in str(failed(run(tmp_path / "no.root", "--entry", 0, "-o", tmp_path / "a.png")))
    assert "no panel 'charge'" in str(failed(run(root, "--entry", 0, "-o", tmp_path / "a.png", "--only", "charge")))
    survey = tmp_path / "survey.txt"
    assert "survey.txt" in str(failed(run(root, "--entry", 0, "-o", tmp_path / "a.png", "--geometry", survey)))
    assert not (tmp_path / "a.png").exists()


def test_without_a_screen_an_output_is_needed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    error = failed(run(root, "--entry", 0))
    assert "there is no screen to draw on (found backend agg); give --output FILE" in str(error)


def test_on_a_screen_the_figure_is_shown(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    monkeypatch.setattr(display_cli, "interactive_backends", lambda _: ["agg"])
    shown: list[int] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(len(plt.gcf().axes)))
    assert run(root, "--entry", 0).exit_code == 0
    assert shown == [4]  # two maps, two colour bars
    plt.close("all")
