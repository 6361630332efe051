"""Inference: events in, a ROOT file of predictions out, in constant memory.

Rows out are rows in, in input order, every (run, event) kept. An output that exists already is recognised by a digest
of model, inputs and options in its `metadata` tree.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ingest.reading.rootio import Skipped
from shards.base import ConfigError, InputError, locked, progress
from xectrain.inference.events import Columns, Events
from xectrain.inference.model import Model, ModelFacts
from xectrain.inference.regressor import Predictor
from xectrain.inference.request import Request, Result, existing, output_metadata, request_digest
from xectrain.inference.root_output import RootOutput, read_metadata, read_rows, root_output
from xectrain.inference.rows import Carried, EventRows, RowMaker, predicts_relative_times
from xectrain.inference.sensor_rows import FilledRows, HiddenEventRows, HiddenSensorRows
from xectrain.inference.sensors import SensorPredictor
from xectrain.inference.sources import Part, ReadOptions, RootPart, Wanted, check_selection, share
from xectrain.inference.unlike import Watch
from xectrain.workers import in_order

logger = logging.getLogger(__name__)


def infer(
    model: Model,
    parts: Sequence[Part],
    output: Path,
    request: Request,
    task: tuple[int, int] | None = None,
    skipped: list[Skipped] | None = None,
) -> Result:
    """Predict every event of `parts` into one ROOT file.

    Args:
        task: (index, count): predict only this one of `count` consecutive shares. `join` makes from their outputs
            what a single run gives.
        skipped: if given, the ROOT files left out so far; those that turn out to be damaged are left out, too, and
            added. The metadata name them all.

    Raises:
        OutputError: the file exists and came from something else.
        ConfigError: columns or a selection that the data do not have, or times that the model cannot read.
        InputError, CorruptError: the input is damaged; nothing is written.
    """
    facts = model.facts
    maker = _checked_maker(model, parts, request)
    mine = list(enumerate(parts)) if task is None else share(parts, *task)
    digest = request_digest(facts, parts, request, task)
    with locked(output.with_name(f".{output.name}.lock"), f"predicting into {output.name}"):
        if output.exists():
            return existing(output, digest)
        warn_geometry(facts, parts)
        _say_times(facts, parts)
        while True:
            try:
                with root_output(output, maker.branches) as out:
                    events, outside = _stream(model, mine, request.settings, maker, out)
                    out.metadata(output_metadata(facts, parts, request, digest, (events, outside), skipped or ()))
                break
            except _Damaged as found:  # rows that are written cannot be taken back: start again without the file
                mine = _without(found, mine, skipped)
        if not events and request.settings.select:
            logger.warning(
                "%s: no event passes %r, so that it is empty (energies are in GeV, times in ns, lengths in cm)",
                output,
                request.settings.select,
            )
        if outside:
            logger.warning(
                "%s: %d of %d events are outside the range that the model was trained on (in_training_range is false)",
                output,
                outside,
                events,
            )
        return Result(output, events, outside, existed=False)


class _Damaged(Exception):
    """A ROOT file cannot be read to its end."""

    def __init__(self, number: int, path: Path, error: InputError) -> None:
        super().__init__(str(error))
        self.number, self.path, self.error = number, path, error


def _without(
    found: _Damaged, parts: Sequence[tuple[int, Part]], skipped: list[Skipped] | None
) -> list[tuple[int, Part]]:
    """The remaining parts without the damaged one, which is recorded; raises its error where none may be left out."""
    if skipped is None:
        raise found.error
    logger.warning("skipped: %s", found.error)
    skipped.append(Skipped(found.path, str(found.error)))
    left = [(number, part) for number, part in parts if number != found.number]
    if not left:
        raise InputError("no usable input files are left", found=f"{len(skipped)} skipped")
    return left


def check(model: Model, parts: Sequence[Part], request: Request) -> None:
    """Refuse what `infer` would refuse before its first event; raises as it does."""
    _checked_maker(model, parts, request)
    if request.settings.select is not None:
        check_selection(parts, request.settings.select)


def join(model: Model, parts: Sequence[Part], output: Path, request: Request, folder: Path, count: int) -> Result:
    """Make from the outputs of `count` shares in `folder` the file that one run over `parts` gives.

    Raises:
        OutputError: the output exists and came from something else.
        InputError: a share's output is missing, or came from a different model, data or options.
    """
    maker = _checked_maker(model, parts, request)
    digest = request_digest(model.facts, parts, request, None)
    with locked(output.with_name(f".{output.name}.lock"), f"joining predictions into {output.name}"):
        if output.exists():
            return existing(output, digest)
        found = [share_metadata(model.facts, parts, request, folder, (i, count)) for i in range(count)]
        events, outside = (sum(int(f[k]) for f in found) for k in ("events", "events_outside_training_range"))
        with root_output(output, maker.branches) as out:
            for index in range(count):
                for rows in read_rows(folder / share_name(index, count)):
                    out.extend(rows)
            out.metadata(output_metadata(model.facts, parts, request, digest, (events, outside)))
        return Result(output, events, outside, existed=False)


def share_name(index: int, count: int) -> str:
    """File name of a share's output: alphabetical order is input order."""
    return f"part-{index:05d}-of-{count:05d}.root"


def share_metadata(
    facts: ModelFacts, parts: Sequence[Part], request: Request, folder: Path, task: tuple[int, int]
) -> dict[str, str | int | float]:
    """Metadata of a share's output, after checking that it is that share's.

    Raises:
        InputError: it is missing, or came from something else.
    """
    path = folder / share_name(*task)
    if not path.exists():
        raise InputError("is missing", file=path, remedy=f"run --task-index {task[0]} --task-count {task[1]} first")
    found = read_metadata(path)
    expected = request_digest(facts, parts, request, task)
    if found.get("request_digest") != expected:
        raise InputError(
            "came from a different model, data or options",
            file=path,
            found=found.get("request_digest"),
            expected=expected,
        )
    return found


def _checked_maker(model: Model, parts: Sequence[Part], request: Request) -> RowMaker:
    """The maker of the rows, after checking that the model can read the parts."""
    _check_times(model.facts, parts)
    for part in parts:
        part.check(model.facts.normalization)
    return row_maker(model, parts, request)


def row_maker(model: Model, parts: Sequence[Part], request: Request) -> RowMaker:
    """The maker of this model's output rows.

    Raises:
        ConfigError: columns that the data do not have, or `hide` for a mode that cannot hide sensors.
    """
    carried = Carried.of(model.facts, parts, request.columns)
    if isinstance(model, Predictor):
        if request.hide:
            raise ConfigError("only an inpainter can hide sensors", found=model.facts.mode)
        return EventRows.of(model, carried, parts)
    assert isinstance(model, SensorPredictor)
    if not model.fills:
        return HiddenEventRows.of(model, carried)
    return HiddenSensorRows.of(model) if request.hide else FilledRows.of(model, carried)


def _stream(
    model: Model, parts: Sequence[tuple[int, Part]], settings: ReadOptions, maker: RowMaker, out: RootOutput
) -> tuple[int, int]:
    """Predict all (number, part); the numbers of events, and of those outside the training range."""
    done = outside = 0
    watch, by_number = Watch(model), dict(parts)

    def make(batch: _Batch) -> tuple[_Batch, Columns]:
        return batch, maker.make(batch.events, batch.part, batch.first)

    with progress(out.path.name, sum(part.events for _, part in parts)) as bar:
        for batch, rows in in_order(make, _batches(model, parts, settings), model.workers):
            out.extend(rows)
            strange = maker.outside(rows)
            watch.look(by_number[batch.part], batch.events, strange)
            outside += strange
            done += len(batch.events)
            bar.advance(len(batch.events))
    return done, outside


class _Batch(NamedTuple):
    """What a worker is given."""

    events: Events
    part: int
    """Number of the part."""
    first: int
    """Events before it in all parts."""


def _batches(model: Model, parts: Sequence[tuple[int, Part]], settings: ReadOptions) -> Iterator[_Batch]:
    first, wanted = 0, Wanted.of(model)
    for number, part in parts:
        try:
            for chunk in part.read(wanted, settings):
                for events in chunk.batches(model.batch_size):
                    yield _Batch(events, number, first)
                    first += len(events)
        except InputError as error:
            if isinstance(part, RootPart):
                raise _Damaged(number, part.source.path, error) from error
            raise


def _check_times(facts: ModelFacts, parts: Iterable[Part]) -> None:
    for part in parts:
        if part.relative_time is not None and part.relative_time != facts.targets.relative_time:
            words = {True: "relative to time_min_used", False: "absolute"}
            raise ConfigError(
                "has another kind of sensor times than the model was trained on",
                file=part.name,
                found=words[part.relative_time],
                expected=words[facts.targets.relative_time],
                remedy="choose the branch with a schema (--schema)",
            )


def _say_times(facts: ModelFacts, parts: Sequence[Part]) -> None:
    """Log what the times in the output are, since the names do not say."""
    if "timing" not in facts.tasks:
        return
    if facts.targets.timing_at == "conversion":
        logger.info(
            "true_timing and the predicted time are at the conversion point: emission and flight from the vertex"
        )
    lacking = [part.name for part in parts if "time_min_used" not in part.columns]
    if facts.targets.relative_time and lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        alone = predicts_relative_times(facts, parts)
        what = "the time is predicted relative to it, as pred_relative_timing" if alone else "pred_timing is NaN there"
        logger.warning("%s%s: no time_min_used: %s", lacking[0], more, what)


def warn_geometry(facts: ModelFacts, parts: Iterable[Part]) -> None:
    """Warn when the data's geometry is not the model's."""
    for part in parts:
        if facts.geometry and part.geometry and part.geometry != facts.geometry:
            logger.warning(
                "%s: its geometry (%.12s…) is not that of the model's training data (%.12s…)",
                part.name,
                part.geometry,
                facts.geometry,
            )
