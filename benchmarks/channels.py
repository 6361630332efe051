"""How well `xec channels` finds the toy's true miscalibration: per face, the spread of the truth and of what is left.

xec toymc --events 10000 --seed 101 --calibration-spread 0.03 --out data.root
xec toymc --events 30000 --seed 102 --calibration-spread 0 --out reference.root
xec channels data.root --reference reference.root --out channels
python benchmarks/channels.py channels/channels.csv --seed 101 --spread 0.03
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from ingest.toymc import ToyOptions
from ingest.toymc.response import draw_response
from shards import geometry as geo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="channels.csv of one run")
    parser.add_argument("--seed", type=int, default=1, help="of the toy")
    parser.add_argument("--spread", type=float, default=0.03, help="its --calibration-spread")
    chosen = parser.parse_args()
    table = pl.read_csv(chosen.table)
    made = draw_response(int(table["run_first"][0]), ToyOptions(calibration_spread=chosen.spread, seed=chosen.seed))
    true = made.efficiency / made.calibrated
    found, error = (table[name].to_numpy() for name in ("response", "error"))
    face = np.asarray(geo.nominal_faces())
    groups = {"SiPMs": face == 0, "PMTs": face != 0, **{name: face == k for k, name in enumerate(geo.FACE_NAMES)}}
    print("| | channels | true spread [%] | left after correction [%] | its 68 % [%] | median error told [%] |")
    print("|---|---|---|---|---|---|")
    for name, own in groups.items():
        known = own & np.isfinite(error)
        left = found[known] / true[known]
        left = left / np.median(left)
        numbers = np.std(true[known]), np.std(left), np.quantile(np.abs(left - 1), 0.68), np.median(error[known])
        print(f"| {name} | {known.sum()} | " + " | ".join(f"{100 * n:.2f}" for n in numbers) + " |")


if __name__ == "__main__":
    main()
