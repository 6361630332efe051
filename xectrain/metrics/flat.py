"""Metrics of a validation set as one flat dictionary, for logs: without uncertainties, so that it costs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from xectrain.metrics.tasks import task_metrics
from xectrain.tasks import find_task


def summary(outputs: Mapping[str, ArrayLike], tasks: Iterable[str]) -> dict[str, float]:
    """The metrics of several tasks by name (`metrics.task_metrics`), those that have a value.

    Args:
        outputs: `pred_*`, `true_*` and perhaps `sigma_*` columns, (n,) each, canonical units.
        tasks: names of the tasks.
    """
    result: dict[str, float] = {}
    for task in tasks:
        columns = find_task(task).columns
        parts = {
            kind: {c: np.asarray(outputs[f"{kind}_{c}"]) for c in columns if f"{kind}_{c}" in outputs}
            for kind in ("pred", "true", "sigma")
        }
        metrics = task_metrics(task, parts["pred"], parts["true"], parts["sigma"], resamples=0)
        result.update({name: value for name, value in metrics.values().items() if np.isfinite(value)})
    return result
