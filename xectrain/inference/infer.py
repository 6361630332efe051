"""Inference: events in, a ROOT file of predictions out, in constant memory.

Rows out are rows in, in input order, every (run, event) kept. An output that exists already is recognised by a digest
of model, inputs and options in its `metadata` tree.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ingest.reading.rootio import Skipped
from shards.base import ConfigError, InputError, OutputError, code_version, locked, progress
from shards.columns import COLUMNS
from xectrain.inference.calibration import summary
from xectrain.inference.events import Columns, Events
from xectrain.inference.model import Model, ModelFacts
from xectrain.inference.regressor import Predictor
from xectrain.inference.root_output import RootOutput, read_metadata, read_rows, root_output
from xectrain.inference.rows import Carried, EventRows, RowMaker, predicts_relative_times
from xectrain.inference.sensor_rows import FilledRows, HiddenEventRows, HiddenSensorRows
from xectrain.inference.sensors import Filler, SensorPredictor
from xectrain.inference.sources import Part, ReadOptions, RootPart, Wanted, check_selection, share
from xectrain.modes.chosen_masks import masks_identity
from xectrain.modes.masking import MASK_KINDS
from xectrain.tasks import TASKS
from xectrain.workers import in_order

logger = logging.getLogger(__name__)

FACES = "0 inner, 1 outer, 2 upstream, 3 downstream, 4 top, 5 bottom"


@dataclass(frozen=True)
class Request:
    """What is asked for, beside model and data."""

    settings: ReadOptions = field(default_factory=ReadOptions)
    columns: tuple[str, ...] | None = None
    """Input columns to carry; None: truth as `true_*`, the vertex and everything the schema carries; empty: none."""
    precision: str = "auto"
    hide: bool = False
    """Inpainter: hide sensors as in validation and write a row per hidden sensor, instead of filling dead ones."""
    masks: str | None = None
    """With `hide`: what else than in validation is hidden (`chosen_masks`); the model hides it already."""


@dataclass(frozen=True)
class Result:
    """What `infer` wrote."""

    path: Path
    events: int
    outside: int
    """Events whose input or prediction lies outside the training range."""
    existed: bool
    """The file was there already, from the same model, data and options."""


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
        task: (index, count): predict only this one of so many consecutive shares. `join` makes of their outputs what
            one run gives.
        skipped: where given, the ROOT files that were left out so far; those that turn out to be damaged are left out,
            too, and added. The metadata name them all.

    Raises:
        OutputError: the file exists and came from something else.
        ConfigError: columns or a selection that the data do not have, or times that the model cannot read.
        InputError, CorruptError: the input is damaged; nothing is written then.
    """
    facts = model.facts
    maker = _checked_maker(model, parts, request)
    mine = list(enumerate(parts)) if task is None else share(parts, *task)
    digest = _digest(facts, parts, request, task)
    with locked(output.with_name(f".{output.name}.lock"), f"predicting into {output.name}"):
        if output.exists():
            return _existing(output, digest)
        warn_geometry(facts, parts)
        _say_times(facts, parts)
        while True:
            try:
                with root_output(output, maker.branches) as out:
                    events, outside = _stream(model, mine, request.settings, maker, out)
                    out.metadata(_metadata(facts, parts, request, digest, (events, outside), skipped or ()))
                break
            except _Damaged as found:  # a row that is written cannot be taken back: begin again without the file
                mine = _without(found, mine, skipped)
        if outside:
            logger.warning(
                "%s: %d of %d events lie outside what the model was trained on (in_training_range is false)",
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
    """The parts that are left without the damaged one, which is noted; its error where none may be left out."""
    if skipped is None:
        raise found.error
    logger.warning("skipped: %s", found.error)
    skipped.append(Skipped(found.path, str(found.error)))
    left = [(number, part) for number, part in parts if number != found.number]
    if not left:
        raise InputError("no usable input file is left", found=f"{len(skipped)} skipped")
    return left


def check(model: Model, parts: Sequence[Part], request: Request) -> None:
    """Refuse what `infer` would refuse before its first event; raises as it does."""
    _checked_maker(model, parts, request)
    if request.settings.select is not None:
        check_selection(parts, request.settings.select)


def holds_other_predictions(output: Path, facts: ModelFacts, parts: Sequence[Part], request: Request) -> bool:
    """Whether `infer` would refuse a file for what is in it."""
    return output.exists() and read_metadata(output).get("request_digest") != _digest(facts, parts, request, None)


def join(model: Model, parts: Sequence[Part], output: Path, request: Request, folder: Path, count: int) -> Result:
    """Make of the outputs of `count` shares in `folder` the file that one run over `parts` gives, rows in input order.

    Raises:
        OutputError: the output exists and came from something else.
        InputError: a share's output is missing, or came from another model, other data or other options.
    """
    maker = _checked_maker(model, parts, request)
    digest = _digest(model.facts, parts, request, None)
    with locked(output.with_name(f".{output.name}.lock"), f"joining predictions into {output.name}"):
        if output.exists():
            return _existing(output, digest)
        found = [share_metadata(model.facts, parts, request, folder, (i, count)) for i in range(count)]
        events, outside = (sum(int(f[k]) for f in found) for k in ("events", "events_outside_training_range"))
        with root_output(output, maker.branches) as out:
            for index in range(count):
                for rows in read_rows(folder / share_name(index, count)):
                    out.extend(rows)
            out.metadata(_metadata(model.facts, parts, request, digest, (events, outside)))
        return Result(output, events, outside, existed=False)


def share_name(index: int, count: int) -> str:
    """File name of a share's output: in alphabetical order they are in input order."""
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
    expected = _digest(facts, parts, request, task)
    if found.get("request_digest") != expected:
        raise InputError(
            "came from another model, other data or other options",
            file=path,
            found=found.get("request_digest"),
            expected=expected,
        )
    return found


def _checked_maker(model: Model, parts: Sequence[Part], request: Request) -> RowMaker:
    """What makes the rows, after checking that the model can read the parts."""
    _check_times(model.facts, parts)
    for part in parts:
        part.check(model.facts.normalization)
    return row_maker(model, parts, request)


def _digest(facts: ModelFacts, parts: Sequence[Part], request: Request, task: tuple[int, int] | None) -> str:
    """Identifies the contents of an output."""
    identity = _identity(facts, parts, request) | ({} if task is None else {"task": list(task)})
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def row_maker(model: Model, parts: Sequence[Part], request: Request) -> RowMaker:
    """What the rows of this model's output are.

    Raises:
        ConfigError: columns that the data do not have, or `hide` for a mode that knows nothing of it.
    """
    carried = Carried.of(model.facts, parts, request.columns)
    if isinstance(model, Predictor):
        if request.hide:
            raise ConfigError("hiding sensors belongs to the inpainter", found=model.facts.mode)
        return EventRows.of(model, carried, parts)
    assert isinstance(model, Filler)
    if not isinstance(model, SensorPredictor):  # an exported inpainter
        if request.hide:
            raise ConfigError("hiding sensors needs the checkpoint", file=model.facts.file)
        return FilledRows.of(model, carried)
    if not model.mode.fills:
        return HiddenEventRows.of(model, carried)
    return HiddenSensorRows.of(model) if request.hide else FilledRows.of(model, carried)


def _stream(
    model: Model, parts: Sequence[tuple[int, Part]], settings: ReadOptions, maker: RowMaker, out: RootOutput
) -> tuple[int, int]:
    """Predict all (number, part); the numbers of events, and of those outside the training range."""
    done = outside = 0

    def make(batch: _Batch) -> tuple[int, Columns]:
        return len(batch.events), maker.make(batch.events, batch.part, batch.first)

    with progress(out.path.name, sum(part.events for _, part in parts)) as bar:
        for count, rows in in_order(make, _batches(model, parts, settings), model.workers):
            out.extend(rows)
            outside += maker.outside(rows)
            done += count
            bar.advance(count)
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
                "has sensor times of the other kind than the model was trained on",
                file=part.name,
                found=words[part.relative_time],
                expected=words[facts.targets.relative_time],
                remedy="a schema (--schema) chooses the branch",
            )


def _say_times(facts: ModelFacts, parts: Sequence[Part]) -> None:
    """Say what the times in the output are: the input's names are the same for other times."""
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
        what = (
            "the time is predicted relative to it; it is called pred_relative_timing"
            if alone
            else "pred_timing is NaN there"
        )
        logger.warning("%s%s: no time_min_used: %s", lacking[0], more, what)


def warn_geometry(facts: ModelFacts, parts: Iterable[Part]) -> None:
    """Say so when the data's geometry is not the model's."""
    for part in parts:
        if facts.geometry and part.geometry and part.geometry != facts.geometry:
            logger.warning(
                "%s: its geometry (%.12s…) is not the one the model was trained on (%.12s…)",
                part.name,
                part.geometry,
                facts.geometry,
            )


def _identity(facts: ModelFacts, parts: Iterable[Part], request: Request) -> dict[str, Any]:
    """Everything that determines the contents of the output."""
    dead = request.settings.dead
    return {
        "model": facts.identity,
        "data": [part.identity() for part in parts],
        "select": request.settings.select,
        "dead": None if dead is None else dead.to_list(),
        "columns": request.columns,
        "precision": request.precision,
        "hide": request.hide,
        **({} if request.masks is None else {"masks": masks_identity(request.masks)}),
    }


def _existing(output: Path, digest: str) -> Result:
    """The result that is there already, if it is the one asked for."""
    try:
        found = read_metadata(output)
    except InputError as error:
        raise OutputError(
            f"exists and cannot be recognised ({error.problem})", file=output, remedy="remove it or choose another name"
        ) from error
    if found.get("request_digest") != digest:
        raise OutputError(
            "exists and came from another model, other data or other options",
            file=output,
            found=found.get("request_digest"),
            expected=digest,
            remedy="remove it or choose another --output",
        )
    if left_out := found.get("skipped_files"):
        logger.warning("%s: is without what was skipped then: %s", output, left_out)
    return Result(output, int(found["events"]), int(found["events_outside_training_range"]), existed=True)


def _metadata(
    facts: ModelFacts,
    parts: Sequence[Part],
    request: Request,
    digest: str,
    events: tuple[int, int],
    skipped: Sequence[Skipped] = (),
) -> dict[str, str | int | float]:
    """The one row of the `metadata` tree; `events` are all, and those outside the training range."""
    norm = facts.normalization
    return {
        "mode": facts.mode,
        "predict_channels": ",".join(facts.channels),
        "tasks": ",".join(facts.tasks),
        "npho_scheme": norm.scheme,
        "npho_scale": norm.npho_scale,
        "npho_scale2": norm.npho_scale2,
        "time_scale": norm.time_scale,
        "time_shift": norm.time_shift,
        "sentinel_npho": norm.sentinel_npho,
        "sentinel_time": norm.sentinel_time,
        "npho_threshold": facts.npho_threshold,
        "time_reference": "relative" if facts.targets.relative_time else "absolute",
        "timing_at": facts.targets.timing_at,
        "predicted_times": "relative" if predicts_relative_times(facts, parts) else "absolute",
        "units": ",".join(f"{c}:{COLUMNS[c].unit}" for t in facts.tasks for c in TASKS[t].columns),
        "face_names": FACES,
        "mask_types": ",".join(f"{code} {kind}" for code, kind in enumerate(MASK_KINDS)),
        "model_digest": facts.digest,
        "training_fingerprint": facts.fingerprint,
        "model_code_version": facts.code_version,
        "energy_calibration": summary(facts.calibration),
        "dataset_fingerprint": ",".join(str(v) for p in parts for k, v in p.identity().items() if k == "dataset"),
        "sources": ",".join(part.name for part in parts),
        "geometry": ",".join(sorted({part.geometry for part in parts})),
        "geometry_is_models": int(all(p.geometry == facts.geometry for p in parts)) if facts.geometry else -1,
        "skipped_files": "; ".join(item.reason for item in skipped),
        "select": request.settings.select or "",
        **({} if request.masks is None else {"masks": request.masks}),
        "code_version": code_version(),
        "request_digest": digest,
        "events": events[0],
        "events_outside_training_range": events[1],
    }
