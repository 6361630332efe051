"""The commands `xec cluster submit KIND` and `xec cluster render KIND`, which take the same options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from cluster.options import Asked, with_asked
from shards.base import ConfigError

if TYPE_CHECKING:
    from cluster.kinds import Work
    from cluster.profile import Kind
    from cluster.script import Place

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}
Throttle = Annotated[int | None, Option("--throttle", min=1, help="Largest number of elements that run at a time.")]


def ingest(
    ctx: typer.Context,
    asked: Asked,
    out: Annotated[Path, Option("--out", "-o", help="Dataset folder.")],
    tasks: Annotated[int, Option("--tasks", min=1, help="Number of elements of the arrays.")],
    throttle: Throttle = None,
) -> Work:
    """Convert ROOT files: an array over inputs, an array over shards, then the manifest."""
    from cluster import kinds

    return kinds.ingest(_place("ingest", asked), out, ctx.args, tasks, throttle)


def train(
    ctx: typer.Context,
    asked: Asked,
    out: Annotated[Path, Option("--out", "-o", help="Run folder.")],
) -> Work:
    """Train on one or more nodes, restarting at the time limit as often as it takes."""
    from cluster import kinds

    return kinds.train(_place("train", asked), out, ctx.args)


def scan(
    ctx: typer.Context,
    asked: Asked,
    out: Annotated[Path, Option("--out", "-o", help="Folder for the run folders.")],
    grid: Annotated[list[str] | None, Option("--grid", help="An axis, KEY=V1,V2; repeat for a grid.")] = None,
    point: Annotated[list[Path] | None, Option("--point", help="A configuration file to compare; repeatable.")] = None,
    seeds: Annotated[int | None, Option("--seeds", min=1, help="Train every point with seeds 0 … N−1.")] = None,
    throttle: Throttle = None,
) -> Work:
    """Train every point of a grid, or of a list of configurations."""
    from cluster import kinds
    from cluster.grid import points

    found = points(grid or [], point or [], seeds)
    return kinds.scan(_place("scan", asked), out, ctx.args, found, throttle)


def infer(
    ctx: typer.Context,
    asked: Asked,
    out: Annotated[Path, Option("--out", "-o", help="Folder for the predictions.")],
    tasks: Annotated[int, Option("--tasks", min=1, help="Number of elements of the array.")],
    merge: Annotated[bool, Option("--merge", help="Then merge them into OUT/predictions.root.")] = False,
    throttle: Throttle = None,
) -> Work:
    """Predict: each element reads its own range of shards or files."""
    from cluster import kinds

    return kinds.infer(_place("infer", asked), out, ctx.args, tasks, throttle, merge)


def evaluate(
    ctx: typer.Context,
    asked: Asked,
    out: Annotated[Path, Option("--out", "-o", help="Folder for the reports.")],
    run: Annotated[list[Path], Option("--run", help="Run folder; repeatable, one element each.")],
    throttle: Throttle = None,
) -> Work:
    """Evaluate runs on the same data, one report each."""
    from cluster import kinds

    return kinds.evaluate(_place("evaluate", asked), out, run, ctx.args, throttle)


def notebook(
    ctx: typer.Context,
    asked: Asked,
    out: Annotated[Path, Option("--out", "-o", help="Name of its record, OUT.jobs.")] = Path("notebook"),
) -> Work:
    """Start a Jupyter server on a node; its log says how to reach it."""
    from cluster import kinds

    return kinds.notebook(_place("notebook", asked), out, ctx.args)


KINDS: tuple[tuple[Callable[..., Work], str], ...] = (
    (ingest, "ingest 'mc/*.root' --out data/mc --tasks 50 --split train=0.9,val=0.1 --site merlin7"),
    (
        train,
        "train --config recipes/all.yaml --data data/mc/train --val data/mc/val --out runs/all --nodes 2 --gpus 4",
    ),
    (scan, "scan --config recipes/energy.yaml --grid optim.lr=1e-4,3e-4 --seeds 3 --data data/mc --out runs/scan"),
    (infer, "infer runs/all data/real --out pred/real --tasks 20 --merge --site merlin7"),
    (evaluate, "evaluate --run runs/all --run runs/energy data/mc/val --out reports"),
    (notebook, "notebook --site merlin7 --partition gh-interactive"),
)
"""The function that describes a campaign of each kind, and an example."""


def kinds_app(verb: str, help_text: str, deed: Callable[[Work, Asked], None]) -> typer.Typer:
    """A group with a command for every kind.

    Args:
        verb: `submit` or `render`, for the examples.
        deed: what to do with the campaign that the options describe.
    """
    app = typer.Typer(no_args_is_help=True, add_completion=False, help=help_text)
    for describe, example in KINDS:
        epilog = (
            f"Other options and arguments are passed to the `xec` command unchanged.\n\nExample:  xec cluster {verb} "
        )
        app.command(context_settings=PASSED_ON, epilog=epilog + example)(with_asked(describe, deed))
    return app


def _place(kind: Kind, asked: Asked) -> Place:
    from cluster.profile import load_profile
    from cluster.script import choose_place

    bad = [line for line in asked.sbatch or [] if not line.startswith("-") or "\n" in line]
    if bad:
        raise ConfigError("is not an option of sbatch", item="--sbatch", found=bad[0], expected="like --constraint=x")
    return choose_place(load_profile(asked.site), kind, asked.resources(), asked.account, asked.sbatch or [])
