"""How fast the toy Monte Carlo is: where the time goes, with writing, and on two processes.

    python benchmarks/toymc.py [EVENTS]

Processor time for one process, wall time where several work or a disk is written to; ratios are to the first line.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ingest.toymc import ToyOptions, iterate, write
from ingest.toymc import constants as c
from ingest.toymc.light import light_model
from ingest.toymc.response import detect, draw_response
from ingest.toymc.shower import draw_deposits
from ingest.toymc.source import draw_gammas


def main(events: int) -> None:
    """Print the table."""
    options = ToyOptions()
    rng = np.random.Generator(np.random.SFC64(1))
    gammas = draw_gammas(rng, np.full(512, c.SIGNAL_ENERGY), options)
    deposits = draw_deposits(rng, gammas)
    light, arrival = light_model(None).light(deposits, np.full(512, c.PHOTONS_PER_MEV))
    response = draw_response(1, options)

    def sensors() -> None:
        for start in range(0, 512, 8):
            detect(rng, light[start : start + 8], arrival[start : start + 8], response, saturation=False)

    simulate = timed(lambda: sum(len(part) for part in iterate(events, options)), events, time.process_time)
    rows = [
        ("simulate, one process, no writing", simulate, "processor"),
        ("  source and shower", timed(lambda: draw_deposits(rng, draw_gammas(rng, gammas.energy, options)), 512), ""),
        ("  light", timed(lambda: light_model(None).light(deposits, np.full(512, c.PHOTONS_PER_MEV)), 512), ""),
        ("  sensors", timed(sensors, 512), ""),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            for compression in ("zstd", "none"):
                path = Path(folder) / f"{processes}{compression}.root"
                rate = timed(
                    lambda p=path, c=compression, j=processes: write(p, events, options, compression=c, processes=j),
                    events,
                    time.perf_counter,
                    warm=False,
                )
                rows.append((f"with writing, {compression}, processes: {processes}", rate, "wall"))
    print(f"{'':46}{'events/s':>10}{'ratio':>8}  clock")
    for name, rate, clock in rows:
        print(f"{name:46}{rate:10.0f}{rate / simulate:8.2f}  {clock or 'processor'}")
    print(
        f"largest resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB for {events} events"
    )


def timed(
    work: Callable[[], object], events: int, clock: Callable[[], float] = time.process_time, warm: bool = True
) -> float:
    """Events per second of `work`."""
    if warm:
        light_model(None)
    started = clock()
    work()
    return events / (clock() - started)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
