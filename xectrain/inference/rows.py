"""Which rows and branches a chunk of events becomes: one row per event for a regressor.

`sensor_rows` has those of the modes that predict sensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shards.base import ConfigError, nearest
from shards.columns import Column
from shards.identity import IDENTITY
from xectrain.inference.events import Columns, Events
from xectrain.inference.model import IN_RANGE, ModelFacts
from xectrain.inference.regressor import Predictor
from xectrain.inference.root_output import OutputBranch
from xectrain.inference.sources import Part, RootPart
from xectrain.targets import required_columns, true_values
from xectrain.tasks import TASKS

ORIGIN = ("source", "entry")
"""Which input an event came from, counting from 0, and its entry there: written for ROOT input."""


class RowMaker(ABC):
    """Turns events into rows of the output tree; used by several threads at a time."""

    branches: dict[str, OutputBranch]
    """Of the tree, in order."""

    def make(self, events: Events, part: int, first: int) -> Columns:
        """The rows of some events.

        Args:
            part: number of the part they are of.
            first: events before them, in all parts.
        """
        rows = self.rows(events, part, first)
        return {name: rows[name] for name in self.branches}

    @abstractmethod
    def rows(self, events: Events, part: int, first: int) -> Columns:
        """As `make`, but not necessarily in order or complete."""

    def outside(self, rows: Columns) -> int:
        """How many of the rows are outside the model's training range, where that is judged."""
        return 0


@dataclass(frozen=True)
class Carried:
    """Which columns of the input go into the output in addition to the predictions."""

    truth: dict[str, str]
    """Branch `true_*` → input column."""
    others: tuple[str, ...]
    origin: bool
    """Whether `source` and `entry` are written."""
    facts: ModelFacts
    exact: frozenset[str] = frozenset()
    """Columns that are 64-bit integers in every part."""

    @classmethod
    def of(cls, facts: ModelFacts, parts: Sequence[Part], wanted: tuple[str, ...] | None) -> Carried:
        """Decide it from what the data have.

        Args:
            wanted: names of columns, or `true_` before one; None: truth as `true_*`, the vertex and everything that the
                schema carries.

        Raises:
            ConfigError: a wanted column that no part has.
        """
        known: dict[str, Column] = {}
        for part in parts:
            known.update(part.columns)
        if wanted is None:
            truth = {f"true_{c}": c for c in known if _is_shown_as_truth(known[c])}
            others = [c for c in known if c not in truth.values() and c not in IDENTITY]
        else:
            for name in wanted:
                if name.removeprefix("true_") not in known:
                    raise ConfigError(f"the data have no column {name!r}", remedy=nearest(name, known))
            truth = {n: n.removeprefix("true_") for n in wanted if n not in known}
            others = [n for n in wanted if n in known and n not in IDENTITY]
        origin = any(isinstance(part, RootPart) for part in parts)
        exact = frozenset.intersection(*(part.exact for part in parts)) if parts else frozenset()
        return cls(truth, tuple(others), origin, facts, exact)

    def around(self, predicted: Mapping[str, OutputBranch]) -> dict[str, OutputBranch]:
        """All branches: identity, predictions, then truth and carried columns.

        Raises:
            ConfigError: a column has the name of a prediction.
        """
        names = (*IDENTITY, *(ORIGIN if self.origin else ()))
        branches = {**{name: OutputBranch("int64") for name in names}, **predicted}
        for name in (*self.truth, *self.others):
            if name in branches:
                raise ConfigError(f"the data's column {name!r} has the name of a prediction", remedy="rename it")
            column = self.truth.get(name, name)
            branches[name] = OutputBranch("int64" if column in (*self.exact, *IDENTITY) else "float64")
        return branches

    def make(self, events: Events, part: int) -> Columns:
        """The columns' values; NaN where a part lacks a column that another has."""
        count, have = len(events), events.columns
        unknown = np.full(count, np.nan)
        truth = truth_columns(self.facts, have)
        rows: Columns = {name: have.get(name, unknown) for name in (*IDENTITY, *self.others)}
        rows.update({name: truth.get(column, unknown) for name, column in self.truth.items()})
        if self.origin:
            rows.update(source=np.full(count, part), entry=have["entry"])
        return rows


@dataclass(frozen=True)
class EventRows(RowMaker):
    """One row per event: a regressor's predictions."""

    predictor: Predictor
    carried: Carried
    branches: dict[str, OutputBranch]
    names: dict[str, str]
    """Branch of each predicted column."""

    @classmethod
    def of(cls, predictor: Predictor, carried: Carried, parts: Sequence[Part]) -> EventRows:
        """The branches that this model's predictions need; the name of a time says whether it is absolute."""
        columns = predictor.facts.columns
        relative = predicts_relative_times(predictor.facts, parts)
        names = {
            name: f"pred_relative_{name.removeprefix('pred_')}" if _is_time(name) and relative else name
            for name in columns
        }
        predicted = {name: OutputBranch("float64") for name in names.values()}
        return cls(predictor, carried, carried.around({**predicted, IN_RANGE: OutputBranch("bool")}), names)

    def rows(self, events: Events, part: int, first: int) -> Columns:
        """Predictions and what is carried; an absolute time is NaN where `time_min_used` is unknown."""
        found = self.predictor.predict_events(events)
        if self.predictor.facts.targets.relative_time and events.earliest is None:
            unknown = np.full(len(events), np.nan)
            found |= {name: unknown for name in self.names if _is_time(name) and self.names[name] == name}
        predicted = {self.names.get(name, name): values for name, values in found.items()}
        return {**self.carried.make(events, part), **predicted}

    def outside(self, rows: Columns) -> int:
        """How many rows lie outside the training range."""
        return int(np.count_nonzero(~rows[IN_RANGE]))


def predicts_relative_times(facts: ModelFacts, parts: Sequence[Part]) -> bool:
    """Whether the times that a model predicts for these parts stay relative: none of them has `time_min_used`."""
    return facts.targets.relative_time and not any("time_min_used" in part.columns for part in parts)


def _is_time(column: str) -> bool:
    return column.startswith("pred_timing")


def truth_columns(facts: ModelFacts, columns: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """The truth that predictions compare with: the data's columns, `timing` at the model's point.

    Args:
        columns: the data's columns, (n,) each, canonical units.
    """
    truth = dict(columns)
    task = TASKS["timing"]
    needed = required_columns(task, facts.targets, absolute=True)
    if "timing" in facts.tasks and all(c in columns for c in needed):
        table = torch.from_numpy(np.column_stack([columns[c] for c in needed]))
        truth["timing"] = true_values(task, table, needed, facts.targets).numpy()[:, 0]
    return truth


def _is_shown_as_truth(column: Column) -> bool:
    return column.role == "truth" and not column.name.startswith("vtx_")
