"""What evaluations find, as frozen records: made by `evaluate`, `sensors`, `lines` and `insight`, shown by `report`,
`card` and `plots`, which know nothing of how they were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xectrain.evaluation.peaks import SHAPES, PeakFit
from xectrain.inference.model import ModelFacts
from xectrain.inference.sources import Part, ReadOptions
from xectrain.metrics import Metric, TaskMetrics

Array = NDArray[np.float64]

CALIBRATION_EVENTS = 20_000
CHANNEL_STATES = ("dead", "weak", "hot", "drifting", "unknown")


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate of a regressor, and how."""

    settings: ReadOptions = field(default_factory=ReadOptions)
    samples: Mapping[str, str] = field(default_factory=dict)
    """Further sub-samples: name → expression."""
    by: tuple[str, ...] = ()
    """Columns to bin resolutions in, in addition to energy, position and direction."""
    baselines: bool = True
    baseline_data: Path | None = None
    """Dataset the classical methods are calibrated on; None: the model's training data."""
    baseline_events: int = CALIBRATION_EVENTS
    resamples: int = 100
    """Bootstrap repetitions."""
    toy_limit: bool = False
    """Show the toy Monte Carlo's limit (`toy_limit`): meaningful for its events only."""


@dataclass(frozen=True)
class SampleResult:
    """Metrics of all tasks and methods on some of a dataset's events."""

    name: str
    expression: str
    events: int
    metrics: Mapping[str, Mapping[str, TaskMetrics]]
    """Task → method → metrics."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Metric → what the toy allows, where it was asked for."""


@dataclass(frozen=True, eq=False)
class Trend:
    """A prediction by run, or by another column; one element per group, in the unit people use."""

    by: str
    group: Array
    median: Array
    median_error: Array
    width: Array
    """Half the central 68 %."""
    count: Array


@dataclass(frozen=True)
class Disagreement:
    """A prediction against the conventional reconstruction, in the unit people use."""

    column: str
    median: float
    """Of network − conventional."""
    width: float
    """Half the central 68 %."""
    beyond: float
    """Share of events more than five widths from the median."""
    events: int


@dataclass(frozen=True)
class WithoutTruth:
    """Distributions and the comparison with the conventional reconstruction, for data without truth."""

    images: Sequence[Path]
    """Spectra, maps and trends as PNG files, then the displays of the worst disagreements."""
    trends: Mapping[str, Mapping[str, Trend]]
    """Column grouped by → prediction → its trend."""
    disagreements: Sequence[Disagreement]


@dataclass(frozen=True)
class DataResult:
    """Everything about one dataset."""

    name: str
    part: Part
    events: int
    in_range: float
    """Fraction of events inside the training range."""
    samples: tuple[SampleResult, ...]
    images: Mapping[str, Sequence[Path]]
    """Task → its pages as PNG files."""
    without_truth: WithoutTruth | None = None
    """What can be said where a task has no truth."""

    @property
    def shown(self) -> SampleResult:
        """The sub-sample that short tables show: the fiducial one where there is one, else all events."""
        return next((s for s in self.samples if s.name == FIDUCIAL), self.samples[0])


FIDUCIAL = "fiducial"


@dataclass(frozen=True)
class Evaluation:
    """Everything about one regressor."""

    facts: ModelFacts
    data: tuple[DataResult, ...]
    folder: Path
    options: EvaluationOptions


@dataclass(frozen=True)
class SensorResult:
    """What models and classical fillings predict for the hidden sensors of one dataset."""

    name: str
    part: Part
    rows: Mapping[str, NDArray[Any]]
    """One row per hidden sensor: `sensor_rows.hidden_sensors`, `baseline_*`, and `pred_npho:LABEL` of others."""
    events: int
    mask_ratio: float
    """Hidden over valid sensors."""
    metrics: Mapping[str, tuple[Metric, ...]]
    """Method → metrics; models by label, and the fillings."""
    images: Sequence[Path]


@dataclass(frozen=True, eq=False)
class Insight:
    """What a regressor looks at, averaged over some events. F = 6 faces, T tokens."""

    events: int
    columns: tuple[str, ...]
    """The predictions looked at, without classes."""
    saliency: Array
    """(columns, F, 2): mean |∂prediction/∂input| over a face's visible sensors, npho and time, in spreads of the
    prediction per spread of the input."""
    importance: Array
    """(columns, F): RMS change of a prediction when a face is hidden, in spreads of the prediction."""
    attention: Array
    """(layers, T, T): mean weight with which a token (row) looks at another (column)."""
    tokens: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class WorstEvent:
    """One badly predicted event."""

    loss: float
    """Mean squared residual in spreads of the training set."""
    npho: NDArray[np.float32]
    """(4760,), photons, NaN at dead sensors."""
    time: NDArray[np.float32]
    """(4760,), s."""
    values: Mapping[str, float]
    """`run`, `event`, `true_*` and `pred_*`."""


@dataclass(frozen=True)
class Line:
    """A line of known energy, and how to study it."""

    energy: float
    """MeV."""
    group: str | None = None
    """Column whose values make the groups (`patch`, `run`); None: all events are one."""
    shape: str = SHAPES[0]


@dataclass(frozen=True)
class LineResult:
    """One estimator of the energy of a line's events."""

    name: str
    as_is: PeakFit | None
    """All events as they are."""
    groups: Mapping[float, PeakFit]
    """By group value, those with enough events; MeV."""
    together: PeakFit | None
    """All events of the fitted groups, each group moved so that its peak lies on the line."""
    values: Array
    """Energies [MeV], the groups' biases removed; NaN in groups without a fit."""


@dataclass(frozen=True)
class LineStudy:
    """All estimators on the same events."""

    line: Line
    events: int
    """That pass the cut and that every estimator has an energy for."""
    passed: int
    """That pass the cut."""
    results: tuple[LineResult, ...]


@dataclass(frozen=True, eq=False)
class ChannelResponse:
    """One run's channels; arrays (4760,)."""

    run: int
    events: int
    response: Array
    """1 for a channel that is calibrated; NaN where the data say nothing."""
    error: Array
    state: tuple[str, ...]
    """One of `CHANNEL_STATES`, or empty."""


@dataclass(frozen=True)
class DeadStudy:
    """What dead channels cost with each way of treating them."""

    methods: tuple[str, ...]
    """`network` (no sensor missing), `raw`, then the strategies."""
    events: int
    missing: float
    """Mean number of sensors removed."""
    lost: float
    """Mean fraction of the light that they held."""
    metrics: Mapping[str, Mapping[str, TaskMetrics]]
    """Task → method → metrics."""
    shifts: Mapping[str, Mapping[str, Mapping[str, float]]]
    """Task → method → column → 68 % of how far a prediction moves when sensors go missing, in the unit people use."""


@dataclass(frozen=True)
class Run:
    """One run."""

    path: Path
    seed: int
    settings: Mapping[str, Any]
    """Its configuration, flat, without keys that do not make a different setting."""
    value: float
    """The metric, at the epoch of the smallest validation loss or from an evaluation."""
    error: float | None
    """Its bootstrap error, of an evaluation."""
    epoch: int
    """Epoch of the smallest validation loss, from 1."""
    epochs: int
    """Epochs done."""
    curve: tuple[tuple[float, float], ...]
    """(step, metric) of each validation; validation loss for metrics of an evaluation."""
    training: tuple[tuple[float, float], ...]
    """(step, training loss)."""
    meaning: Mapping[str, str] = field(default_factory=dict)
    """What the metric depends on apart from how good the run is: events, and for a loss its kind and weights."""
    metrics: frozenset[str] = frozenset()
    """All validation metrics of the run."""


@dataclass(frozen=True)
class Setting:
    """Runs that differ only in their seed."""

    name: str
    """The settings in which it differs from others: `optim.lr=1e-4, …`."""
    runs: tuple[Run, ...]
    value: float
    """Mean of the metric over the runs."""
    error: float | None
    """Standard error of the mean over seeds, or the bootstrap error of a single run; None: not known."""
    difference: float
    """To the best setting: mean over seeds that both have, or of the means."""
    difference_error: float | None
    """Its standard error; None: not known."""
    pairs: int
    """Seeds in common with the best setting."""


@dataclass(frozen=True)
class Comparison:
    """Settings, the best first."""

    metric: str
    settings: tuple[Setting, ...]
    differ: tuple[str, ...] = ()
    """Keys in which the runs differ so that the metric is not the same thing in all of them."""
    shared: tuple[str, ...] = ()
    """Validation metrics of all runs that are no losses."""
