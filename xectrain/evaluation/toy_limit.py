"""The toy Monte Carlo's limit beside every event: what the best linear estimator attains at its depth and energy.

For toy data only, and for the tasks that have one. The numbers come from `ingest.toymc.study.limit` (case `unknown`, at
u = v = 0), kept as a table, since one of them takes seconds; between its points they are interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ingest.toymc.study.limit import kept_limits
from xectrain.evaluation.tables import LIMIT

Array = NDArray[np.float64]


def limit_columns(truth: Mapping[str, NDArray[np.floating]]) -> dict[str, Array]:
    """`limit_energy` [GeV], `limit_timing` [ns], `limit_u`, `limit_v`, `limit_w` [cm]: (n,) standard deviations.

    Args:
        truth: canonical columns, (n,) each; without `w` or `energy` there is no limit.
    """
    if "w" not in truth or "energy" not in truth:
        return {}
    depth, energy = (np.asarray(truth[name], dtype=np.float64) for name in ("w", "energy"))
    kept = kept_limits()
    depths, energies = np.unique([e.depth for e in kept]), np.unique([e.gamma for e in kept])
    found = {}
    for column, name in (("u", "u"), ("v", "v"), ("w", "w"), ("energy", "energy"), ("timing", "time")):
        grid = np.empty((len(energies), len(depths)))
        for entry in kept:
            grid[np.searchsorted(energies, entry.gamma), np.searchsorted(depths, entry.depth)] = getattr(entry, name)
        found[LIMIT + column] = _interpolated(grid, energies, depths, 1e3 * energy, depth)
    found[LIMIT + "energy"] = found[LIMIT + "energy"] * energy
    return found


def _interpolated(grid: Array, rows: Array, columns: Array, y: Array, x: Array) -> Array:
    """Bilinear in the logarithms, held at the borders; NaN stays NaN."""
    lx, ly = (np.log(np.clip(a, b[0], b[-1])) for a, b in ((x, columns), (y, rows)))
    by_row = np.stack([np.interp(lx, np.log(columns), np.log(row)) for row in grid])
    place = np.interp(ly, np.log(rows), np.arange(len(rows)))
    low = np.clip(np.nan_to_num(place).astype(np.int64), 0, len(rows) - 2)
    index = np.arange(len(x))
    share = place - low
    return np.asarray(np.exp((1 - share) * by_row[low, index] + share * by_row[low + 1, index]))
