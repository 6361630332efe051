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

PACKED = (uproot.interpretation.numerical.AsDouble32, uproot.interpretation.numerical.AsFloat16)
"""Double32_t and Float16_t, where they are stored as integers or with fewer bits."""


@dataclass(frozen=True)
class InputBranch:
    """What a branch holds, or a leaf of a branch that has several."""

    name: str
    typename: str
    """As ROOT would write it, for messages."""
    dtype: np.dtype[Any] | None
    """Native dtype of its numbers; None: not numbers, or nothing that can be interpreted."""
    length: int | None
    """Numbers per entry; None: jagged."""
    leaf: str = ""
    """The leaf of a branch with several; the branch is then the name without it."""

    @property
    def numeric(self) -> bool:
        """Whether it holds plain numbers (or booleans)."""
        return self.dtype is not None and self.dtype.kind in "fiub"

    @property
    def whole(self) -> bool:
        """Whether it holds one integer per entry; integers have no mark for a missing value."""
        return self.dtype is not None and self.dtype.kind in "iu" and self.length is not None

    @property
    def parent(self) -> str:
        """Name of the branch in the tree."""
        return self.name.removesuffix(f".{self.leaf}") if self.leaf else self.name


class Reader(Protocol):
    """Serves entry ranges of one branch."""

    def read_into(self, out: npt.NDArray[Any], start: int) -> npt.NDArray[np.bool_] | None:
        """Fill `out` (n, length), of any numeric dtype, with entries [start, start + n).

        **Returns** which entries hold nothing, bool (n,), and are NaN in `out`; None where none does.
        """

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
        """Tree and branch, for messages."""
        return f"{self.tree}/{self.branch}"


def list_branches(tree: Any) -> dict[str, InputBranch]:
    """All branches of a TTree, with the leaves of those that have several, or fields of an RNTuple, by full name.

    Nested ones are also listed by their last part if that is unique. What uproot cannot interpret has no numbers.
    """
    every = [branch for key, value in tree.items(recursive=True) for branch in _described(tree, key, value)]
    found = {branch.name: branch for branch in every}
    last: dict[str, list[str]] = {}
    for key, branch in found.items():
        if not branch.leaf:
            last.setdefault(key.replace("/", ".").rpartition(".")[2], []).append(key)
    for short_name, keys in last.items():
        if len(keys) == 1 and short_name and short_name not in found:
            found[short_name] = found[keys[0]]
    return found


def describe(tree: Any, name: str) -> InputBranch:
    """What the branch, leaf or field of that full name holds."""
    for key in (name, name.rpartition(".")[0]):
        if key in tree.keys(recursive=True):
            return next(branch for branch in _described(tree, key, tree[key]) if branch.name == name)
    raise KeyError(name)


def _described(tree: Any, key: str, value: Any) -> list[InputBranch]:
    if isinstance(tree, uproot.behaviors.RNTuple.HasFields):
        return [_field(key, value)]
    try:
        return _branches(key, value)
    except DECODE_ERRORS:  # a type unknown to uproot must not get in the way
        return [InputBranch(key, "unknown", None, None)]


def _branches(key: str, branch: Any) -> list[InputBranch]:
    """A branch, or what its leaves are where it has several: a structure as of `Branch("id", &id, "run/I:event/I")`."""
    interpretation, typename = branch.interpretation, str(branch.typename)
    if isinstance(interpretation, PACKED):
        length = int(np.prod(interpretation.to_dims, dtype=int))
        return [InputBranch(key, typename, interpretation.to_dtype.base, length)]
    if isinstance(interpretation, uproot.interpretation.numerical.AsDtype):
        base, shape = _base(interpretation.to_dtype)
        length = int(np.prod(shape, dtype=int))
        if base.names is None:
            return [InputBranch(key, typename, base.newbyteorder("="), length)]
        leaves = []
        for leaf in base.names:
            kind, inside = _base(base[leaf])
            if kind.names is None and length == 1:
                size = int(np.prod(inside, dtype=int))
                leaves.append(InputBranch(f"{key}.{leaf}", str(kind), kind.newbyteorder("="), size, leaf))
        return [InputBranch(key, typename, None, None), *leaves]
    if isinstance(interpretation, uproot.interpretation.jagged.AsJagged):
        content = interpretation.content
        if type(content) is uproot.interpretation.numerical.AsDtype and content.to_dtype.subdtype is None:
            return [InputBranch(key, typename, content.to_dtype.newbyteorder("="), None)]
    return [InputBranch(key, typename, None, None)]


def _base(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    return (dtype.base, dtype.shape) if dtype.subdtype else (dtype, ())


def _field(key: str, field: Any) -> InputBranch:
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
    return InputBranch(key, str(field.typename), dtype, length)


def open_reader(tree: Any, branch: InputBranch, length: int, where: Where) -> Reader:
    """A reader for `branch`, every entry of which must hold `length` numbers.

    Raises:
        InputError: the branch does not hold numbers, or holds another count of them.
    """
    if not branch.numeric:
        raise InputError("does not hold numbers", file=where.path, item=where.item, found=branch.typename)
    if branch.length not in (None, length):
        raise _wrong_length(where, f"{branch.length} values per event", length)
    if isinstance(tree, uproot.behaviors.RNTuple.HasFields):
        return _FieldReader(tree, branch, length, where)
    source = tree[branch.parent]
    if isinstance(source.interpretation, PACKED):
        return _PackedReader(source, length, where)
    return _BranchReader(source, branch, length, where)


def _wrong_length(where: Where, found: str, expected: int) -> InputError:
    return InputError(
        "has the wrong number of values",
        file=where.path,
        item=where.item,
        found=found,
        expected=expected,
        remedy="is this branch of another detector, or of selected channels only?",
    )


class _Blocks:
    """Serving ranges from blocks; subclasses decode one block."""

    def __init__(self, starts: npt.NDArray[np.int64], length: int, where: Where) -> None:
        self._starts, self._length, self._where = starts, length, where
        self._held, self._values = -1, np.empty((0, length))
        self._empty: npt.NDArray[np.bool_] | None = None

    def boundaries(self) -> npt.NDArray[np.int64]:
        return self._starts

    def read_into(self, out: npt.NDArray[Any], start: int) -> npt.NDArray[np.bool_] | None:
        stop = start + len(out)
        empty: npt.NDArray[np.bool_] | None = None
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
            place, rows = slice(start - stop + len(out), end - stop + len(out)), slice(start - first, end - first)
            with np.errstate(over="ignore", invalid="ignore"):  # a float64 beyond float32 becomes Inf, which is "dead"
                out[place] = self._values[rows]
            if self._empty is not None and self._empty[rows].any():
                empty = np.zeros(len(out), dtype=bool) if empty is None else empty
                empty[place] = self._empty[rows]
            if end == last:
                self._held, self._values = -1, np.empty((0, self._length))
            start, block = end, block + 1
        return empty

    def _checked(self, block: int, first: int, last: int) -> npt.NDArray[Any]:
        self._empty = None
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
                f"entries {first} to {last - 1} are incomplete",
                file=self._where.path,
                item=self._where.item,
                found=f"{len(values)} entries",
                expected=last - first,
                remedy=COPY_AGAIN,
            )
        return values

    def _decode(self, block: int, first: int, last: int) -> npt.NDArray[Any]:
        raise NotImplementedError

    def _rectangular(self, values: npt.NDArray[Any], lengths: npt.NDArray[Any], first: int) -> npt.NDArray[Any]:
        """The entries of a jagged block as rows, those without any value as rows of NaN, which are noted.

        Args:
            values: of all entries, one after another.
            lengths: of each entry.
        """
        wrong = np.flatnonzero((lengths != self._length) & (lengths != 0))
        if len(wrong):
            entry = first + int(wrong[0])
            raise _wrong_length(self._where, f"{lengths[wrong[0]]} values in entry {entry}", self._length)
        if (lengths == 0).any() and self._length:
            self._empty = np.asarray(lengths == 0)
            rows = np.full((len(lengths), self._length), np.nan)
            rows[~self._empty] = values.reshape(-1, self._length)
            return rows
        return values.reshape(-1, self._length)


class _BranchReader(_Blocks):
    """Baskets of a TTree branch, decoded from their bytes: an entry of a vector is 10 bytes of header, then numbers."""

    def __init__(self, branch: Any, kind: InputBranch, length: int, where: Where) -> None:
        super().__init__(np.asarray(branch.entry_offsets, dtype=np.int64), length, where)
        self._branch = branch
        interpretation = branch.interpretation
        self._header = 0
        if kind.length is None:
            self._header = int(interpretation.header_bytes)
            interpretation = interpretation.content
        self._dtype: np.dtype[Any] = interpretation.from_dtype.base
        self._jagged, self._leaf = kind.length is None, kind.leaf

    def _decode(self, block: int, first: int, last: int) -> npt.NDArray[Any]:
        basket = self._branch.basket(block)
        data = np.asarray(basket.data)
        if self._jagged:
            return self._vectors(data, basket, first)
        stride = self._dtype.itemsize if self._leaf else self._length * self._dtype.itemsize
        if len(data) % stride:
            raise ValueError(f"{len(data)} bytes are not a whole number of entries of {stride}")
        values = data.view(self._dtype)
        return (values[self._leaf] if self._leaf else values).reshape(-1, self._length)

    def _vectors(self, data: npt.NDArray[np.uint8], basket: Any, first: int) -> npt.NDArray[Any]:
        if basket.byte_offsets is None:
            sizes = np.full(basket.num_entries, len(data) // max(basket.num_entries, 1))
        else:
            sizes = np.diff(np.asarray(basket.byte_offsets))
        lengths = (sizes - self._header) // self._dtype.itemsize
        if sizes.sum() != len(data) or (sizes != self._header + lengths * self._dtype.itemsize).any():
            raise ValueError(f"{len(data)} bytes are not a whole number of values of {self._dtype.itemsize}")
        stride = self._header + self._length * self._dtype.itemsize
        if (lengths == self._length).all():
            return data.reshape(-1, stride)[:, self._header :].view(self._dtype)
        full = np.repeat(lengths == self._length, sizes)
        numbers = data[full].reshape(-1, stride)[:, self._header :] if (lengths == self._length).any() else data[:0]
        return self._rectangular(np.ascontiguousarray(numbers).reshape(-1).view(self._dtype), lengths, first)


class _PackedReader(_Blocks):
    """Baskets of Double32_t or Float16_t numbers, decoded by uproot."""

    def __init__(self, branch: Any, length: int, where: Where) -> None:
        super().__init__(np.asarray(branch.entry_offsets, dtype=np.int64), length, where)
        self._branch = branch

    def _decode(self, block: int, first: int, last: int) -> npt.NDArray[Any]:
        values = self._branch.array(entry_start=first, entry_stop=last, library="np")
        return np.asarray(values).reshape(-1, self._length)


def _columns_of(ntuple: Any, field_id: int) -> list[int]:
    """Indices of the columns of a field and of the fields inside it."""
    inside = {field_id}
    for number, record in enumerate(ntuple.field_records):  # children come after their parents
        if record.parent_field_id in inside:
            inside.add(number)
    return [number for number, record in enumerate(ntuple.column_records) if record.field_id in inside]


class _FieldReader(_Blocks):
    """Clusters of an RNTuple field."""

    def __init__(self, ntuple: Any, kind: InputBranch, length: int, where: Where) -> None:
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
            return self._rectangular(np.asarray(ak.to_numpy(ak.flatten(array))), ak.to_numpy(ak.num(array)), first)
        return np.asarray(ak.to_numpy(array)).reshape(-1, self._length)
