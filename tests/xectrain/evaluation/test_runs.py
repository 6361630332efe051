"""Runs ranked by a metric: seeds give uncertainties, shared seeds cancel, and what cannot be compared is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.base import ConfigError, InputError
from shards.base.documents import yaml_text
from xectrain.evaluation.runs import compare_runs


def write_run(path: Path, lr: float, seed: int, losses: list[float], **config: object) -> Path:
    """A run folder as far as a comparison reads it; `losses` are the validation losses."""
    path.mkdir(parents=True)
    tree = {"mode": "mae", "optim": {"lr": lr}, "train": {"seed": seed}, "tracking": {"uri": f"sqlite:///{path}"}}
    (path / "config.yaml").write_text(yaml_text(tree | config))
    lines = []
    for number, loss in enumerate(losses, 1):
        at = {"epoch": number, "step": 10 * number, "time": 0.0}
        lines.append({"kind": "steps", **at, "train/loss": 2 * loss})
        lines.append({"kind": "epoch", **at, "val/loss": loss, "val/energy_res_68pct": 10 * loss})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_report(folder: Path, value: float, error: float, select: str | None = None) -> None:
    folder.mkdir(parents=True)
    metrics = {"energy": {"network": {"events": 9, "res_68pct": [value, error, "MeV"]}}}
    found = {"request": {"select": select}, "data": {"val": {"samples": {"all": {"metrics": metrics}}}}}
    (folder / "metrics.json").write_text(json.dumps(found))


def test_seeds_are_one_setting_and_shared_seeds_cancel(tmp_path: Path) -> None:
    shift = {0: 0.0, 1: 1.0, 2: -1.0}  # seeds differ by far more than settings do
    runs = [write_run(tmp_path / f"a{s}", 1e-4, s, [9.0, 5.0 + shift[s], 6.0]) for s in shift]
    runs += [write_run(tmp_path / f"b{s}", 3e-4, s, [9.0, 5.1 + shift[s] + 0.01 * s]) for s in shift]
    best, other = compare_runs(runs).settings
    assert (best.name, other.name) == ("optim.lr=0.0001", "optim.lr=0.0003")
    assert best.value == pytest.approx(5.0)
    assert best.error == pytest.approx(3**-0.5)
    assert other.difference == pytest.approx(0.11)
    assert other.difference_error == pytest.approx(0.01 / 3**0.5)
    assert other.pairs == 3
    assert [run.epoch for run in best.runs] == [2, 2, 2]
    assert [run.epochs for run in best.runs] == [3, 3, 3]


def test_the_metric_is_that_of_the_best_epoch_and_larger_may_be_better(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", 1.0, 0, [3.0, 2.0]), write_run(tmp_path / "b", 2.0, 0, [4.0])]
    found = compare_runs(runs, "val/energy_res_68pct")
    assert [s.value for s in found.settings] == [20.0, 40.0]
    assert [s.error for s in found.settings] == [None, None]
    assert [s.value for s in compare_runs(runs, "val/energy_res_68pct", largest=True).settings] == [40.0, 20.0]


def test_an_evaluation_brings_its_own_error(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / n, lr, 0, [1.0]) for n, lr in (("a", 1.0), ("b", 2.0))]
    write_report(tmp_path / "reports" / "a", 2.0, 0.3)
    write_report(tmp_path / "reports" / "b", 1.0, 0.4)
    for metric in ("res_68pct", "energy_res_68pct"):
        best, other = compare_runs(runs, metric, reports=tmp_path / "reports").settings
        assert (best.value, best.error) == (1.0, 0.4)
        assert (other.difference, other.difference_error) == (1.0, pytest.approx(0.5))
    with pytest.raises(InputError, match=r"a/artifacts/metrics\.json: there is no such evaluation; run `xec evaluate`"):
        compare_runs(runs, "res_68pct")


def test_what_a_metric_does_not_mean_in_all_runs_is_said(tmp_path: Path, run_command: Callable[..., str]) -> None:
    def energy(weight: float, on: bool = True) -> dict[str, object]:
        return {"tasks": {"energy": {"enabled": True, "weight": weight}, "timing": {"enabled": on, "weight": weight}}}

    def said(*runs: Path, metric: str = "val/loss") -> str:
        words = run_command(
            "xectrain.cli.compare:app", "runs", *runs, "--metric", metric, "--out", tmp_path / f"c{len(runs)}"
        )
        return " ".join(words.split())

    heavy = write_run(tmp_path / "a", 1.0, 0, [1.0], **energy(1.0), data={"val": "one"})
    light = write_run(tmp_path / "b", 2.0, 0, [2.0], **energy(0.5, on=False), data={"val": "one"})
    assert (
        "val/loss is not the same thing in all of these runs, which differ in tasks.energy.weight, tasks.timing.enabled"
        in said(heavy, light)
    )
    assert "rank them by what they share, such as --metric val/energy_res_68pct." in said(heavy, light)
    assert "not the same thing" not in said(heavy, light, metric="val/energy_res_68pct")
    other = write_run(tmp_path / "c", 3.0, 0, [3.0], **energy(1.0), data={"val": "two"})
    words = said(heavy, other, light, metric="val/energy_res_68pct")
    assert "which differ in data.val: evaluate each on the same data (xec evaluate RUN DATA --out REPORTS/RUN)" in words
    assert json.loads((tmp_path / "c3" / "comparison.json").read_text())["differ"] == ["data.val"]
    same = write_run(tmp_path / "d", 9.0, 0, [3.0], **energy(1.0), data={"val": "one"})  # another learning rate only
    assert compare_runs([heavy, same]).differ == ()
    write_report(tmp_path / "reports" / "a", 2.0, 0.3)
    write_report(tmp_path / "reports" / "d", 1.0, 0.4, select="w > 10")
    assert compare_runs([heavy, same], "res_68pct", reports=tmp_path / "reports").differ == ("select",)


def test_what_a_regression_measures_its_loss_in_is_compared(tmp_path: Path, run_command: Callable[..., str]) -> None:
    """It is what the light leaves open in the training set: with and without a focus, losses differ by a factor."""

    def run(name: str, focus: int, train: str, **encoder: object) -> Path:
        network = {"model": {"encoder": {"focus": focus, **encoder}}}
        events = {"data": {"train": [train], "val": ["v"]}}
        return write_run(tmp_path / name, 1e-4, 0, [5.0], mode="regress", **network, **events)

    window, faces, wide = run("a", 15, "t"), run("b", 0, "t"), run("c", 15, "t", focus_channels=64)
    words = " ".join(run_command("xectrain.cli.compare:app", "runs", window, faces, "--out", tmp_path / "o").split())
    assert "which differ in model.encoder.focus: rank them by what they share, such as --metric val/energy_res" in words
    assert compare_runs([window, wide]).differ == ()
    words = " ".join(
        run_command("xectrain.cli.compare:app", "runs", window, run("d", 15, "u"), "--out", tmp_path / "o2").split()
    )
    assert "which differ in data.train: rank them by what they share" in words


def test_datasets_are_named_shortly_where_that_tells_them_apart(tmp_path: Path) -> None:
    def run(name: str, *train: dict[str, object]) -> Path:
        return write_run(tmp_path / name, 1.0, 0, [1.0], data={"train": list(train), "val": []})

    def named(*runs: Path) -> set[str]:
        return {setting.name for setting in compare_runs(list(runs)).settings}

    plain = run("a", {"path": "/data/mc", "weight": 1.0, "select": None})
    mixed = run("b", {"path": "/data/mc", "weight": 1.0}, {"path": "/data/real", "weight": 3.0, "select": "fiducial"})
    assert named(plain, mixed) == {"data.train=mc", "data.train=mc + real × 3 where fiducial"}
    other = run("c", {"path": "/elsewhere/mc", "weight": 1.0, "select": None})
    assert all("'path': '/" in name for name in named(plain, other))


def test_what_is_no_run_or_no_metric_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", 1.0, 0, [1.0])
    with pytest.raises(ConfigError, match=r"a: has no metric 'val/los' in its records; did you mean 'val/loss'"):
        compare_runs([run], "val/los")
    with pytest.raises(InputError, match="b: is not a run"):
        compare_runs([tmp_path / "b"])
    with pytest.raises(InputError, match="c: was never validated"):
        compare_runs([write_run(tmp_path / "c", 1.0, 0, [])])
    with pytest.raises(InputError, match="no runs to compare"):
        compare_runs([])


def test_the_command_writes_a_table_and_overlaid_curves(tmp_path: Path, run_command: Callable[..., str]) -> None:
    runs = [write_run(tmp_path / f"{lr}-{s}", lr, s, [3.0, lr + 0.1 * s]) for lr in (1.0, 2.0) for s in range(2)]
    said = run_command(
        "xectrain.cli.compare:app", "runs", *runs, tmp_path / "1.0-0" / "config.yaml", "--out", tmp_path / "c"
    )
    assert "optim.lr=1.0" in said
    assert "1.050(50)" in said
    assert "1.0000" in said or "1.0" in said
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert names == {"comparison.json", "curves.pdf", "curves.png", "report.html"}
    page = (tmp_path / "c" / "report.html").read_text()
    assert "<td>optim.lr=1.0</td>" in page
    assert "1.050(50)" in page
    assert page.count("data:image/png;base64,") == 1
    written = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert [s["name"] for s in written["settings"]] == ["optim.lr=1.0", "optim.lr=2.0"]
