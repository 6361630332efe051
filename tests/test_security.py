"""Files from elsewhere execute nothing: crafted configurations, schemas, manifests, indexes and shards.

Checkpoints are in `xectrain/test_checkpoint.py`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.synthetic import make_dataset

from ingest.reading.schema import load_schema
from pipelines.loader import BACKENDS, open_loader
from shards.base import ConfigError, CorruptError, InputError
from shards.manifest import MANIFEST
from shards.opening import open_dataset
from shards.plan import View, epoch_order, rank_plan
from shards.verify import verify
from xectrain.modes import load_config


class Bomb:
    """Touches a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:pathlib.Path.touch", "!!python/name:os.system", "!!python/tuple"]
)
def test_tags_in_yaml_are_refused(tmp_path: Path, marker: Path, tag: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"mode: {tag} [{marker}]\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: is not YAML: could not determine a constructor") as caught:
        load_config([file])
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"c\.yaml: is not YAML: could not determine a constructor"):
        load_schema(str(file))
    assert not marker.exists()


def test_an_expression_is_no_python(tmp_path: Path, marker: Path) -> None:
    dataset = make_dataset(tmp_path / "d", events=8)
    for text in (f"__import__('pathlib').Path('{marker}').touch()", "u.__class__", "(lambda: u)()", "[u for u in v]"):
        with pytest.raises(ConfigError):
            dataset.rows(text)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b"])
def test_a_manifest_names_no_file_outside_its_folder(tmp_path: Path, name: str) -> None:
    make_dataset(tmp_path / "d", events=8)
    file = tmp_path / "d" / MANIFEST
    value = json.loads(file.read_text())
    value["shards"][0]["name"] = name
    file.write_text(json.dumps(value))
    with pytest.raises(CorruptError, match="is not in the dataset's folder"):
        open_dataset(tmp_path / "d")


@pytest.mark.parametrize(
    "value", [[], {}, {"format": 3}, {"format": "xec-shards-1", "shards": {"a": 1}}, {"format": {"$ref": "x"}}, "text"]
)
def test_a_manifest_of_another_shape_is_one_clear_error(tmp_path: Path, value: object) -> None:
    make_dataset(tmp_path / "d", events=8)
    (tmp_path / "d" / MANIFEST).write_text(json.dumps(value))
    with pytest.raises((CorruptError, InputError)) as caught:
        open_dataset(tmp_path / "d")
    assert "\n" not in str(caught.value)


def pickled_member(tar: Path, marker: Path) -> None:
    """Replace the first sample's sensors by a `.npy` of the same length that holds a pickled object."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb(marker)], dtype=object), allow_pickle=True)
    raw = bytearray(tar.read_bytes())
    raw[512 : 512 + len(buffer.getvalue())] = buffer.getvalue()
    tar.write_bytes(raw)


def test_a_pickle_in_a_shard_is_not_loaded(tmp_path: Path, marker: Path) -> None:
    dataset = make_dataset(tmp_path / "d", events=8, events_per_shard=8)
    pickled_member(next((tmp_path / "d").rglob("*.tar")), marker)
    with pytest.raises(CorruptError):
        open_dataset(tmp_path / "d").read(range(8))
    assert verify(dataset.path, full=True).problems
    for backend in BACKENDS[1:]:
        view = View(dataset, np.arange(8))
        plan = rank_plan(epoch_order([view], 0, 0), 4, 0, 1)
        with (
            pytest.raises((CorruptError, RuntimeError, ValueError)),
            open_loader([view], plan, backend=backend) as loader,
        ):
            list(loader)
    assert not marker.exists()


@pytest.mark.parametrize("line", ["sensors.npy -1 40 x", "sensors.npy 0 99999999999 x", "../x 0 1 y", "nonsense"])
def test_a_crafted_index_is_noticed(tmp_path: Path, line: str) -> None:
    dataset = make_dataset(tmp_path / "d", events=8, events_per_shard=8)
    index = next((tmp_path / "d").rglob("*.idx"))
    index.write_text(f"v1.2 1\n{line}\n")
    assert any(index.name in str(problem) for problem in verify(dataset.path).problems)
    view = View(dataset, np.arange(8))
    plan = rank_plan(epoch_order([view], 0, 0), 4, 0, 1)
    with pytest.raises(CorruptError), open_loader([view], plan) as loader:
        list(loader)
