"""One look for every figure, and how figures become files."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from shards.base import published

NETWORK_COLOUR = "#0b5fa5"
STRONG_COLOUR = "#d1495b"
OTHER_COLOURS = ("#7a7a7a", "#3d9970", "#b07aa1", "#e1a730", "#5c4d7d")
PALETTE = (NETWORK_COLOUR, STRONG_COLOUR, *OTHER_COLOURS)
PNG_DPI = 110
RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 3,  # outlines; embedding fonts (42) takes as long as drawing
    "savefig.facecolor": "white",
}


@contextmanager
def style() -> Iterator[None]:
    """The project's look, without touching what the caller has set. No pyplot, hence no backend and no global state."""

    with mpl.rc_context(RC):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches); call within `style`."""

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_pages(pages: Sequence[Figure], path: Path, png: bool = True) -> list[Path]:
    """Publish figures as the pages of one PDF, and each as a PNG beside it (`name.png`, then `name_2.png` …).

    Args:
        path: of the PDF.
        png: False leaves the PNGs out.

    Returns:
        The PDF and the PNGs.
    """

    written = [path]
    with style():
        for page in pages:
            _say_where_nothing_is(page)
        for number, page in enumerate(pages if png else (), 1):
            image = path.with_name(f"{path.stem}{'' if number == 1 else f'_{number}'}.png")
            with published(image) as part:
                page.savefig(part, format="png", dpi=PNG_DPI)
            page.set_layout_engine("none")  # keeps the layout just made, which costs as much as drawing
            written.append(image)
        with published(path) as part, PdfPages(part, metadata={"CreationDate": None}) as pdf:
            for page in pages:
                pdf.savefig(page)
    return written


def _say_where_nothing_is(page: Figure) -> None:
    """A word in panels for values per bin of which none was found: their axes go around nothing."""
    for axes in page.axes:
        drawn = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
        if drawn and not any(np.size(one.lines[0].get_xdata()) for one in drawn if one.lines[0] is not None):
            axes.text(0.5, 0.6, "too few events", transform=axes.transAxes, ha="center", color=OTHER_COLOURS[0])


def data_uri(image: Path | Figure) -> str:
    """A PNG file, or a figure drawn as one, as a `data:` URI for pages that must stand alone."""
    if isinstance(image, Path):
        content = image.read_bytes()
    else:
        buffer = io.BytesIO()
        with style():
            image.savefig(buffer, format="png", dpi=PNG_DPI)
        content = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
