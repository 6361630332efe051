"""Numbers that say how good a prediction is: pure NumPy, frozen records, an uncertainty with every value.

A number is added in `tasks` (regression) or `sensors` (hidden sensors); how it is made, in `statistics`. May import
`shards` and `xectrain.tasks`.
"""

from xectrain.metrics.binned import Profile, default_edges, equal_count_edges, profile
from xectrain.metrics.energy import EnergyFit, fit_energy_resolution
from xectrain.metrics.flat import summary
from xectrain.metrics.statistics import (
    Estimate,
    core_sigma,
    effective_sigma,
    estimate,
    half_width_68,
    percentile_68,
    upper_half_width,
)
from xectrain.metrics.tasks import (
    Metric,
    TaskMetrics,
    direction_from_angles,
    headline,
    opening_angle,
    residual,
    task_metrics,
)
from xectrain.metrics.uncertainty import uncertainty_metrics

__all__ = [
    "EnergyFit",
    "Estimate",
    "Metric",
    "Profile",
    "TaskMetrics",
    "core_sigma",
    "default_edges",
    "direction_from_angles",
    "effective_sigma",
    "equal_count_edges",
    "estimate",
    "fit_energy_resolution",
    "half_width_68",
    "headline",
    "opening_angle",
    "percentile_68",
    "profile",
    "residual",
    "summary",
    "task_metrics",
    "uncertainty_metrics",
    "upper_half_width",
]
