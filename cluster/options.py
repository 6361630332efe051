"""The options that every kind of campaign has, declared once and added to each command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Annotated, Any, TypeVar

from typer import Option

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """Where to run and with what, as given on the command line; None: the profile's."""

    site: Annotated[str, Option("--site", help="Site profile: merlin7, local, or your own YAML file.")] = "local"
    partition: Annotated[str | None, Option("--partition", "-p", help="Partition, one of the profile's.")] = None
    account: Annotated[str | None, Option("--account", "-A", help="Account to charge.")] = None
    time: Annotated[str | None, Option("--time", "-t", help="Time limit: 30 (minutes), 12:00:00, 2-00:00:00.")] = None
    nodes: Annotated[int | None, Option("--nodes", "-N", min=1, help="Nodes per job.")] = None
    gpus: Annotated[int | None, Option("--gpus", "-G", min=0, help="GPUs per node.")] = None
    ranks: Annotated[int | None, Option("--ranks", min=1, help="Training ranks per node (one GPU each).")] = None
    cpus: Annotated[int | None, Option("--cpus", min=1, help="Cores per node.")] = None
    mem: Annotated[str | None, Option("--mem", help="Memory per node, e.g. 64G.")] = None
    sbatch: Annotated[list[str] | None, Option("--sbatch", help="Another `#SBATCH` option; repeatable.")] = None
    no_check: Annotated[
        bool,
        Option("--no-check", help="Do not check the inputs first, e.g. because another campaign is still making them."),
    ] = False
    again: Annotated[bool, Option("--again", help="Replace the record of a campaign with this output.")] = False

    def resources(self) -> dict[str, Any]:
        """The fields that replace those of the profile's `Ask`."""
        return {name: getattr(self, name) for name in ("partition", "time", "nodes", "gpus", "ranks", "cpus", "mem")}


def with_asked(describe: Callable[..., T], deed: Callable[[T, Asked], None]) -> Callable[..., None]:
    """A command that does something with what `describe` makes of its options.

    Args:
        describe: takes the context, an `Asked`, in whose place the command has the options of `Asked`, and its own.
        deed: takes what it made, and the `Asked`.
    """
    signature = inspect.signature(describe, eval_str=True, locals={"Work": object})
    context, _, *own = signature.parameters.values()
    hints = inspect.get_annotations(Asked, eval_str=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(Asked)
    ]
    mine = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]

    @wraps(describe)
    def wrapped(ctx: Any, **values: Any) -> None:
        asked = Asked(**{f.name: values.pop(f.name) for f in fields(Asked)})
        deed(describe(ctx, asked, **values), asked)

    everything = [context, *mine, *shared]
    wrapped.__signature__ = signature.replace(parameters=everything, return_annotation=None)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in everything}
    return wrapped
