"""The ranks of a run: torchrun's variables, and the few collective operations that the trainer needs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from shards.base import ConfigError
from shards.base.log import OURS

T = TypeVar("T")

COLLECTIVE = timedelta(minutes=30)
"""How long a rank waits for another. One that died is noticed sooner, by its closed connection and by torchrun; this is
for one that is merely late: at a compilation, with a slow disk, on a paused machine."""


@dataclass(frozen=True)
class Ranks:
    """This process among the ranks of a run; a run without torchrun is one rank."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Ranks:
        """What the variables of torchrun say.

        Raises:
            ConfigError: one is missing, not a number, or contradicts another.
        """
        world = _whole(environment, "WORLD_SIZE", default=1)
        if world <= 1:
            if not environment.get("WORLD_SIZE") and environment.get("RANK", "0") != "0":
                raise ConfigError(
                    "is set, but WORLD_SIZE is not", item="RANK", found=repr(environment["RANK"]), remedy=BY_HAND
                )
            return cls()
        ranks = cls(_whole(environment, "RANK"), world, _whole(environment, "LOCAL_RANK", default=0))
        if ranks.rank >= world:
            raise ConfigError(
                "is not a rank",
                item="RANK",
                found=ranks.rank,
                expected=f"0 to {world - 1}, since WORLD_SIZE is {world}",
                remedy=BY_HAND,
            )
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if not environment.get(name):
                raise ConfigError("is not set, but WORLD_SIZE is", item=name, remedy=BY_HAND)
        if (port := _whole(environment, "MASTER_PORT")) > LAST_PORT:
            raise ConfigError(
                "is not a port", item="MASTER_PORT", found=port, expected=f"0 to {LAST_PORT}", remedy=BY_HAND
            )
        return ranks

    @property
    def is_main(self) -> bool:
        """Whether this rank writes."""
        return self.rank == 0

    def sums(self, values: list[float]) -> list[float]:
        """Sum each value over the ranks, in float64."""
        if self.world == 1:
            return values
        backend_device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(values, dtype=torch.float64, device=backend_device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in rank order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


BY_HAND = "start several ranks with torchrun, or unset WORLD_SIZE and RANK for one process"
LAST_PORT = 65535


def _whole(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A variable that is a whole number, 0 or more.

    Raises:
        ConfigError: it is something else, or is missing and has no default.
    """
    text = environment.get(name, "").strip()
    if not text and default is not None:
        return default
    if not text:
        raise ConfigError("is not set, but WORLD_SIZE is", item=name, remedy=BY_HAND)
    if not (text.isascii() and text.isdigit()):
        raise ConfigError("is not a whole number", item=name, found=repr(text), remedy=BY_HAND)
    return int(text)


@contextmanager
def joined_ranks(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """Join the other ranks when started by torchrun (or with its variables), leave them at the end.

    Only the first rank logs what is the same on all; the others log only errors.

    Raises:
        ConfigError: the variables make no sense.
    """
    ranks = Ranks.of(environment)
    if ranks.world == 1:
        yield ranks
        return
    if not ranks.is_main:
        for name in (*OURS, "py.warnings"):
            logging.getLogger(name).setLevel(logging.ERROR)
    if torch.cuda.is_available():
        if ranks.local_rank >= (devices := torch.cuda.device_count()):
            raise ConfigError("has no GPU", item="LOCAL_RANK", found=ranks.local_rank, expected=f"0 to {devices - 1}")
        torch.cuda.set_device(ranks.local_rank)
    try:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=COLLECTIVE)
    except dist.DistError as error:
        where = f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
        reason = str(error).partition("\n")[0][:200]
        raise ConfigError(
            f"the ranks cannot meet: {reason}", item="MASTER_ADDR", found=where, remedy=BY_HAND
        ) from error
    try:
        yield ranks
    finally:
        dist.destroy_process_group()
