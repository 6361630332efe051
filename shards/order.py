"""Where an event goes: a named, versioned, vectorized 64-bit hash instead of a random generator.

A hash of (seed, source, entry) gives the same place whatever the number of workers, restarts or order of the inputs,
and unlike a library's generator it can be promised never to change. Each use has its own purpose string,
which makes the uses independent of one another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.base import ConfigError, InputError, nearest

HASH = "splitmix64-v1"
"""Name and version of the hash; recorded in manifests."""

UInt64 = npt.NDArray[np.uint64]
SPLIT_BY = ("event", "run", "source")

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MUL1, _MUL2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix64(values: UInt64) -> UInt64:
    """The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection on 64 bits with full avalanche."""
    z = np.asarray(values, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * _MUL1
    z = (z ^ (z >> np.uint64(27))) * _MUL2
    return z ^ (z >> np.uint64(31))


def hash64(purpose: str, parts: Sequence[str | int], values: npt.ArrayLike) -> UInt64:
    """A 64-bit hash of each of `values`, independent for every purpose and every `parts`.

    Args:
        purpose: what the hash is for ("order", "split" …).
        parts: whatever else identifies the sequence (seed, source id …).
        values: whole numbers, any shape; negative ones count modulo 2⁶⁴.

    **Returns** uint64 of the same shape.
    """
    text = json.dumps([HASH, purpose, *parts], ensure_ascii=True, separators=(",", ":"))
    base = np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], dtype="<u8")
    numbers = np.atleast_1d(np.asarray(values))
    numbers = numbers.astype(np.int64).view(np.uint64) if numbers.dtype.kind == "i" else numbers.astype(np.uint64)
    return mix64(base ^ mix64(numbers + _GAMMA)).reshape(np.shape(values))


def event_keys(seed: int, source_id: str, entries: npt.ArrayLike) -> UInt64:
    """The sort key of each entry of a source: shuffled order is ascending (key, source id, entry)."""
    return hash64("order", (int(seed), source_id), entries)


def sort_events(
    keys: UInt64, source_rank: npt.NDArray[np.integer], entries: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """The permutation that sorts events by (key, source, entry).

    Args:
        keys: of `event_keys`.
        source_rank: position of each event's source id in the sorted list of source ids.
        entries: entry number in the source.
    """
    return np.lexsort((entries, source_rank, keys)).astype(np.int64)


def uniform(hashes: UInt64) -> npt.NDArray[np.float64]:
    """Hashes as numbers in [0, 1), from their upper 53 bits."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def parse_split(text: str) -> dict[str, float]:
    """Read "train=0.9,val=0.1".

    Raises:
        ConfigError: not of that form, or fractions that do not add up to one.
    """
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            fraction = float(value)
        except ValueError:
            fraction = float("nan")
        if not name.isidentifier() or name in fractions or not 0 < fraction <= 1:
            raise ConfigError(
                "is not a list of splits",
                item="split",
                found=repr(text),
                expected="names and fractions like train=0.9,val=0.1",
            )
        fractions[name] = fraction
    if abs(sum(fractions.values()) - 1) > 1e-9:
        raise ConfigError("fractions do not add up to 1", item="split", found=repr(text))
    return fractions


def balanced_split(
    sizes: Mapping[Any, int], fractions: Mapping[str, float], by: str, seed: int = 0
) -> dict[str, list[int | str]]:
    """Divide runs (or sources) among parts so that the parts' events come as near to `fractions` as whole runs allow.

    The largest come first, those of equal size in the order of a hash; each goes to the part that lacks most. So the
    result depends on the runs and their numbers of events, not on the order of anything.

    Args:
        sizes: events of each run (or of each source, by id).
        by: "run" or "source", for messages and hash.
        seed: another seed gives another division.

    **Returns** runs (or source ids) of each part, sorted.

    Raises:
        InputError: there are fewer of them than parts.
    """
    if len(sizes) < len(fractions):
        raise InputError(
            f"{len(sizes)} {by}{'s' * (len(sizes) != 1)} cannot be divided into {len(fractions)} parts",
            remedy="give more inputs, or divide more finely: --split-by event",
        )
    place = {name: int(hash64(f"split by {by}", (int(seed), name), 0)) for name in sizes}
    total = sum(sizes.values())
    lacking = {part: fraction * total for part, fraction in fractions.items()}
    parts: dict[str, list[int | str]] = {part: [] for part in fractions}
    ordered = sorted(sizes.items(), key=lambda item: (-item[1], place[item[0]], str(item[0])))
    for left, (name, size) in zip(range(len(ordered), 0, -1), ordered, strict=True):
        empty = [part for part, inside in parts.items() if not inside]
        part = max(empty if len(empty) == left else parts, key=lambda part: lacking[part])
        parts[part].append(name)
        lacking[part] -= size
    return {part: sorted(inside, key=lambda name: (isinstance(name, str), name)) for part, inside in parts.items()}


def assign_splits(
    fractions: Mapping[str, float],
    by: str,
    source_id: str,
    entries: npt.ArrayLike,
    run: npt.NDArray[np.float64] | None = None,
    seed: int = 0,
    groups: Mapping[str, Sequence[int | str]] | None = None,
) -> npt.NDArray[np.int8]:
    """The split of each event: by a hash, so that it does not change when files are added, or by its run or source.

    Args:
        fractions: name → fraction, adding up to one.
        by: "event" (source and entry), "run" or "source".
        entries: (n,) entry numbers in the source.
        run: (n,) run numbers; needed for "run".
        seed: an independent salt; another seed gives another division. It is not the seed of the shuffle.
        groups: of `balanced_split`; needed for "run" and "source".

    **Returns** int8 (n,): index into the names of `fractions`.
    """
    if by not in SPLIT_BY:
        raise ConfigError(f"cannot split by {by!r}", item="split_by", remedy=nearest(by, SPLIT_BY))
    entries = np.atleast_1d(np.asarray(entries))
    if by == "event":
        edges = np.cumsum(list(fractions.values()))[:-1]
        hashes = hash64("split by event", (int(seed), source_id), entries)
        return np.searchsorted(edges, uniform(hashes), side="right").astype(np.int8)
    if groups is None:
        raise ConfigError("a split by runs or sources needs their groups", item="split_by")
    if by == "source":
        part = next(i for i, name in enumerate(fractions) if source_id in groups[name])
        return np.full(len(entries), part, np.int8)
    if run is None or not np.isfinite(run).all():
        raise InputError("events without a run number cannot be split by run", item=source_id, remedy="split by source")
    found = np.full(len(entries), -1, np.int8)
    for i, name in enumerate(fractions):
        found[np.isin(np.asarray(run).astype(np.int64), np.array(groups[name], np.int64))] = i
    if (found < 0).any():
        raise InputError("a run is not in any part of the split", item=source_id, found=int(run[found.argmin()]))
    return found


def far_from_asked(events: Mapping[str, int], fractions: Mapping[str, float], most: float = 0.1) -> str | None:
    """What to say where a part's share of the events is not what was asked for; None where all are close."""
    total = max(sum(events.values()), 1)
    far = [name for name, fraction in fractions.items() if abs(events[name] / total - fraction) > most]
    said = ", ".join(
        f"{name} has {100 * events[name] / total:.0f} % ({100 * fractions[name]:.0f} % asked for)" for name in far
    )
    return said or None
