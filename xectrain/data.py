"""The events of a run: datasets opened and checked, selections evaluated, validation held out, ranges recorded."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from shards.base import ConfigError, InputError
from shards.dataset import Dataset
from shards.identity import IDENTITY, shared_events
from shards.opening import open_dataset
from shards.order import hash64, uniform
from shards.plan import EpochOrder, View, epoch_order
from shards.sampling import curriculum, resampled
from xectrain.config.tree import DataConfig, DatasetConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """Views to train and validate on, all of datasets with equal columns and storage normalization."""

    train: tuple[View, ...]
    val: tuple[View, ...]
    row_weights: tuple[npt.NDArray[np.float64], ...] | None = None
    """How often each row of each training view occurs in an epoch, relative to the others; None: equally."""
    stages: tuple[npt.NDArray[np.float64], ...] | None = None
    """What a curriculum orders an epoch by, for each row of each training view; None: nothing."""

    @property
    def first(self) -> Dataset:
        """The dataset whose columns and normalization stand for all."""
        dataset: Dataset = self.train[0].dataset
        return dataset

    def epoch_events(self, wanted: int | None) -> int:
        """Events of one epoch: `wanted`, or the sum of weight × rows."""
        return wanted or sum(round(view.weight * len(view.rows)) for view in self.train)

    def order(self, seed: int, epoch: int, epoch_events: int | None) -> EpochOrder:
        """The events of a training epoch, in order; a pure function of this data and the arguments."""
        if self.stages is not None:
            return curriculum(self.train, self.stages, seed, epoch)
        views = self.train
        if self.row_weights is not None:
            weighted = zip(self.train, self.row_weights, strict=True)
            views = tuple(resampled(view, weights, seed, epoch) for view, weights in weighted)
        return epoch_order(views, seed, epoch, epoch_events=epoch_events)

    def by_view(self, values: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
        """An array over all training events, as `table` has them, cut into the views'."""
        return tuple(np.split(values, np.cumsum([len(view.rows) for view in self.train])[:-1]))

    @property
    def fingerprint(self) -> str:
        """Hash of the datasets' fingerprints, the rows used and the weights, which must be equal on resuming."""
        digest = hashlib.sha256()
        for role, views in (("train", self.train), ("val", self.val)):
            for view in views:
                digest.update(f"{role} {view.dataset.fingerprint} {view.weight!r} ".encode())
                digest.update(np.ascontiguousarray(view.rows, dtype="<i8").tobytes())
        for extra in (*(self.row_weights or ()), *(self.stages or ())):
            digest.update(np.ascontiguousarray(extra, dtype="<f8").tobytes())
        return digest.hexdigest()

    def table(self, columns: Sequence[str]) -> pl.DataFrame:
        """Columns of all training events."""
        return pl.concat([view.dataset.table(list(columns))[view.rows] for view in self.train])

    def facts(self) -> dict[str, Any]:
        """What a checkpoint records about its training data."""
        return {
            "fingerprint": self.fingerprint,
            "datasets": [view.dataset.fingerprint for view in self.train],
            "columns": list(self.first.columns),
        }


def open_training_data(config: DataConfig, seed: int) -> TrainingData:
    """Open and check the datasets of a run.

    Raises:
        ConfigError: no dataset, datasets that do not fit together, or a selection that leaves nothing.
        InputError: a dataset is missing or incomplete.
    """
    if not config.train:
        raise ConfigError("there are no training data", item="data.train", remedy="give --data DIR")
    train = [_view(entry, config.select) for entry in config.train]
    _check_repeated(train, config.allow_duplicates)
    val = [_view(entry, config.select) for entry in config.val]
    if not val:
        logger.info(
            "no validation data given: holding out %.0f %% of the events, by a hash of (run, event)",
            100 * config.val_fraction,
        )
        train, val = _split(train, config.val_fraction, seed)
    _check_alike([*train, *val])
    for role, views in (("training", train), ("validation", val)):
        if not sum(len(view.rows) for view in views):
            raise ConfigError(f"no events are left for {role}", item="data", remedy="relax data.select, or add data")
    _say_what_is_shared(train, val)
    return TrainingData(tuple(train), tuple(val))


def _check_repeated(train: Sequence[View], allowed: bool) -> None:
    """Refuse a mixture that has an event in two of its datasets (or twice from one), unless that is allowed."""
    for i, view in enumerate(train):
        for other in train[:i]:
            shared = shared_events(view.dataset, view.rows, other.dataset, other.rows)
            if not shared:
                continue
            what = f"{shared} of its {len(view.rows)} training events are also training events of {other.dataset.path}"
            if not allowed:
                raise ConfigError(
                    what,
                    file=view.dataset.path,
                    remedy="remove the copies (a dataset's `weight` repeats events), or set data.allow_duplicates=true",
                )
            logger.warning("%s: %s", view.dataset.path, what)


def _say_what_is_shared(train: Sequence[View], val: Sequence[View]) -> None:
    """Warn where validation events are training events, so that validation measures memory."""
    for view in val:
        for other in train:
            shared = shared_events(view.dataset, view.rows, other.dataset, other.rows)
            if shared:
                logger.warning(
                    "%s: %d of %d validation events are also training events of %s: validation measures memory there",
                    view.dataset.path,
                    shared,
                    len(view.rows),
                    other.dataset.path,
                )


def located(config: DataConfig, run: Path) -> DataConfig:
    """The same data, found from wherever this process was started.

    Datasets are recorded as they were given to `xec train`, often relative to the folder it was started in. A path that
    does not exist from here is tried from the run's folder and from each folder above it.

    Args:
        run: the run folder.

    Raises:
        InputError: a dataset is in none of these places.
    """
    folders = [Path(), *run.absolute().joinpath("x").parents]

    def found(entry: DatasetConfig) -> DatasetConfig:
        here = next((f for f in folders if (f / entry.path / "manifest.json").is_file()), Path())
        if not (here / entry.path).exists():
            raise InputError(
                "the data of this run are neither where they were nor beside it",
                file=run,
                found=entry.path,
                remedy="give data that are there: `xec evaluate RUN DATA --baseline-data DATA`",
            )
        return entry.model_copy(update={"path": str(here / entry.path)})

    both = {"train": tuple(map(found, config.train)), "val": tuple(map(found, config.val))}
    return config.model_copy(update=both)


def _view(entry: DatasetConfig, select: str | None) -> View:
    dataset = open_dataset(Path(entry.path), check="quick")
    return View(dataset, dataset.rows([entry.select, select]), entry.weight)


def _split(views: Sequence[View], fraction: float, seed: int) -> tuple[list[View], list[View]]:
    """Hold out events by a hash, so that an event stays where it is when data are added."""
    train, val = [], []
    for view in views:
        table = view.dataset.table(list(IDENTITY))[view.rows]
        chosen = _hash_fraction(table["run"].to_numpy(), table["event"].to_numpy(), seed) < fraction
        train.append(View(view.dataset, view.rows[~chosen], view.weight))
        val.append(View(view.dataset, view.rows[chosen], view.weight))
    return train, val


def _hash_fraction(run: npt.NDArray[Any], event: npt.NDArray[Any], seed: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each event that depends on its run and number only."""
    runs = hash64("validation run", (seed,), run.astype(np.int64))
    return uniform(hash64("validation", (seed,), runs ^ event.astype(np.int64).view(np.uint64)))


def _check_alike(views: Sequence[View]) -> None:
    first = views[0].dataset
    for view in views[1:]:
        other = view.dataset
        for what, found, expected, option in (
            ("normalized", other.normalization, first.normalization, "--normalization"),
            ("stored", other.dtype, first.dtype, "--dtype"),
        ):
            if found != expected:
                raise ConfigError(
                    f"is {what} differently from {first.path}",
                    file=other.path,
                    found=found,
                    expected=expected,
                    remedy=f"ingest both with the same {option}",
                )
        if other.geometry != first.geometry:
            raise ConfigError(
                f"has its sensors elsewhere than {first.path}",
                file=other.path,
                item="geometry",
                found=other.manifest.settings.geometry,
                expected=first.manifest.settings.geometry,
                remedy="convert both with the same --geometry",
            )
        if list(other.columns) != list(first.columns):
            raise InputError(
                f"has other columns than {first.path}",
                file=other.path,
                found=_difference(other.columns, first.columns),
                remedy="convert both with one schema, from files that have the same branches",
            )


def _difference(names: Sequence[str], expected: Sequence[str]) -> str:
    """In words, what `names` has less and more than `expected`."""
    said = []
    if lacking := [name for name in expected if name not in names]:
        said.append(f"lacks {', '.join(lacking)}")
    if more := [name for name in names if name not in expected]:
        said.append(f"also has {', '.join(more)}")
    return "; ".join(said) or "another order"
