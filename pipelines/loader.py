"""The one entry point: choose the reader, log which, and read a plan."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from shards.base import ConfigError, nearest

if TYPE_CHECKING:
    from pipelines.batch import Loader
    from shards.plan import RankPlan, View

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "dali", "webdataset")


def open_loader(
    views: Sequence[View],
    plan: RankPlan,
    *,
    device: str = "cpu",
    backend: str = "auto",
    threads: int = 2,
    prefetch: int = 2,
) -> Loader:
    """Read the events of `plan`, in its order, as full micro-batches.

    Args:
        views: the datasets the plan was made of.
        plan: one rank's share of one epoch (`shards.plan.rank_plan`).
        device: `cpu` or a CUDA device, where `Batch.sensors` will be.
        backend: `dali`, `webdataset` (slower, runs everywhere), or `auto`: DALI where its wheel is installed.
        threads: DALI worker threads.
        prefetch: micro-batches read ahead.

    Raises:
        ConfigError: unknown backend, or DALI asked for but not installed.
    """
    chosen = choose_backend(backend)
    if chosen == "dali":
        from pipelines.dali import DaliLoader

        return DaliLoader(views, plan, device=device, threads=threads, prefetch=prefetch)
    from pipelines.web import WebDatasetLoader

    return WebDatasetLoader(views, plan, device=device)


@cache
def choose_backend(backend: str) -> str:
    """`dali` or `webdataset`; logged once with the reason."""
    if backend not in BACKENDS:
        raise ConfigError(f"there is no loader backend {backend!r}", remedy=nearest(backend, BACKENDS))
    has_dali = importlib.util.find_spec("nvidia.dali") is not None if importlib.util.find_spec("nvidia") else False
    if backend == "dali" and not has_dali:
        raise ConfigError(
            "DALI is not installed here", remedy="use the backend 'webdataset', or install the DALI wheel"
        )
    if backend != "auto":
        return backend
    chosen = "dali" if has_dali else "webdataset"
    logger.info("reading shards with %s (%s)", chosen, "installed" if has_dali else "no DALI wheel here")
    return chosen
