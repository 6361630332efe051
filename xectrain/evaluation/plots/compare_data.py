"""Figures of two sets of events beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xectrain.evaluation.plots.style import NETWORK_COLOUR, STRONG_COLOUR, new_figure, style

A_PAGE = 12
PHOTONS = "log₁₀ of photons"
WORDS = {
    "log10_light_": ("light", PHOTONS),
    "hit_sensors_": ("sensors hit", "sensors"),
    "time_ns_": ("median time", "ns"),
}
"""Beginning of a feature's name → what it is, and its unit; a face follows."""


def feature_pages(
    names: tuple[str, str],
    tables: tuple[Mapping[str, NDArray[np.float64]], Mapping[str, NDArray[np.float64]]],
    order: Sequence[str],
) -> list[Figure]:
    """Each feature's distribution in both sets, normalized to one event, twelve per page.

    Args:
        order: of the features.
    """
    pages = []
    with style():
        for start in range(0, len(order), A_PAGE):
            shown = order[start : start + A_PAGE]
            figure = new_figure(12.0, 2.7 * -(-len(shown) // 4) + 0.9)
            heading = f"{names[0]} (filled) and {names[1]} (line): the most different features first"
            figure.suptitle(heading, fontsize=11, fontweight="bold", x=0.01, ha="left")
            axes = figure.subplots(-(-len(shown) // 4), 4, squeeze=False).ravel()
            for panel, name in zip(axes, shown, strict=False):
                values = [table[name][np.isfinite(table[name])] for table in tables]
                both = np.concatenate(values)
                low, high = np.quantile(both, (0.002, 0.998)) if both.size else (0.0, 1.0)
                edges = np.linspace(low, high, 41) if high > low else np.array([low - 0.5, low + 0.5])
                looks: tuple[dict[str, Any], ...] = (
                    {"histtype": "stepfilled", "color": NETWORK_COLOUR, "alpha": 0.35},
                    {"histtype": "step", "color": STRONG_COLOUR},
                )
                for x, look in zip(values, looks, strict=True):
                    panel.hist(x, bins=edges.tolist(), weights=np.full(x.size, 1 / max(x.size, 1)), **look)
                title, label = feature_words(name)
                panel.set(title=title, xlabel=label, ylabel="fraction of events")
            for panel in axes[len(shown) :]:
                panel.set_visible(False)
            pages.append(figure)
    return pages


def feature_words(feature: str) -> tuple[str, str]:
    """What a feature is, and its unit."""
    for start, (what, unit) in WORDS.items():
        if feature.startswith(start):
            return f"{what}, {feature.removeprefix(start)}", unit
    return feature.removeprefix("log10_").replace("_", " "), PHOTONS if feature.startswith("log10_") else "sensors"
