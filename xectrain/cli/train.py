"""`xec train`."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from shards.base import ConfigError

if TYPE_CHECKING:
    from xectrain.config.tree import Config

logger = logging.getLogger(__name__)

app = typer.Typer(add_completion=False)


class Machine(StrEnum):
    """What a run is checked for."""

    GPU = "gpu"
    CPU = "cpu"


EPILOG = """
Examples:

  xec train --data shards/train --val shards/val --tasks angle,energy,timing,uvwFI --out runs/first

  xec train --config energy.yaml --set optim.lr=1e-4 --set train.epochs=40 --out runs/energy

  xec train --data shards/train --minutes 45 --out runs/quick

  xec train --data shards/train --profile --out runs/profiled

  torchrun --nproc-per-node 4 --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGUSR1 \\
    -m xec train --data shards/train --out runs/ddp

The same command continues an interrupted run at the exact step. Ctrl-C, SIGTERM, SIGUSR1 and a closed terminal end it
after a checkpoint; a second Ctrl-C ends it at once. `--print-config` shows every option.
"""


@app.command(epilog=EPILOG)
def train(
    data: Annotated[list[Path] | None, Option("--data", help="Training dataset; repeatable, for a mixture.")] = None,
    val: Annotated[
        list[Path] | None, Option("--val", help="Validation dataset (default: a tenth of the training data, by hash).")
    ] = None,
    mode: Annotated[str | None, Option("--mode", "-m", help="regress (default), mae or inpaint.")] = None,
    out: Annotated[Path, Option("--out", "-o", help="Run folder.")] = Path("runs/train"),
    config: Annotated[list[Path] | None, Option("--config", "-c", help="YAML file; later ones override.")] = None,
    preset: Annotated[str | None, Option("--preset", help="small (default), large, reference or tiny.")] = None,
    tasks: Annotated[str | None, Option("--tasks", help="Tasks to learn, exactly these, comma-separated.")] = None,
    select: Annotated[
        str | None, Option("--select", help="Use only events that pass this expression, e.g. `fiducial`.")
    ] = None,
    epochs: Annotated[int | None, Option("--epochs", help="Number of passes over the training events.")] = None,
    minutes: Annotated[
        float | None, Option("--minutes", help="End after this many minutes; the schedule spans the steps that fit in.")
    ] = None,
    batch_size: Annotated[int | None, Option("--batch-size", help="Events per step, over all ranks.")] = None,
    device: Annotated[str | None, Option("--device", help="auto, cpu, cuda or cuda:N.")] = None,
    resume: Annotated[str | None, Option("--resume", help="auto, off, or a checkpoint.")] = None,
    init_from: Annotated[str | None, Option("--init-from", help="Start from this run's weights.")] = None,
    assignments: Annotated[list[str] | None, Option("--set", help="key.path=value; overrides all else.")] = None,
    profile: Annotated[bool, Option("--profile", help="Profile a few steps: writes a trace and a summary.")] = False,
    print_config: Annotated[bool, Option("--print-config", help="Print the effective options and exit.")] = False,
    check: Annotated[
        Machine | None,
        Option("--check", help="Only check that it would start, on a machine with (`gpu`) or without (`cpu`) a GPU."),
    ] = None,
) -> None:
    """Train a network on shards, or continue a run."""
    from xectrain.config.files import to_yaml
    from xectrain.modes import load_config

    options = _tree(
        {
            "mode": mode,
            "data.train": [{"path": str(p)} for p in data] if data else None,
            "data.val": [{"path": str(p)} for p in val] if val else None,
            "data.select": select,
            "data.batch_size": batch_size,
            "data.device": device,
            "model.preset": preset,
            "train.epochs": epochs,
            "train.minutes": minutes,
            "checkpoint.resume": resume,
            "checkpoint.init_from": init_from,
            **_tasks(tasks),
        }
    )
    settings = load_config(config or [], assignments or [], options)
    if print_config:
        typer.echo(to_yaml(settings), nl=False)
        return
    from xectrain.training.ranks import Ranks
    from xectrain.training.session import check as check_training
    from xectrain.training.session import train as run_training

    if check is not None:
        typer.echo(check_training(settings, out, gpu=check == Machine.GPU))
        return
    artifacts = Artifacts(out, settings)
    run_training(settings, out, profile, artifacts.of_epoch)
    if not Ranks.of(os.environ).is_main:  # one rank speaks for all
        return
    if settings.checkpoint.save_artifacts:
        artifacts.at_end()
    typer.echo(f"trained: {out} holds the checkpoints, metrics.jsonl and config.yaml")


@dataclass(frozen=True)
class Artifacts:
    """Report, tables, plots and card of the best model; a failure to make them is logged, and ends nothing."""

    run: Path
    settings: Config

    def of_epoch(self, epoch: int) -> None:
        """Make them in the course of training."""
        self._write(self.run / f"artifacts_ep{epoch}")

    def at_end(self) -> None:
        """Make them, and send them to MLflow with those made before."""
        from xectrain.checkpoint import newest_valid
        from xectrain.training.runfolder import RunFolder
        from xectrain.training.tracking import send_artifacts

        place = self._write(None)
        if place is None:
            return
        found = newest_valid(self.run)
        run_id = found[1]["tracking_run_id"] if found else None
        send_artifacts(RunFolder(self.run), self.settings, run_id, [place, *sorted(self.run.glob("artifacts_ep*"))])
        typer.echo(f"{place} holds the report, predictions, plots and the card")

    def _write(self, folder: Path | None) -> Path | None:
        from shards.base import XecError
        from xectrain.evaluation.artifacts import write_artifacts
        from xectrain.inference.load import load

        try:
            return write_artifacts(load(self.run, device=self.settings.data.device), folder=folder)
        except XecError as error:
            logger.warning("the artifacts could not be made: %s; make them with `xec evaluate %s`", error, self.run)
            return None


def _tasks(names: str | None) -> dict[str, Any]:
    """`--tasks` as config keys: the named tasks on, all others off."""
    if names is None:
        return {}
    from shards.base import nearest
    from xectrain.tasks import ALIASES, TASKS

    wanted = {ALIASES.get(n.strip(), n.strip()) for n in names.split(",") if n.strip()}
    for name in sorted(wanted - set(TASKS)):
        raise ConfigError(f"there is no task {name!r}", item="--tasks", remedy=nearest(name, [*TASKS, *ALIASES]))
    return {f"tasks.{name}.enabled": name in wanted for name in TASKS}


def _tree(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as a nested mapping, without those that are None."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        if value is not None:
            node = tree
            *parents, leaf = path.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
    return tree
