"""Figures as PDF and PNG, redrawn from saved tables without a model: a module per kind of page, one look (`style`)."""

import xectrain.display  # noqa: F401  before matplotlib, as its room says
from xectrain.evaluation.plots.curves import loss_curves
from xectrain.evaluation.plots.resolution import resolution_pages
from xectrain.evaluation.plots.style import data_uri, save_pages, style

__all__ = ["data_uri", "loss_curves", "resolution_pages", "save_pages", "style"]
