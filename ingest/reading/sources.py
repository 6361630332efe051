"""Inputs opened and checked: which trees are to be read, the ids they keep for ever, and what is wrong with them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.reading.binding import Binding, BoundColumn, bind
from ingest.reading.branches import InputBranch, Where, list_branches, open_reader
from ingest.reading.inputs import InputFile, expand
from ingest.reading.rootfile import COPY_AGAIN, TOY, file_uuid, find_tree, opened, tree_paths
from ingest.reading.schema import PRESETS, Schema, load_schema
from shards.base import CorruptError, InputError
from shards.base.documents import file_digest
from shards.identity import IDENTITY
from shards.manifest import N_SENSORS
from shards.whole import EXACT

logger = logging.getLogger(__name__)

CUT_DISTANCE = 512
"""Entries between two places at which the work on a file may be divided, at least."""
NUMBERS = 1 << 18
"""Run or event numbers looked at together."""


@dataclass(frozen=True)
class Source:
    """One tree of one file, and how it is read."""

    path: Path
    tree: str
    """Path of the tree inside the file; with its cycle where one was asked for."""
    kind: str
    """TTree or RNTuple."""
    entries: int
    id: str
    """Identifies the events wherever the file is: UUID and tree path, and a digest where that is not enough."""
    uuid: str
    size: int
    """Bytes."""
    mtime_ns: int
    run: int | None
    """Run number from a list file."""
    binding: Binding
    cuts: tuple[int, ...] = ()
    """Entry numbers at which reading can be divided without decoding anything twice."""
    notes: tuple[str, ...] = ()
    """What the user should know: an older cycle that was passed over, …"""
    toy: bool = False
    """Whether the file says that the toy Monte Carlo wrote it."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are read, in the order of the shards."""
        return tuple(column.name for column in self.binding.columns)

    @property
    def missing(self) -> tuple[str, ...]:
        """Columns of the schema that the tree lacks."""
        return self.binding.missing


@dataclass(frozen=True)
class Skipped:
    """A file that was left out because of what is wrong with it."""

    path: Path
    reason: str


def open_sources(
    paths: Sequence[str | Path],
    tree: str | None = None,
    schema: Schema | str = "mc",
    skipped: list[Skipped] | None = None,
    check: Callable[[Path], None] | None = None,
) -> list[Source]:
    """Open and check every file named by `paths` (files, folders, globs, list files), in the order given.

    Args:
        tree: name of the tree; the schema's where None.
        schema: a Schema, or the name or path of one.
        skipped: if given, bad files are recorded here and left out instead of raising.
        check: called with each file first; its InputErrors are treated like the others.

    Raises:
        InputError: a file is missing, unreadable, not a ROOT file, truncated, without the tree or a required branch,
            empty, or given twice under different names.
    """
    wanted = load_schema(schema) if isinstance(schema, str) else schema
    sources = []
    missing: list[InputError] = []
    files = expand(paths, None if skipped is None else missing)
    for error in missing:
        _skip(error, skipped)
    for file in files:
        try:
            if check is not None:
                check(file.path)
            sources.append(open_source(file, wanted, tree))
        except InputError as error:
            if file.found and is_prediction(file.path):
                logger.warning("%s: passed over, since it holds predictions", file.path)
            else:
                _skip(error, skipped)
    if not sources:
        found = f"{len(skipped)} skipped" if skipped else "predictions only"
        remedy = None if skipped else "to read files filled by an inpainter, name the files themselves"
        raise InputError("no usable input files are left", found=found, remedy=remedy)
    sources = _identified(sources, skipped)
    _say_about_times(sources)
    return sources


def _skip(error: InputError, skipped: list[Skipped] | None) -> None:
    """Record a bad file, or raise where none may be left out."""
    if skipped is None:
        raise error
    logger.warning("skipped: %s", error)
    skipped.append(Skipped(Path(str(error.file)), str(error)))


def is_prediction(path: Path) -> bool:
    """Whether a file is one that `xec infer` wrote: the output of a command may be in the folder of its input."""
    try:
        with opened(path) as directory:
            return {"predictions", "metadata"} <= tree_paths(directory).keys()
    except InputError:
        return False


def _is_filled(directory: Any) -> bool:
    """Whether an open file holds events that an inpainter of ours has filled, which decides how it is read."""
    trees = tree_paths(directory)
    return {"predictions", "metadata"} <= trees.keys() and {"npho", "filled"} <= set(directory["predictions"].keys())


def _filled_note(schema: Schema, binding: Binding) -> tuple[str, ...]:
    if schema.name != "filled" or binding.time is None:
        return ()
    kind = "relative to time_min_used" if binding.relative else "absolute"
    return (f"its dead sensors were filled by an inpainter; its times ({binding.time.branch}) are {kind}",)


def _say_about_times(sources: Sequence[Source]) -> None:
    """Warn once of what is unknown about times, since everything computed from them inherits it."""
    untimed = [source for source in sources if source.binding.time is None]
    if untimed:
        logger.warning("%s no sensor times: all of them count as invalid", _has(untimed))
    lost = [s for s in sources if s.binding.time is not None and s.binding.relative and "time_min_used" in s.missing]
    if lost and lost[0].binding.time is not None:
        branch = lost[0].binding.time.branch
        logger.warning(
            "%s relative times (%s) but no time_min_used: absolute times are unknown there", _has(lost), branch
        )


def _has(sources: Sequence[Source]) -> str:
    more = len(sources) - 1
    return f"{sources[0].path} and {more} more have" if more else f"{sources[0].path} has"


def open_source(file: InputFile | Path, schema: Schema, tree: str | None = None) -> Source:
    """Open and check one file; see `open_sources`. The id is preliminary: repeated UUIDs show only among many files."""
    file = file if isinstance(file, InputFile) else InputFile(file)
    with opened(file.path) as directory:
        status = file.path.stat()
        if schema.name in PRESETS and not file.found and _is_filled(directory):
            schema = load_schema("filled").model_copy(update={"split_by": schema.split_by})
        wanted = tree or schema.tree
        path, found, cycles = find_tree(directory, file.path, wanted)
        if directory.file.fEND > status.st_size:
            raise CorruptError(
                "is shorter than its header says" + _missing_entries(found, path, schema, status.st_size),
                file=file.path,
                found=f"{status.st_size} bytes",
                expected=int(directory.file.fEND),
                remedy=COPY_AGAIN,
            )
        entries = int(found.num_entries)
        if entries == 0:
            raise InputError("has no entries", file=file.path, item=path)
        branches = list_branches(found)
        binding = bind(schema, branches, file.path, path, file.run is not None)
        cuts = _checked_cuts(found, branches, binding, Where(file.path, path, ""), entries)
        cycle = "".join(wanted.partition(";")[1:])
        source = Source(
            path=file.path,
            tree=path + cycle,
            kind="RNTuple" if "RNTuple" in found.classname else "TTree",
            entries=entries,
            id="",
            uuid=file_uuid(directory),
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            run=file.run,
            binding=_with_large_numbers(binding, found, branches, file, path),
            cuts=cuts,
            notes=(*_notes(path, cycles, cycle[1:]), *_filled_note(schema, binding)),
            toy=TOY in directory.keys(cycle=False, recursive=False),
        )
    for note in source.notes:
        logger.info("%s: %s", file.path, note)
    return _with_id(source, digest=not source.uuid)


def _with_large_numbers(
    binding: Binding, tree: Any, branches: Mapping[str, InputBranch], file: InputFile, path: str
) -> Binding:
    """The binding, with 64 bits for run and event numbers that float64 would not hold; few files have such."""

    def beyond(bound: BoundColumn) -> bool:
        if not bound.branch:
            return bound.name == "run" and (file.run or 0) >= EXACT
        kind = branches[bound.branch]
        if not kind.whole or kind.dtype is None or kind.dtype.itemsize < 8 or bound.factor != 1 or bound.invalid:
            return False
        reader = open_reader(tree, kind, 1, Where(file.path, path, bound.branch))
        numbers = np.empty((NUMBERS, 1), kind.dtype)
        for start in range(0, int(tree.num_entries), NUMBERS):
            part = numbers[: int(tree.num_entries) - start]
            reader.read_into(part, start)
            if part.max() >= EXACT or part.min() <= -EXACT:
                return True
        return False

    large = {c.name for c in binding.columns if c.name in IDENTITY and c.width == 1 and beyond(c)}
    columns = (replace(c, bits=64) if c.name in large else c for c in binding.columns)
    return replace(binding, columns=tuple(columns)) if large else binding


def _checked_cuts(
    tree: Any, branches: Mapping[str, InputBranch], binding: Binding, where: Where, entries: int
) -> tuple[int, ...]:
    """Where reading can be divided, after checking that every branch that is read covers the tree."""
    cuts: tuple[int, ...] = ()
    for name, length in _read_branches(binding):
        here = replace(where, branch=name)
        boundaries = open_reader(tree, branches[name], length, here).boundaries()
        if boundaries[-1] != entries:
            raise CorruptError(
                "does not cover the whole tree: its writer was killed, or it was filled separately",
                file=here.path,
                item=here.item,
                found=f"{boundaries[-1]} entries",
                expected=entries,
            )
        if name == binding.npho.branch:
            cuts = _thinned(boundaries)
    return cuts


def _thinned(boundaries: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Of the entry numbers where baskets begin, enough to divide the work by: at least `CUT_DISTANCE` apart."""
    cuts: list[int] = []
    for cut in boundaries[1:-1].tolist():
        if cut - (cuts[-1] if cuts else 0) >= CUT_DISTANCE:
            cuts.append(cut)
    return tuple(cuts)


def _missing_entries(tree: Any, path: str, schema: Schema, size: int) -> str:
    """Which entries of the photon branch lie beyond the end of a truncated file."""
    name = next((n for n in schema.npho.branches if n in tree), None)
    branch = tree[name] if name else None
    if branch is None or not hasattr(branch, "basket_compressed_bytes"):
        return ""
    ends = [int(branch.member("fBasketSeek")[i]) + branch.basket_compressed_bytes(i) for i in range(branch.num_baskets)]
    lost = [i for i, end in enumerate(ends) if end > size]
    if not lost:
        return ""
    first, last = branch.entry_offsets[lost[0]], branch.entry_offsets[lost[-1] + 1] - 1
    return f": of {path}/{name}, entries {first} to {last} are cut off"


def _notes(path: str, cycles: Sequence[int], asked: str) -> tuple[str, ...]:
    if len(cycles) < 2:
        return ()
    chosen = asked or str(cycles[0])
    others = ", ".join(str(c) for c in cycles if str(c) != chosen)
    return (f"{path!r} has {len(cycles)} cycles: reading {chosen}, not {others}",)


def _read_branches(binding: Binding) -> list[tuple[str, int]]:
    """Every use of a branch that is read, with its values per event: a schema may name one branch twice by mistake."""
    sensors = [binding.npho.branch, binding.time.branch if binding.time else None, binding.dead]
    used = [(name, N_SENSORS) for name in sensors if name]
    return list(dict.fromkeys([*used, *((c.branch, c.width) for c in binding.columns if c.branch)]))


def _with_id(source: Source, digest: bool) -> Source:
    name = f"{source.uuid or 'no-uuid'}:{source.tree}"
    return replace(source, id=f"{name}#{file_digest(source.path)}" if digest else name)


def _identified(sources: list[Source], skipped: list[Skipped] | None) -> list[Source]:
    """The sources with unique ids: where a UUID is repeated (a copy, or files of one template), contents decide."""
    count: dict[str, int] = {}
    for source in sources:
        count[source.id] = count.get(source.id, 0) + 1
    final = [_with_id(s, digest=True) if count[s.id] > 1 and "#" not in s.id else s for s in sources]
    first: dict[str, Source] = {}
    for source in final:
        if source.id in first:
            error = InputError(
                "holds the same bytes as another input",
                file=source.path,
                found=first[source.id].path,
                remedy="give only one of them",
            )
            _skip(error, skipped)
        else:
            first[source.id] = source
    return list(first.values())
