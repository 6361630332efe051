"""ROOT files of a few events for the tests of ingest, and comparing folders."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

S = 4760


def events(n: int, seed: int = 0, run: int = 100, first: int = 0) -> dict[str, np.ndarray]:
    """Branches of `n` events as in the input trees, with dead, negative, missing and huge values among them."""
    rng = np.random.default_rng((seed, run, first))
    npho = (rng.exponential(300.0, (n, S)) - 3).astype(np.float32)
    time = rng.uniform(0, 1e-7, (n, S)).astype(np.float32)
    npho[:, 17] = np.nan
    npho[:, 4100] = 1e10
    npho[rng.random(npho.shape) < 1e-3] = -2000.0
    time[npho < 20] = 1e10
    return {
        "npho": npho,
        "relative_time": time,
        "time_min_used": rng.uniform(-7e-7, -6e-7, n),
        "energyTruth": rng.uniform(0.045, 0.055, n),
        "timeTruth": rng.uniform(-10, 10, n),
        "uvwTruth": rng.uniform((-33, -71, 0), (33, 71, 30), (n, 3)),
        "run": np.full(n, run, dtype=np.int32),
        "event": np.arange(first, first + n, dtype=np.int32),
    }


def write_tree(
    path: Path,
    branches: dict[str, Any],
    *,
    name: str = "tree",
    basket: int = 16,
    compression: Any = None,
    jagged: tuple[str, ...] = (),
) -> Path:
    """Write `branches` as a TTree; those in `jagged` as variable-length arrays."""
    with uproot.recreate(path, compression=uproot.ZLIB(1) if compression is None else compression) as file:
        add_tree(file, branches, name, basket, jagged)
    return path


def add_tree(file: Any, branches: dict[str, Any], name: str, basket: int = 16, jagged: tuple[str, ...] = ()) -> None:
    """Add a TTree to an open file."""
    types: dict[str, Any] = {}
    for key, values in branches.items():
        fixed = values.dtype if values.ndim == 1 else np.dtype((values.dtype, values.shape[1:]))
        types[key] = f"var * {values.dtype}" if key in jagged else fixed
    tree = file.mktree(name, types)
    n = len(next(iter(branches.values())))
    for start in range(0, n, basket):
        part = {key: values[start : start + basket] for key, values in branches.items()}
        tree.extend({key: ak.from_regular(ak.from_numpy(v)) if key in jagged else v for key, v in part.items()})


def digests(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
