"""ROOT files of simulated events: the input tree of real and simulated data, streamed in bounded memory.

The options travel inside the file as a JSON string named `toymc`, so that a file can be recognised as the result of the
same command, and of which.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import uproot

from ingest.processes import Processes
from ingest.reading.rootfile import TOY, opened
from ingest.toymc.events import Block, ToyEvents, generate_block, join, plan
from ingest.toymc.options import ToyOptions
from shards import geometry as geo
from shards.base import (
    ConfigError,
    InputError,
    OutputError,
    keep_freed_memory,
    local_path,
    locked,
    nearest,
    progress,
    published,
)

logger = logging.getLogger(__name__)

TREE = "tree"
GENERATOR = 2
"""Version of the generator: files of another version are not the same result."""
CHUNK = 512
"""Events per `extend`, that is per basket (10 MB for a sensor branch)."""
COMPRESSIONS = ("zstd", "zlib", "lz4", "none")


@dataclass(frozen=True)
class Written:
    """What `write` did with one file."""

    path: Path
    events: int
    runs: tuple[int, int]
    """First and last run."""
    existed: bool
    """Whether the file was there already, with the same options, and was left alone."""


def write(
    path: Path | str, n: int, options: ToyOptions, *, files: int = 1, compression: str = "zstd", processes: int = 1
) -> list[Written]:
    """Simulate `n` events into one or several ROOT files, each complete or absent.

    Args:
        path: the file, or the pattern of several: `toy.root` becomes `toy_000.root`, `toy_001.root`, …
        n: events in all files together.
        options: what to simulate.
        files: number of files; each holds whole runs.
        compression: `zstd`, `zlib`, `lz4` or `none`, at level 1.
        processes: generate in this many processes; the events do not depend on it.

    Raises:
        OutputError: a file exists that holds something else, or cannot be written.
    """
    final = local_path(path)
    _check(final, n, options, files, compression, processes)
    groups = _groups(plan(n, options), options, files)
    names = [final] if files == 1 else [final.with_name(f"{final.stem}_{i:03d}{final.suffix}") for i in range(files)]
    done = {name: _found(name, _stamp(blocks, options)) for name, blocks in zip(names, groups, strict=True)}
    written = []
    for name, blocks in zip(names, groups, strict=True):
        if not done[name]:
            with locked(name.with_name(f".{name.name}.lock"), f"simulating {name.name}"):
                _write_one(name, blocks, options, compression, processes)
        events = sum(block.count for block in blocks)
        written.append(Written(name, events, (blocks[0].run, blocks[-1].run), done[name]))
    return written


def stamp(path: Path | str) -> dict[str, Any] | None:
    """The options a file was made with, or None if it is not a file of this generator."""
    with opened(Path(path)) as file:
        return None if TOY not in file.keys(cycle=False) else dict(json.loads(str(file[TOY])))


def _check(path: Path, n: int, options: ToyOptions, files: int, compression: str, processes: int) -> None:
    if n < 1:
        raise ConfigError("is too small", item="events", found=n, expected="at least 1")
    if not 1 <= files <= options.runs:
        raise ConfigError(
            "does not fit the number of runs",
            item="files",
            found=files,
            expected=f"1…{options.runs} (whole runs per file)",
        )
    if n < options.runs:
        raise ConfigError(
            "is less than the number of runs", item="events", found=n, expected=f"at least {options.runs}"
        )
    if compression not in COMPRESSIONS:
        raise ConfigError(
            "is not known", item="compression", found=repr(compression), remedy=nearest(compression, COMPRESSIONS)
        )
    if processes < 1:
        raise ConfigError("is too small", item="processes", found=processes, expected="at least 1")
    if path.suffix != ".root":
        raise ConfigError("does not end in .root", item="out", found=path.name)


def _groups(blocks: list[Block], options: ToyOptions, files: int) -> list[list[Block]]:
    """The blocks of each file: consecutive whole runs, as evenly as they go."""
    file_of_run = {options.first_run + i: i * files // options.runs for i in range(options.runs)}
    return [[b for b in blocks if file_of_run[b.run] == index] for index in range(files)]


def _stamp(blocks: list[Block], options: ToyOptions) -> str:
    """What identifies a file's contents, as canonical JSON. A geometry counts by its content, not by its name."""
    geometry = geo.nominal() if options.geometry is None else geo.load(options.geometry)
    runs: dict[int, int] = {}
    for block in blocks:
        runs[block.run] = block.run_events
    content = {
        "generator": GENERATOR,
        "options": json.loads(replace(options, geometry=None).to_json()),
        "geometry": geometry.digest,
        "runs": [[run, events] for run, events in runs.items()],
    }
    return json.dumps(content, sort_keys=True)


def _found(path: Path, expected: str) -> bool:
    """Whether the file exists with just this content; OutputError if it has another."""
    if not path.exists():
        return False
    try:
        with opened(path) as file:
            found = str(file[TOY]) if TOY in file.keys(cycle=False) else "nothing written by this command"
    except (ValueError, OSError, KeyError, InputError) as error:
        raise OutputError(
            "exists, but is not a readable ROOT file", file=path, remedy="remove it, or choose another name"
        ) from error
    if found != expected:
        raise OutputError(
            "exists with different contents",
            file=path,
            found=_difference(found, expected),
            remedy="remove it, or choose another name",
        )
    return True


def _difference(found: str, expected: str) -> str:
    """The first few options that differ."""
    try:
        old, new = json.loads(found), json.loads(expected)
    except ValueError:
        return found
    old, new = ({**stamp.pop("options"), **stamp} for stamp in (old, new))
    parts = [f"{key} {old.get(key)!r} instead of {value!r}" for key, value in new.items() if old.get(key) != value]
    return "; ".join(part[:120] for part in parts[:3])


def _write_one(path: Path, blocks: list[Block], options: ToyOptions, compression: str, processes: int) -> None:
    algorithm = {"zstd": uproot.ZSTD(1), "zlib": uproot.ZLIB(1), "lz4": uproot.LZ4(1), "none": None}[compression]
    total = sum(block.count for block in blocks)
    # The same events are the same source: shards made of them come out in the same order.
    content = _stamp(blocks, options)
    identity = uuid.uuid5(uuid.NAMESPACE_OID, content)
    with (
        published(path) as part,
        open(part, "wb+") as handle,  # not its name, whose `::` uproot would take for the path of an object
        uproot.recreate(handle, compression=algorithm, uuid_function=lambda: identity) as file,
        progress(path.name, total) as bar,
    ):
        tree = None
        for events in _chunks(_simulated(blocks, options, processes)):
            branches = events.branches()
            if tree is None:
                types = {name: np.dtype((values.dtype, values.shape[1:])) for name, values in branches.items()}
                tree = file.mktree(TREE, types, title="toy Monte Carlo of the liquid-xenon detector")
            tree.extend(branches)
            bar.advance(len(events))
        file[TOY] = content


def _chunks(events: Iterable[ToyEvents]) -> Iterator[ToyEvents]:
    """Gather blocks into pieces of about `CHUNK` events: every `extend` rewrites the list of baskets."""
    waiting: list[ToyEvents] = []
    for block in events:
        waiting.append(block)
        if sum(len(b) for b in waiting) >= CHUNK:
            yield join(waiting)
            waiting = []
    if waiting:
        yield join(waiting)


def _simulated(blocks: list[Block], options: ToyOptions, processes: int) -> Iterator[ToyEvents]:
    """The blocks in order, a few of them in flight at a time."""
    if processes == 1 or len(blocks) == 1:
        for block in blocks:
            yield generate_block(block, options)
        return
    with Processes(processes, keep_freed_memory) as crew:
        yield from crew.in_order(generate_block, [(block, options) for block in blocks])
