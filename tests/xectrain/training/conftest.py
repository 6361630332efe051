"""One dataset and one undisturbed run, with which the runs of the tests here are compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.synthetic import make_dataset
from support.training import EVENTS, config

from shards.dataset import Dataset
from xectrain.training import session


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("data") / "a", events=EVENTS, events_per_shard=10)


@pytest.fixture(scope="session")
def undisturbed(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    session.train(config(dataset), run)
    return run
