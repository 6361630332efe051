"""Branches of a TTree and fields of an RNTuple as plain arrays, decoded once each and served by entry range.

A basket (or cluster) is decompressed when an entry of it is first asked for and dropped when reading has gone past it,
so a sequential pass decodes everything once, in memory bounded by one basket per branch plus what the caller asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import awkward as ak
import numpy as np
import numpy.typing as npt
import uproot
import uproot.behaviors.RNTuple
import uproot.interpretation.jagged
import uproot.interpretation.numerical
import xxhash

from ingest.reading.rootfile import COPY_AGAIN, DECODE_ERRORS, short
from shards.base import CorruptError, InputError


@dataclass(frozen=True)
class Branch:
    """What a branch holds."""

    name: str
    typename: str
    """As ROOT would write it, for people."""
    dtype: np.dtype[Any] | None
    """Native dtype of its numbers; None: not numbers."""
    length: int | None
    """Numbers an entry; None: jagged."""

    @property
    def numeric(self) -> bool:
        """Whether it holds plain numbers (or booleans)."""
        return self.dtype is not None and self.dtype.kind in "fiub"


class Reader(Protocol):
    """Serves entry ranges of one branch."""

    def read_into(self, out: npt.NDArray[Any], start: int) -> None:
        """Fill `out` (n, length), of any numeric dtype, with entries [start, start + n)."""

    def boundaries(self) -> npt.NDArray[np.int64]:
        """Entry numbers where its storage blocks begin, and the number of entries: good places to cut."""


@dataclass(frozen=True)
class Where:
    """Names for error messages."""

    path: Path
    tree: str
    branch: str

    @property
    def item(self) -> str:
        return f"{self.tree}/{self.branch}"


def list_branches(tree: Any) -> dict[str, Branch]:
    """All branches of a TTree or fields of an RNTuple by full name; nested ones also by their last part if unique."""
    found = {key: describe(tree, key, value) for key, value in tree.items(recursive=True)}
    last: dict[str, list[str]] = {}
    for key in found:
        last.setdefault(key.replace("/", ".").rpartition(".")[2], []).append(key)
    for short_name, keys in last.items():
        if len(keys) == 1 and short_name and short_name not in found:
            found[short_name] = found[keys[0]]
    return found


def describe(tree: Any, name: str, value: Any = None) -> Branch:
    """What the branch or field of that full name holds; `value` is its uproot object, where it is at hand."""
    value = tree[name] if value is None else value
    return (_field if isinstance(tree, uproot.behaviors.RNTuple.HasFields) else _branch)(name, value)


def _branch(key: str, branch: Any) -> Branch:
    interpretation = branch.interpretation
    if isinstance(interpretation, uproot.interpretation.numerical.AsDtype):
        dtype = interpretation.to_dtype
        base, shape = (dtype.base, dtype.shape) if dtype.subdtype else (dtype, ())
        if base.names is None:
            return Branch(key, branch.typename, base.newbyteorder("="), int(np.prod(shape, dtype=int)))
    if isinstance(interpretation, uproot.interpretation.jagged.AsJagged):
        content = interpretation.content
        if isinstance(content, uproot.interpretation.numerical.AsDtype) and content.to_dtype.subdtype is None:
            return Branch(key, branch.typename, content.to_dtype.newbyteorder("="), None)
    return Branch(key, branch.typename, None, None)


def _field(key: str, field: Any) -> Branch:
    # an empty slice has the type of the whole
    kind = ak.type(field.array(entry_start=0, entry_stop=0)) if field.ntuple.num_entries else None
    content = getattr(kind, "content", None)
    is_text = "__array__" in getattr(content, "parameters", {})
    length: int | None = 1
    if isinstance(content, ak.types.RegularType):
        length, content = content.size, content.content
    elif isinstance(content, ak.types.ListType):
        length, content = None, content.content
    dtype = None
    if isinstance(content, ak.types.NumpyType) and not is_text:
        dtype = np.dtype(content.primitive)
    return Branch(key, str(field.typename), dtype, length)


def open_reader(tree: Any, branch: Branch, length: int, where: Where) -> Reader:
    """A reader for `branch`, every entry of which must hold `length` numbers.

    Raises:
        InputError: the branch does not hold numbers, or holds another count of them.
    """
    if not branch.numeric:
        raise InputError("does not hold numbers", file=where.path, item=where.item, found=branch.typename)
    if branch.length not in (None, length):
        raise _wrong_length(where, f"{branch.length} values an event", length)
    if isinstance(tree, uproot.behaviors.RNTuple.HasFields):
        return _FieldReader(tree, branch, length, where)
    return _BranchReader(tree[branch.name], branch, length, where)


def _wrong_length(where: Where, found: str, expected: int) -> InputError:
    return InputError(
        "has the wrong number of values",
        file=where.path,
        item=where.item,
        found=found,
        expected=expected,
        remedy="is this the branch of another detector, or of selected channels?",
    )


class _Blocks:
    """Serving ranges from blocks; subclasses decode one block."""

    def __init__(self, starts: npt.NDArray[np.int64], length: int, where: Where) -> None:
        self._starts, self._length, self._where = starts, length, where
        self._held, self._values = -1, np.empty((0, length))

    def boundaries(self) -> npt.NDArray[np.int64]:
        return self._starts

    def read_into(self, out: npt.NDArray[Any], start: int) -> None:
        stop = start + len(out)
        block = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            first, last = int(self._starts[block]), int(self._starts[block + 1])
            if first == last:
                block += 1
                continue
            if block != self._held:
                self._values = np.empty((0, self._length))  # let go of the old one before decoding the next
                self._values, self._held = self._checked(block, first, last), block
            end = min(stop, last)
            with np.errstate(over="ignore", invalid="ignore"):  # a float64 beyond float32 becomes Inf, which is "dead"
                out[start - stop + len(out) : end - stop + len(out)] = self._values[start - first : end - first]
            if end == last:
                self._held, self._values = -1, np.empty((0, self._length))
            start, block = end, block + 1

    def _checked(self, block: int, first: int, last: int) -> npt.NDArray[Any]:
        try:
            values = self._decode(block, first, last)
        except DECODE_ERRORS as error:
            raise CorruptError(
                f"entries {first} to {last - 1} cannot be read",
                file=self._where.path,
                item=self._where.item,
                found=short(error),
                remedy=COPY_AGAIN,
            ) from error
        if len(values) != last - first:
            raise CorruptError(
                f"entries {first} to {last - 1} are not all there",
                file=self._where.path,
                item=self._where.item,
                found=f"{len(values)} entries",
                expected=last - first,
                remedy=COPY_AGAIN,
            )
        return values

    def _decode(self, block: int, first: int, last: int) -> npt.NDArray[Any]:
        raise NotImplementedError

    def _check_lengths(self, lengths: npt.NDArray[Any], first: int) -> None:
        wrong = np.flatnonzero(lengths != self._length)
        if len(wrong):
            entry = first + int(wrong[0])
            raise _wrong_length(self._where, f"{lengths[wrong[0]]} values in entry {entry}", self._length)


class _BranchReader(_Blocks):
    """Baskets of a TTree branch, decoded from their bytes: an entry of a vector is 10 bytes of header, then numbers."""

    def __init__(self, branch: Any, kind: Branch, length: int, where: Where) -> None:
        super().__init__(np.asarray(branch.entry_offsets, dtype=np.int64), length, where)
        self._branch = branch
        interpretation = branch.interpretation
        self._header = 0
        if kind.length is None:
            self._header = int(interpretation.header_bytes)
            interpretation = interpretation.content
        self._dtype: np.dtype[Any] = interpretation.from_dtype.base
        self._jagged = kind.length is None

    def _decode(self, block: int, first: int, last: int) -> npt.NDArray[Any]:
        basket = self._branch.basket(block)
        data = np.asarray(basket.data)
        stride = self._header + self._length * self._dtype.itemsize
        if self._jagged:
            if basket.byte_offsets is None:
                lengths = np.full(basket.num_entries, len(data) // max(basket.num_entries, 1))
            else:
                lengths = np.diff(np.asarray(basket.byte_offsets))
            self._check_lengths((lengths - self._header) // self._dtype.itemsize, first)
        values = data[: len(data) // stride * stride].reshape(-1, stride)[:, self._header :]
        if len(values) * stride != len(data):
            raise ValueError(f"{len(data)} bytes are no whole number of entries of {stride}")
        return values.view(self._dtype)


def _columns_of(ntuple: Any, field_id: int) -> list[int]:
    """Indices of the columns of a field and of the fields inside it."""
    inside = {field_id}
    for number, record in enumerate(ntuple.field_records):  # children come after their parents
        if record.parent_field_id in inside:
            inside.add(number)
    return [number for number, record in enumerate(ntuple.column_records) if record.field_id in inside]


class _FieldReader(_Blocks):
    """Clusters of an RNTuple field."""

    def __init__(self, ntuple: Any, kind: Branch, length: int, where: Where) -> None:
        starts = [int(cluster.num_first_entry) for cluster in ntuple.ntuple.cluster_summaries]
        super().__init__(np.array([*starts, int(ntuple.num_entries)], dtype=np.int64), length, where)
        self._field = ntuple[kind.name]
        self._jagged = kind.length is None
        self._columns = _columns_of(ntuple.ntuple, self._field.field_id)

    def _check_pages(self, cluster: int) -> None:
        """Compare the pages of a cluster with the XXH3 checksums behind them: ROOT writes them, uproot skips them."""
        ntuple = self._field.ntuple
        columns = ntuple.page_link_list[cluster]
        for column in self._columns:
            for page in columns[column].pages if column < len(columns) else ():
                if page.has_checksum:
                    start, stop = page.locator.offset, page.locator.offset + page.locator.num_bytes
                    data = ntuple.file.source.chunk(start, stop + 8).raw_data
                    if xxhash.xxh3_64_intdigest(data[:-8].tobytes()) != int.from_bytes(data[-8:].tobytes(), "little"):
                        raise ValueError(f"the checksum of the page at byte {start} does not match")

    def _decode(self, block: int, first: int, last: int) -> npt.NDArray[Any]:
        self._check_pages(block)
        array = self._field.array(entry_start=first, entry_stop=last)
        if self._jagged:
            self._check_lengths(ak.to_numpy(ak.num(array)), first)
            array = ak.flatten(array)
        return np.asarray(ak.to_numpy(array)).reshape(-1, self._length)
