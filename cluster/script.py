"""From a step of a campaign to the text of its sbatch script."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from cluster.profile import Ask, Environment, Kind, Partition, Profile, seconds
from shards.base import ConfigError, nearest


class Shell(str):
    """A word that goes into the script as it is (`"$element"`); every other word is quoted."""


@dataclass(frozen=True)
class Place:
    """Where and how jobs of a campaign run: a profile, with the overrides of the command line."""

    profile: Profile
    ask: Ask
    account: str | None
    extra: tuple[str, ...]
    """`#SBATCH` options in addition to the profile's."""

    @property
    def partition_name(self) -> str:
        """The one asked for, or the profile's first."""
        return self.ask.partition or next(iter(self.profile.partitions))

    @property
    def partition(self) -> Partition:
        """What it offers."""
        return self.profile.partitions[self.partition_name]

    @property
    def environment(self) -> Environment:
        """How its nodes find `xec`."""
        return self.profile.environments.get(self.partition.arch, Environment())

    @property
    def prefix(self) -> tuple[str, ...]:
        """Words before every command."""
        image = self.environment.container
        return () if image is None else ("apptainer", "exec", *(("--nv",) if self.ask.gpus else ()), image)

    def light(self) -> Place:
        """The same for a light step: no GPU, one node, two cores."""
        small = self.ask.model_copy(update={"nodes": 1, "gpus": 0, "cpus": min(2, self.ask.cpus), "ranks": None})
        return Place(self.profile, small, self.account, self.extra)


@dataclass(frozen=True)
class Step:
    """One job or array of a campaign."""

    name: str
    title: str
    place: Place
    template: str
    values: dict[str, Any]
    """Values for the template, in addition to the frame's."""
    elements: int | None = None
    """Length of the array; None: a single job."""
    throttle: int | None = None
    """Largest number of elements that run at a time."""
    after: str | None = None
    """The step that must have succeeded before."""
    after_any: bool = False
    """Whether `after` need only have ended."""
    directives: tuple[str, ...] = ()
    """`#SBATCH` options of this step."""


def choose_place(
    profile: Profile, kind: Kind, asked: dict[str, Any], account: str | None, extra: Sequence[str]
) -> Place:
    """The profile's resources for a kind, with `asked` in place of its own, checked against what the site has.

    Raises:
        ConfigError: a partition or account the profile does not list, or more than the partition has.
    """
    own = profile.kinds.get(kind, Ask())
    if asked.get("partition") is not None and asked["partition"] not in profile.partitions:
        name = str(asked["partition"])
        raise ConfigError(
            f"{profile.name} has no partition {name!r}", item="--partition", remedy=nearest(name, profile.partitions)
        )
    if account is not None and profile.accounts and account not in profile.accounts:
        raise ConfigError(
            f"{profile.name} has no account {account!r}", item="--account", remedy=nearest(account, profile.accounts)
        )
    update = {name: value for name, value in asked.items() if value is not None}
    place = Place(profile, own.model_copy(update=update), account or profile.account, tuple(extra))
    _check(place)
    return place


def _check(place: Place) -> None:
    ask, partition, name = place.ask, place.partition, place.partition_name
    if ask.gpus > partition.gpus_per_node:
        raise _too_much("--gpus", f"partition {name} has fewer GPUs per node", ask.gpus, partition.gpus_per_node)
    if partition.max_nodes is not None and ask.nodes > partition.max_nodes:
        raise _too_much("--nodes", f"partition {name} allows fewer nodes per job", ask.nodes, partition.max_nodes)
    try:
        too_long = bool(ask.time and partition.max_time and seconds(ask.time) > seconds(partition.max_time))
    except ValueError as error:
        raise ConfigError(str(error), item="--time") from None
    if too_long:
        raise _too_much("--time", f"partition {name} allows less time", ask.time, partition.max_time)


def _too_much(item: str, problem: str, found: object, most: object) -> ConfigError:
    return ConfigError(problem, item=item, found=found, expected=f"at most {most}")


def quoted(words: Sequence[str]) -> str:
    """Words of a command as one line of shell."""
    return " ".join(word if isinstance(word, Shell) else shlex.quote(word) for word in words)


def command(place: Place, words: Sequence[str]) -> str:
    """A command for the script, one option per line when it is long."""
    line = quoted([*place.prefix, *words])
    if len(line) <= 100:
        return line
    lines = [quoted(place.prefix)] if place.prefix else []
    current: list[str] = []
    for word in words:
        if word.startswith("-") and len(current) > 0:
            lines.append(quoted(current))
            current = []
        current.append(word)
    lines.append(quoted(current))
    return " \\\n    ".join(lines)


def render(step: Step, folder: Path, directory: Path) -> str:
    """The script of a step.

    Args:
        folder: of the campaign, absolute.
        directory: where its jobs run.
    """
    values = {
        "directives": _directives(step, folder, directory),
        "title": step.title,
        "setup": _setup(step.place),
        "arch": step.place.partition.arch,
        "array": step.elements is not None,
        "folder": folder,
        "step": step.name,
        **step.values,
    }
    return str(_templates().get_template(f"{step.template}.sbatch.j2").render(values))


@lru_cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # shell, not HTML: `quoted` quotes
    )


def _setup(place: Place) -> tuple[str, ...]:
    """Lines that set up `xec` on the node; if the profile has none, the environment of the submitting shell."""
    if place.environment.setup or place.environment.container:
        return place.environment.setup
    return (f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",)


def _directives(step: Step, folder: Path, directory: Path) -> list[str]:
    place, ask = step.place, step.place.ask
    log = "%A_%a" if step.elements is not None else "%j"
    lines = [
        f"--job-name={folder.name.removesuffix('.jobs')}-{step.name}",
        f"--chdir={directory}",
        f"--output={folder}/logs/{step.name}-{log}.log",
        "--open-mode=append",
    ]
    if place.partition.cluster:
        lines.append(f"--clusters={place.partition.cluster}")
    if place.partition_name != "default":
        lines.append(f"--partition={place.partition_name}")
    lines += [f"--{name}={value}" for name, value in (("account", place.account), ("time", ask.time)) if value]
    lines += [f"--nodes={ask.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={ask.cpus}"]
    lines += [f"--mem={ask.mem}"] if ask.mem else []
    lines += [f"--gres={place.partition.gres}:{ask.gpus}"] if ask.gpus else []
    lines += [*step.directives, *place.profile.sbatch, *place.extra]
    if step.elements is not None:
        lines.append(f"--array=0-{step.elements - 1}" + (f"%{step.throttle}" if step.throttle else ""))
    return lines
