"""The bytes of a shard: USTAR members with fixed metadata, `.npy` payloads, and the DALI index of their offsets.

All samples of a shard have the same sizes, so the whole layout follows from two shapes and a dtype. tar records written
by `webdataset` would carry time stamps in PAX headers; these hold nothing but names and sizes.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from shards.sums import member_sums

BLOCK = tarfile.BLOCKSIZE
SENSORS_EXT, TRUTH_EXT = "sensors.npy", "truth.npy"
INDEX_VERSION = "v1.2"
NAME_FIELD, CHECKSUM = 100, slice(148, 156)
"""USTAR: bytes of the name, which come first, and where the checksum is."""
STORAGE_DTYPES = {"float32": "<f4", "float16": "<f2"}


def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The header of a `.npy` file (version 1.0, C order) for that shape and dtype string ("<f4")."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def tar_header(name: str, size: int) -> bytes:
    """The 512-byte USTAR header of a regular file: mtime 0, uid/gid 0, mode 0644, no owner names."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def tar_headers(names: Sequence[str], size: int) -> npt.NDArray[np.uint8]:
    """`tar_header` of every name, uint8 (n, 512): one header made by `tarfile`, with names and checksums filled in."""
    if not names:
        return np.empty((0, BLOCK), np.uint8)
    width = max(map(len, names))
    if width > NAME_FIELD or not all(name.isascii() for name in names):
        raise ValueError(f"member names must be at most {NAME_FIELD} ASCII characters")
    empty = np.frombuffer(tar_header("", size), np.uint8)
    out = np.repeat(empty[None], len(names), axis=0)
    raw = np.array(names, dtype=f"S{width}").view(np.uint8).reshape(len(names), width)
    out[:, :width] = raw
    blank = int(empty.sum()) - int(empty[CHECKSUM].sum()) + 8 * ord(" ")
    sums = [f"{blank + extra:06o}\0 ".encode() for extra in raw.sum(axis=1, dtype=np.int64).tolist()]
    out[:, CHECKSUM] = np.frombuffer(b"".join(sums), np.uint8).reshape(-1, 8)
    return out


def padded(size: int, unit: int = BLOCK) -> int:
    """`size` rounded up to a multiple of `unit`."""
    return -(-size // unit) * unit


@dataclass(frozen=True)
class SampleLayout:
    """Where things are in a sample of `sensors` (sensors, 2) and `truth` (columns,)."""

    sensors: int
    columns: int
    dtype: str
    """Storage dtype of the sensors, "float32" or "float16"; truth is float64."""

    @cached_property
    def sensors_npy(self) -> bytes:
        """NPY header of an event's sensors."""
        return npy_header((self.sensors, 2), STORAGE_DTYPES[self.dtype])

    @cached_property
    def truth_npy(self) -> bytes:
        """NPY header of its truth."""
        return npy_header((self.columns,), "<f8")

    @property
    def sensors_size(self) -> int:
        """Bytes of the sensors member, `.npy` header included."""
        return len(self.sensors_npy) + 2 * self.sensors * np.dtype(self.dtype).itemsize

    @property
    def truth_size(self) -> int:
        """Bytes of the truth member, `.npy` header included."""
        return len(self.truth_npy) + 8 * self.columns

    @property
    def truth_start(self) -> int:
        """Offset of the truth member's payload within the sample."""
        return 2 * BLOCK + padded(self.sensors_size)

    @property
    def stride(self) -> int:
        """Bytes of a whole sample: two headers and two padded payloads."""
        return self.truth_start + padded(self.truth_size)

    def offsets(self, events: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Offsets in the tar of the sensors' and the truth's payload of each of `events` samples, int64 (events,)."""
        starts = np.arange(events, dtype=np.int64) * self.stride
        return starts + BLOCK, starts + self.truth_start

    def tar_size(self, events: int) -> int:
        """Bytes of a whole tar, which ends in at least two zero blocks and fills whole records."""
        return padded(events * self.stride + 2 * BLOCK, tarfile.RECORDSIZE)

    def pack(
        self, keys: Sequence[str], sensors: npt.NDArray[np.floating], truth: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.uint8]:
        """The tar bytes of consecutive samples.

        Args:
            keys: n sample names without a dot.
            sensors: (n, sensors, 2) in the storage dtype.
            truth: float64 (n, columns).

        **Returns** uint8 (n, stride).
        """
        out = self.blank(len(keys))
        self.name(out, keys)
        for place, values in zip(self.views(out), (sensors, truth), strict=True):
            place[...] = values
        return out

    def blank(self, events: int) -> npt.NDArray[np.uint8]:
        """Samples without names, all values zero: uint8 (events, stride), for `name` and `views` to fill."""
        out = np.zeros((events, self.stride), np.uint8)
        for start, npy in ((BLOCK, self.sensors_npy), (self.truth_start, self.truth_npy)):
            out[:, start : start + len(npy)] = np.frombuffer(npy, np.uint8)
        return out

    def name(self, packed: npt.NDArray[np.uint8], keys: Sequence[str]) -> None:
        """Write the tar headers of consecutive samples, with their names, into `packed` (n, stride).

        Args:
            keys: n sample names without a dot.
        """
        for start, ext, size in (
            (BLOCK, SENSORS_EXT, self.sensors_size),
            (self.truth_start, TRUTH_EXT, self.truth_size),
        ):
            packed[:, start - BLOCK : start] = tar_headers([f"{key}.{ext}" for key in keys], size)

    def views(self, packed: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.float64]]:
        """The arrays of samples where they lie in `packed` (n, stride), to read or to write, whatever the headers say.

        **Returns** (sensors (n, sensors, 2) in the storage dtype, truth float64 (n, columns)), without a copy.
        """
        a, b = BLOCK + len(self.sensors_npy), self.truth_start + len(self.truth_npy)
        sensors = packed[:, a : BLOCK + self.sensors_size].view(STORAGE_DTYPES[self.dtype])
        truth = packed[:, b : self.truth_start + self.truth_size].view("<f8")
        return sensors.reshape(len(packed), self.sensors, 2), truth

    def sums(self, packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """The sum of each sample's members, int64 (n,); `packed` as of `views`."""
        sensors, truth = packed[:, BLOCK : BLOCK + self.sensors_size], packed[:, self.truth_start :]
        return member_sums(sensors) + member_sums(truth[:, : self.truth_size])

    def index_lines(self, keys: Sequence[str]) -> list[str]:
        """The DALI index line of each sample of a shard, without newline: `ext offset size name` per member."""
        a, b = self.sensors_size, self.truth_size
        first, second = (offsets.tolist() for offsets in self.offsets(len(keys)))
        return [
            f"{SENSORS_EXT} {i} {a} {key}.{SENSORS_EXT} {TRUTH_EXT} {j} {b} {key}.{TRUTH_EXT}"
            for key, i, j in zip(keys, first, second, strict=True)
        ]


def index_text(lines: Sequence[str]) -> str:
    """A whole index file: the header line, then one line per sample."""
    return "\n".join((f"{INDEX_VERSION} {len(lines)}", *lines)) + "\n"
