"""How many events lie within their predicted intervals, in bins of the predicted energy and depth.

xec evaluate runs/quantiles data/judge --out before
xec calibrate runs/quantiles data/calibrating --uncertainties --out calibrated.pt
xec evaluate calibrated.pt data/judge --out after
python benchmarks/coverage.py before after

Fiducial events. A row per evaluation and quantity: the fractions [%] within the inner and the outer interval, over all
and in bins of what is predicted, which is what an interval can be right for: of the events whose energy is predicted
at a spectrum's end, more come from within than from beyond.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shards import geometry as geo
from xectrain.metrics.tasks import covered
from xectrain.tasks import TASKS

Bools = NDArray[np.bool_]

ENERGIES = (15, 25, 35, 45, 55, 60, 65)
DEPTHS = (0, 1.5, 3, 5, 8, 14, 40)
LEAST = 100
"""Events without which a bin is not shown."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="+", type=Path, help="folders with predictions_TASK.parquet")
    parser.add_argument("--columns", default="u,v,w,energy,timing")
    chosen = parser.parse_args()
    found = {path: events_of(path) for path in chosen.evaluations}
    energies = [f"{a}–{b} MeV" for a, b in pairwise(ENERGIES)]
    depths = [f"{a:g}–{b:g} cm" for a, b in pairwise(DEPTHS)]
    for column in chosen.columns.split(","):
        print(f"\n| {column} | all | " + " | ".join([*energies, *depths]) + " |")
        print("|---" * (2 + len(energies) + len(depths)) + "|")
        for path, table in found.items():
            samples = [np.ones(len(table), dtype=bool)]
            samples += bins(1e3 * table["pred_energy"].to_numpy(), ENERGIES)
            samples += bins(table["pred_w"].to_numpy(), DEPTHS)
            print(f"| {path} | " + " | ".join(cell(table, column, some) for some in samples) + " |")


def events_of(path: Path) -> pl.DataFrame:
    """The fiducial events of an evaluation with the predictions of all its tasks."""
    files = [path / f"predictions_{task}.parquet" for task in TASKS]
    tables = [pl.read_parquet(file) for file in files if file.exists()]
    joined = tables[0]
    for table in tables[1:]:
        joined = joined.hstack(table.select(name for name in table.columns if name not in joined.columns))
    inside = geo.in_fiducial(joined.select(f"true_{axis}" for axis in "uvw").to_numpy())
    return joined.filter(pl.Series(inside))


def bins(values: NDArray[np.float64], edges: tuple[float, ...]) -> list[Bools]:
    return [(values >= low) & (values < high) for low, high in pairwise(edges)]


def cell(table: pl.DataFrame, column: str, some: Bools) -> str:
    """Fractions [%] within the inner and the outer interval; a dash for few events."""
    if np.count_nonzero(some) < LEAST:
        return "–"
    edges = sorted(
        (name for name in table.columns if name.startswith(f"pred_{column}_q")),
        key=lambda name: float(name.rpartition("_q")[2].replace("p", ".")),
    )
    true = table[f"true_{column}"].to_numpy()[some]
    pairs = zip(edges[: len(edges) // 2], edges[::-1], strict=False)
    shares = [100 * np.mean(covered(column, true, *(table[name].to_numpy()[some] for name in pair))) for pair in pairs]
    return " / ".join(f"{share:.1f}" for share in shares[::-1])


if __name__ == "__main__":
    main()
