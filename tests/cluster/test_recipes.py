"""The recipes: valid configurations, and trainings that run, at `tiny` on a few events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.synthetic import make_dataset
from support.trained import COLUMNS

from xectrain.modes import load_config
from xectrain.training.runfolder import RunFolder
from xectrain.training.session import train

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
LAYERS = {
    "energy": ("base", "regress", "energy"),
    "angle": ("base", "regress", "angle"),
    "timing": ("base", "regress", "timing"),
    "position": ("base", "regress", "position"),
    "all": ("base", "regress", "all"),
    "mae": ("base", "mae"),
    "inpaint": ("base", "inpaint"),
    "finetune-real": ("base", "energy", "finetune-real"),
    "mixture": ("base", "energy", "mixture"),
    "dead-patterns": ("base", "regress", "all", "dead-patterns"),
    "charge-exchange": ("base", "regress", "charge-exchange"),
    "angle-scan": ("base", "regress", "angle", "angle-scan"),
}
"""How recipes are layered, the last being the one that gives the name."""
TINY = (
    *("model.preset=tiny", "train.epochs=1", "data.epoch_events=8", "data.batch_size=4", "data.device=cpu"),
    *("tracking.mlflow=false", "train.precision=fp32", "train.compile=off"),
)


def files(name: str) -> list[Path]:
    return [RECIPES / f"{layer}.yaml" for layer in LAYERS[name]]


def test_every_file_is_part_of_a_recipe() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {layer for layers in LAYERS.values() for layer in layers}


@pytest.mark.parametrize("name", LAYERS)
def test_a_recipe_is_a_valid_configuration(name: str) -> None:
    config = load_config(files(name))
    if config.mode == "regress":
        assert config.tasks.enabled()


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_a_recipe_trains(name: str, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "d", 40, events_per_shard=16, columns=COLUMNS)
    data: dict[str, Any] = {"data": {"train": [{"path": str(dataset.path)}], "val": [{"path": str(dataset.path)}]}}
    sets = list(TINY)
    if name == "mixture":
        other = make_dataset(tmp_path / "e", 20, events_per_shard=16, columns=COLUMNS, first_source=5)
        data["data"]["train"].append({"path": str(other.path), "weight": 3})
    if name == "dead-patterns":
        (tmp_path / "dead.txt").write_text("17\n1234\n")
        sets.append(f"augment.patterns=[{tmp_path / 'dead.txt'}]")
    if name in ("finetune-real", "mixture"):
        train(load_config(files("energy"), sets, data), tmp_path / "first")
        sets.append(f"checkpoint.init_from={tmp_path / 'first'}")
    train(load_config(files(name), sets, data), tmp_path / "run")
    assert RunFolder(tmp_path / "run").read_state().state == "done"
