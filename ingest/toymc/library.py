"""The two files that come with the toy, made once by `xec toymc library`: showers, and the table of scattered light.

Both are small enough to be kept with the code (under 1 MB each), so a fresh clone simulates at once. The files are
compressed arrays without pickled objects; the same command, NumPy and CPU type give the same bytes.
"""

from __future__ import annotations

import logging
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.toymc import cascade
from ingest.toymc import constants as c
from shards.base import CorruptError, InputError, progress, published

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "data"
SHOWERS = FOLDER / "showers.npz"
N_SHOWERS, N_DEPOSITS = 16000, 8
LENGTH_UNIT, SHARE_UNIT, DELAY_UNIT = 0.02, 1 / 1024, 0.01
"""Steps in which positions [cm], shares of the energy and delays beyond the straight flight [ns] are stored."""
_MIXTURE = ((0.45, 9.5, 105.0), (0.40, c.SIGNAL_ENERGY * 0.96, c.SIGNAL_ENERGY * 1.04), (0.15, 79.7, 86.3))
"""Shares of the library and their energies [MeV], each flat in ln E: everywhere, and densely at the lines of µ → eγ
(with the lower one of charge exchange) and the upper one of charge exchange."""
_BATCH = 500


@dataclass(frozen=True)
class ShowerLibrary:
    """N showers in order of energy, z along the gamma, origin at the first interaction."""

    energy: NDArray[np.float64]
    """float64 (N,), MeV, rising."""
    points: NDArray[np.float32]
    """float32 (N, 8, 3), cm."""
    shares: NDArray[np.float32]
    """float32 (N, 8), of the energy, largest first; their sum is 1."""
    delay: NDArray[np.float32]
    """float32 (N, 8), ns after the first interaction."""


def make_showers(seed: int = 1, count: int = N_SHOWERS) -> ShowerLibrary:
    """Simulate and reduce `count` showers (about 1.2 ms each)."""
    rng = np.random.default_rng(seed)
    energies = [np.exp(rng.uniform(np.log(low), np.log(high), round(share * count))) for share, low, high in _MIXTURE]
    energy = np.sort(np.concatenate(energies))
    points, shares = np.zeros((len(energy), N_DEPOSITS, 3)), np.zeros((len(energy), N_DEPOSITS))
    delay = np.zeros_like(shares)
    with progress("showers", len(energy), "showers") as bar:
        for start in range(0, len(energy), _BATCH):
            batch = energy[start : start + _BATCH]
            steps = cascade.simulate(rng, batch)
            edges = np.searchsorted(steps.shower, np.arange(len(batch) + 1))
            for i in range(len(batch)):
                one = slice(edges[i], edges[i + 1])
                found = cascade.reduce(rng, steps.position[one], steps.energy[one], N_DEPOSITS)
                points[start + i], shares[start + i] = found
                delay[start + i] = cascade.mean_delay(steps.position[one], steps.energy[one], steps.time[one], found[0])
            bar.advance(len(batch))
    return ShowerLibrary(energy, points.astype(np.float32), shares.astype(np.float32), delay.astype(np.float32))


def write_showers(path: Path, library: ShowerLibrary) -> None:
    """Publish a shower library, rounded to the units above. Bytes of a kind lie together, which compresses well."""
    position = np.rint(library.points / LENGTH_UNIT).astype(np.int16)
    late = library.delay - np.linalg.norm(library.points, axis=2) / c.LIGHT_SPEED
    with published(path) as part, open(part, "wb") as file:
        np.savez_compressed(
            file,
            energy=library.energy.astype(np.float32),
            position_high=(position >> 8).astype(np.int8).transpose(1, 2, 0),
            position_low=(position & 255).astype(np.uint8).transpose(1, 2, 0),
            share=np.rint(library.shares / SHARE_UNIT).astype(np.uint16).T,
            late=np.clip(np.rint(late / DELAY_UNIT), 0, 255).astype(np.uint8).T,
        )


@lru_cache(maxsize=2)
def read_showers(path: Path = SHOWERS) -> ShowerLibrary:
    """Read a shower library; the arrays are shared and read-only.

    Raises:
        InputError: it does not exist.
        CorruptError: not a shower library.
    """
    arrays = read_arrays(path, {"energy", "position_high", "position_low", "share", "late"})
    high, low = arrays["position_high"].astype(np.int16), arrays["position_low"]
    points = ((high << 8) | low).transpose(2, 0, 1).astype(np.float32) * np.float32(LENGTH_UNIT)
    shares = arrays["share"].T.astype(np.float32)
    shares /= shares.sum(axis=1, keepdims=True)
    flight = np.linalg.norm(points, axis=2) / np.float32(c.LIGHT_SPEED)
    delay = flight + arrays["late"].T.astype(np.float32) * np.float32(DELAY_UNIT)
    energy = arrays["energy"].astype(np.float64)
    for array in (energy, points, shares, delay):
        array.setflags(write=False)
    return ShowerLibrary(energy, points, shares, delay)


def read_arrays(path: Path, names: set[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` file, which must be just these."""
    if not path.exists():
        raise InputError("is missing", file=path, remedy="make it with `xec toymc library`")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: np.ascontiguousarray(file[name]) for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise CorruptError(f"cannot be read: {error}", file=path, remedy="make it with `xec toymc library`") from error
    if set(arrays) != names:
        raise CorruptError(
            "holds the wrong arrays",
            file=path,
            found=sorted(arrays),
            expected=sorted(names),
            remedy="make it with `xec toymc library`",
        )
    return arrays
