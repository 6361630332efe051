"""The page of a study of channels: how well each run is calibrated, and which channels need a look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import geometry as geo
from xectrain.evaluation.pages import Row, Section, Table, write_page
from xectrain.evaluation.results import CHANNEL_STATES, ChannelResponse
from xectrain.evaluation.wording import compact_number

Array = NDArray[np.float64]

MAX_CHANNELS = 200
"""Rows of remarkable channels on the page; `channels.csv` has all."""
LEAD = "Each channel on what its neighbours see: its response, 1 when calibrated"


def write_report(
    found: Sequence[ChannelResponse], data: Sequence[str], reference: Sequence[str], pages: Sequence[Path], path: Path
) -> None:
    """Publish tables and plots as one page.

    Args:
        data, reference: what was read, by name; the reference may be missing.
        pages: of the plots, PNG files.
    """
    note = (
        "Responses are relative to the reference, which takes out what the filling itself gets wrong."
        if reference
        else "Without a reference, edges and steep light bias the responses of PMTs by some 10 %."
    )
    sections = (
        Section("Runs", (_runs(found),), tuple(pages), note),
        Section("Channels to look at", (_remarkable(found),), note=f"At most {MAX_CHANNELS}; channels.csv has all."),
    )
    runs = f"{len(found)} runs" if len(found) > 1 else f"run {found[0].run}"
    facts = (("data", ", ".join(data)), ("reference", ", ".join(reference) or "none"))
    write_page(path, "Channels", f"{LEAD} · {runs}, {sum(one.events for one in found)} events", sections, facts)


def _runs(found: Sequence[ChannelResponse]) -> Table:
    """Spread and error of the SiPMs and PMTs of each run, and how many channels are in which state."""
    heads = ("run", "events", "SiPMs: spread [%]", "error", "PMTs: spread [%]", "error", *CHANNEL_STATES)
    rows = []
    for one in found:
        cells = [str(one.run), str(one.events)]
        for own in (slice(0, geo.N_SIPM), slice(geo.N_SIPM, geo.N_SENSORS)):
            cells += [_percent(np.nanstd, one.response[own]), _percent(np.nanmedian, one.error[own])]
        rows.append(Row((*cells, *(str(one.state.count(state) or "") for state in CHANNEL_STATES))))
    return Table(heads, tuple(rows), "Spread of the responses, median error, and channels by state")


def _remarkable(found: Sequence[ChannelResponse]) -> Table:
    faces = [geo.FACE_NAMES[code] for code in geo.nominal_faces()]
    rows = []
    for one in found:
        for sensor in (s for s, state in enumerate(one.state) if state):
            response = compact_number(float(one.response[sensor]), float(one.error[sensor]))
            rows.append(Row((str(one.run), str(sensor), faces[sensor], response, one.state[sensor])))
    return Table(("run", "channel", "face", "response", "state"), tuple(rows[:MAX_CHANNELS]))


def _percent(of: Callable[[Array], Any], values: Array) -> str:
    known = values[np.isfinite(values)]
    return f"{100 * float(of(known)):.2f}" if known.size else ""
