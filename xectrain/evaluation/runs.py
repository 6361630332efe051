"""Runs side by side: what differs in their settings, ranked by a metric, with the uncertainty from several seeds.

Runs that differ only in their seed are one *setting*. Its value is the mean over the seeds, and the spread
between them is its uncertainty; with a single seed there is only the bootstrap error of an evaluation, where there is
one. Seeds that settings share (a scan pairs them) cancel in the difference to the best: the number to judge by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shards.base import ConfigError, InputError, counted, nearest, publish_json
from shards.base.documents import read_json, read_yaml
from xectrain.evaluation.pages import Row, Section, Table, write_page
from xectrain.evaluation.plots.runs import runs_page
from xectrain.evaluation.plots.style import save_pages
from xectrain.evaluation.results import Comparison, Run, Setting
from xectrain.evaluation.wording import compact_number
from xectrain.training.runfolder import RunFolder, read_metrics

NOT_A_SETTING = ("train.seed", "tracking.", "checkpoint.", "data.device", "data.num_threads", "data.prefetch")
"""Keys of the configuration that do not make a different setting."""
EVENTS = ("data.val", "data.select")
"""Beginnings of the keys that say what a run is validated on."""
HIDING = tuple(f"masking.{name}" for name in ("kind", "ratio", "counts", "patterns", "mixture", "maskable"))
"""Keys that say which sensors are hidden, and thereby how hard they are to predict."""
LOSS = ("tasks.", "masking.", "reweight.", "data.normalization")
"""Beginnings of the keys that say what a loss is, beside the mode."""
UNIT = ("data.train", "model.encoder.focus", "model.encoder.focus_fit")
"""Keys that say what the loss of a regression is measured in: what the light alone leaves open in the training set."""
MOST_KEYS = 5
"""Keys that are named; of more only the number is told."""


def compare_runs(
    paths: Sequence[Path], metric: str = "val/loss", largest: bool = False, reports: Path | None = None
) -> Comparison:
    """Rank runs by a metric.

    Args:
        paths: run folders.
        metric: a key of the validation records in `metrics.jsonl` (`val/loss`, `val/energy_res_68pct`), or a metric of
            an evaluation (`energy_res_68pct`), which comes with a bootstrap error.
        largest: whether larger is better.
        reports: folder with an evaluation of each run by its name; default: the run's own `artifacts`.

    Raises:
        InputError: no run there, or nothing validated yet.
        ConfigError: there is no such metric; names the nearest.
    """
    if not paths:
        raise InputError("there are no runs to compare")
    runs = [_read(path, metric, reports) for path in paths]
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        key = tuple(sorted((name, str(value)) for name, value in run.settings.items()))
        groups.setdefault(key, []).append(run)
    sign = -1 if largest else 1
    ordered = sorted(groups.values(), key=lambda group: sign * _mean(group))
    names = _differences(ordered)
    settings = [_setting(name, group, ordered[0]) for name, group in zip(names, ordered, strict=True)]
    keys = sorted({key for run in runs for key in run.meaning})
    differ = [key for key in keys if len({run.meaning[key] for run in runs if key in run.meaning}) > 1]
    shared = frozenset.intersection(*(run.metrics for run in runs))
    return Comparison(metric, tuple(settings), tuple(differ), tuple(sorted(shared)))


def _read(path: Path, metric: str, reports: Path | None) -> Run:
    folder = RunFolder(path)
    if not folder.config.exists() or not folder.metrics.exists():
        raise InputError("is not a run", file=path, expected="a folder with config.yaml and metrics.jsonl")
    config = _flat(read_yaml(folder.config, "configuration"))
    records = list(read_metrics(folder.metrics))
    epochs = [r for r in records if r.get("kind") == "epoch" and r.get("val/loss") is not None]
    if not epochs:
        raise InputError("was never validated", file=path, remedy="leave it out, or train it for an epoch")
    best = min(epochs, key=lambda record: float(record["val/loss"]))
    key, error = metric, None
    if "/" in metric:
        if best.get(metric) is None:
            known = [name for name in best if "/" in name]
            raise ConfigError(f"has no metric {metric!r} in its records", file=path, remedy=nearest(metric, known))
        value, meaning = float(best[metric]), _meaning(config, metric)
    else:
        value, error, meaning = _evaluated(path if reports is None else reports / path.name, metric, reports is None)
        key = "val/loss"
    return Run(
        path=path,
        seed=int(config.get("train.seed", 0)),
        settings={k: v for k, v in config.items() if not k.startswith(NOT_A_SETTING)},
        value=value,
        error=error,
        epoch=epochs.index(best) + 1,
        epochs=len(epochs),
        curve=tuple((float(r["step"]), float(r[key])) for r in epochs if r.get(key) is not None),
        training=tuple((float(r["step"]), float(r["train/loss"])) for r in records if r.get("train/loss") is not None),
        meaning=meaning,
        metrics=frozenset(k for k, v in best.items() if k.startswith("val/") and "loss" not in k and v is not None),
    )


def _meaning(config: Mapping[str, Any], metric: str) -> dict[str, str]:
    """The keys of a run's flat configuration that say what a validation metric is; tasks that are off do not count."""
    keys = [*EVENTS, *HIDING]
    if not config.get("data.val"):
        keys.append("data.train")  # a part of them is set apart
    if "loss" in metric:
        keys += LOSS
    off = tuple(key.removesuffix("enabled") for key, on in config.items() if key.endswith(".enabled") and on is False)
    whole = ("mode", *UNIT) if config.get("mode") == "regress" else ("mode",)
    wanted = tuple(keys)
    chosen = {k: str(v) for k, v in config.items() if k.startswith(wanted) or ("loss" in metric and k in whole)}
    return {key: value for key, value in chosen.items() if not key.startswith(off) or key.endswith(".enabled")}


def _evaluated(folder: Path, metric: str, own: bool) -> tuple[float, float | None, dict[str, str]]:
    """A metric of an evaluation's `metrics.json` (the network's, on the first dataset and sample), its error, and on
    what it was made."""
    file = folder / "artifacts" / "metrics.json" if own else folder / "metrics.json"
    if not file.exists():
        raise InputError(
            "there is no such evaluation", file=file, remedy="run `xec evaluate`, or rank by a val/… metric"
        )
    report = read_json(file, "evaluation")
    known: dict[str, Any] = {}
    try:
        data = next(iter(report["data"].values()))
        sample = next(iter(data["samples"].values()))
        for task, methods in sample["metrics"].items():
            for name, entry in methods["network"].items():
                if isinstance(entry, list):
                    known |= {name: entry, f"{task}_{name}": entry}
    except (KeyError, StopIteration, AttributeError, TypeError) as problem:
        raise InputError(f"is not an evaluation of a regressor: {problem!r}", file=file) from None
    if metric not in known or known[metric][0] is None:
        raise ConfigError(f"has no metric {metric!r}", file=file, remedy=nearest(metric, known))
    value, error, _ = known[metric]
    request = report.get("request", {})
    events = {key: str(request.get(key)) for key in ("data", "select", "dead")}
    return float(value), None if error is None else float(error), events


def _mean(group: Sequence[Run]) -> float:
    return float(np.mean([run.value for run in group]))


def _spread(values: Sequence[float]) -> float | None:
    """Standard error of the mean; None for a single value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _setting(name: str, group: Sequence[Run], best: Sequence[Run]) -> Setting:
    runs = tuple(sorted(group, key=lambda run: (run.seed, run.path)))
    error = _spread([run.value for run in runs]) if len(runs) > 1 else runs[0].error
    if group is best:
        return Setting(name, runs, _mean(runs), error, 0.0, None, 0)
    rival = {run.seed: run.value for run in best}
    pairs = [run.value - rival[run.seed] for run in runs if run.seed in rival]
    if len(pairs) > 1:
        return Setting(name, runs, _mean(runs), error, float(np.mean(pairs)), _spread(pairs), len(pairs))
    other = _spread([run.value for run in best]) if len(best) > 1 else best[0].error
    both = None if error is None or other is None else math.hypot(error, other)
    return Setting(name, runs, _mean(runs), error, _mean(runs) - _mean(best), both, len(pairs))


def _differences(groups: Sequence[Sequence[Run]]) -> list[str]:
    """For each group the settings in which the groups differ; the run's name where that would be too long."""
    if len(groups) == 1:
        return [groups[0][0].path.name]
    tables = [group[0].settings for group in groups]
    keys = sorted({key for table in tables for key in table})
    differ = [key for key in keys if len({str(table.get(key)) for table in tables}) > 1]
    if len(differ) > 4:
        return [group[0].path.name for group in groups]
    named = [", ".join(f"{key}={_short(table.get(key))}" for key in differ) for table in tables]
    if len(set(named)) < len(named):  # datasets of the same name in different folders
        return [", ".join(f"{key}={table.get(key)}" for key in differ) for table in tables]
    return named


def _short(value: object) -> str:
    """A setting as it is shown: of datasets their names, with weight and selection where they have them."""
    if not (isinstance(value, list) and value and all(isinstance(v, Mapping) and "path" in v for v in value)):
        return str(value)
    weights = ("" if v.get("weight") in (None, 1) else f" × {v['weight']:g}" for v in value)
    cuts = ("" if v.get("select") is None else f" where {v['select']}" for v in value)
    return " + ".join(
        f"{Path(v['path']).name}{weight}{cut}" for v, weight, cut in zip(value, weights, cuts, strict=True)
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write `report.html`, the overlaid curves (`curves.pdf`, `curves.png`) and `comparison.json` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    images = save_pages([runs_page(comparison)], folder / "curves.pdf")[1:]
    settings = comparison.settings
    lead = f"{counted(len(settings), 'setting')}, {counted(sum(len(s.runs) for s in settings), 'run')}"
    note = " ".join(caveats(comparison))
    section = Section("Settings, the best first", (comparison_table(comparison),), tuple(images), note)
    made_with = [(setting.name, ", ".join(str(run.path) for run in setting.runs)) for setting in settings]
    write_page(folder / "report.html", f"Runs by {comparison.metric}", lead, [section], made_with)
    publish_json(folder / "comparison.json", as_json(comparison))


def comparison_table(comparison: Comparison) -> Table:
    """A row per setting, the best first."""

    def number(value: float, error: float | None) -> str:
        return f"{value:.4g}" if error is None else compact_number(value, error)

    rows = []
    for rank, setting in enumerate(comparison.settings, 1):
        behind = number(setting.difference, setting.difference_error) if rank > 1 else ""
        paired = f" ({setting.pairs} pairs)" if setting.pairs > 1 else ""
        epochs = ", ".join(f"{run.epoch}/{run.epochs}" for run in setting.runs)
        value = number(setting.value, setting.error)
        rows.append(Row((str(rank), setting.name, str(len(setting.runs)), value, behind + paired, epochs)))
    heads = ("", "setting", "runs", comparison.metric, "minus the best", "best epoch")
    return Table(heads, tuple(rows), words=2)


def caveats(comparison: Comparison) -> list[str]:
    """What the reader of a comparison must know: sentences."""
    found = [_unlike(comparison)] if comparison.differ else []
    if all(setting.error is None for setting in comparison.settings):
        found.append("There are no uncertainties with one seed each: train several, or use a metric of an evaluation.")
    return found


def _unlike(comparison: Comparison) -> str:
    """That the metric is not the same thing in all runs, why, and what to do."""
    keys = comparison.differ
    shown = ", ".join(keys[:MOST_KEYS]) + (f" and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else "")
    said = f"{comparison.metric} is not the same thing in all of these runs, which differ in {shown}: "
    set_apart = not all(run.settings.get("data.val") for setting in comparison.settings for run in setting.runs)
    other_events = any(key.startswith(EVENTS) or (set_apart and key == "data.train") for key in keys)
    if "loss" in comparison.metric and not other_events and comparison.shared:
        usual = [name for name in comparison.shared if name.endswith(("68pct", "mae_all"))]
        return f"{said}rank them by what they share, such as --metric {(usual or comparison.shared)[0]}."
    return (
        f"{said}evaluate each on the same data (xec evaluate RUN DATA --out REPORTS/RUN) and rank by --reports REPORTS."
    )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Every number, the best setting first; null for what is not known."""
    return {
        "metric": comparison.metric,
        "differ": list(comparison.differ),
        "settings": [
            {
                "name": setting.name,
                "value": setting.value,
                "error": setting.error,
                "difference": setting.difference,
                "difference_error": setting.difference_error,
                "pairs": setting.pairs,
                "runs": [
                    {"path": str(r.path), "seed": r.seed, "value": r.value, "error": r.error, "epoch": r.epoch}
                    for r in setting.runs
                ],
            }
            for setting in comparison.settings
        ],
    }
