"""Site profiles: what a cluster offers, in YAML, so that what it lacks is refused before anything is submitted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shards.base import ConfigError, nearest
from shards.base.documents import checked, read_yaml

SHIPPED = Path(__file__).parent / "profiles"
Kind = Literal["ingest", "train", "scan", "infer", "evaluate", "notebook"]
Arch = Literal["x86_64", "aarch64"]
_TIME = re.compile(r"^(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?$")


class Document(BaseModel):
    """Base of everything that is read from a file: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Partition(Document):
    """A partition, or queue."""

    arch: Arch = "x86_64"
    """Architecture of its nodes, as `uname -m` says; decides which environment a job gets."""
    cluster: str | None = None
    """Name for `--clusters`, where a login node serves several; null: the default one."""
    max_time: str | None = None
    """Longest time a job may ask for (`7-00:00:00`, `1:00:00`); null: no limit."""
    max_nodes: Annotated[int, Field(ge=1)] | None = None
    """Most nodes of one job; null: not known."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """GPUs per node."""
    gres: str = "gpu"
    """Name of a GPU for `--gres`, with its type where the site wants one (`gpu:a100`)."""

    @model_validator(mode="after")
    def _time_is_one(self) -> Partition:
        if self.max_time is not None:
            seconds(self.max_time)
        return self


class Environment(Document):
    """How a job finds `xec` on nodes of one architecture."""

    setup: tuple[str, ...] = ()
    """Shell lines: `module load …`, `source …/activate`. Empty: the environment of the submitting shell."""
    container: str | None = None
    """Apptainer image; commands then run inside it (`apptainer exec --nv IMAGE …`)."""


class Ask(Document):
    """What jobs of a kind ask for; every field can be replaced on the command line."""

    partition: str | None = None
    """Partition; null: the profile's first."""
    time: str | None = None
    """Time limit; null: the partition's default."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Nodes per job."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs per node; training starts a rank on each."""
    ranks: Annotated[int, Field(ge=1)] | None = None
    """Ranks of a training per node; null: one per GPU, or one."""
    cpus: Annotated[int, Field(ge=1)] = 1
    """Cores per node."""
    mem: str | None = None
    """Memory per node (`64G`); null: the partition's default."""


class Profile(Document):
    """What a site offers and how jobs are sent there."""

    name: str
    """Name of the profile."""
    description: str = ""
    """One line about the site."""
    login: str | None = None
    """Login node that a notebook is reached through; null: the machine that submits."""
    account: str | None = None
    """Account charged by default; null: SLURM's default."""
    accounts: tuple[str, ...] = ()
    """Accounts that may be asked for; empty: any."""
    max_array_size: Annotated[int, Field(ge=1)] = 1001
    """SLURM's MaxArraySize: an array's largest index is one less. Longer arrays are sent in pieces."""
    signal_seconds: Annotated[int, Field(ge=1)] = 300
    """How long before its time limit a training is told to write a checkpoint [s]."""
    max_requeues: Annotated[int, Field(ge=0)] = 100
    """How often a training that reached its time limit is continued."""
    partitions: dict[str, Partition] = Field(min_length=1)
    """Partitions by name; the first is the default."""
    environments: dict[Arch, Environment] = {}
    """Environments by architecture; the default is the environment of the submitting shell."""
    sbatch: tuple[str, ...] = ()
    """Additional `#SBATCH` options for every script (`--mail-type=END`)."""
    kinds: dict[Kind, Ask] = {}
    """What each kind of job asks for."""

    @model_validator(mode="after")
    def _partitions_exist(self) -> Profile:
        for kind, ask in self.kinds.items():
            if ask.partition is not None and ask.partition not in self.partitions:
                raise ValueError(f"kinds.{kind}.partition: {ask.partition!r} is not among partitions")
        return self


def seconds(time: str) -> int:
    """A SLURM time limit in seconds: `M`, `M:S`, `H:M:S`, `D-H`, `D-H:M` or `D-H:M:S`.

    Raises:
        ValueError: it is not a time limit.
    """
    found = _TIME.match(time)
    if found is None:
        raise ValueError(f"{time!r} is not a time limit (like 30, 12:00:00 or 2-00:00:00)")
    days, *rest = (None if part is None else int(part) for part in found.groups())
    numbers = [part for part in rest if part is not None]
    if days is not None:
        hours, minutes, secs = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        days, (hours, minutes, secs) = 0, numbers
    else:
        days, hours, (minutes, secs) = 0, 0, [*numbers, 0][:2]
    return ((days * 24 + hours) * 60 + minutes) * 60 + secs


def shipped() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_profile(site: str) -> Profile:
    """A profile by name, or from a YAML file.

    Raises:
        ConfigError: no such profile, or one with a wrong key or value, by its path.
        InputError: a file that cannot be read.
    """
    if site.endswith((".yaml", ".yml")):
        path = Path(site)
    else:
        path = SHIPPED / f"{site}.yaml"
        if site not in shipped():
            advice = nearest(site, shipped())
            raise ConfigError(
                f"there is no profile {site!r}", item="--site", remedy=f"{advice} or give your own YAML file"
            )
    return checked(Profile, read_yaml(path, "site profile"), file=path, error=ConfigError)
