"""What a conversion is asked to do, and how much of it decides the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ingest.reading.schema import Schema
from shards.base import ConfigError
from shards.dead import DeadList
from shards.manifest import EVENTS_PER_SHARD, Split
from shards.normalization import Normalization
from shards.order import SPLIT_BY, parse_split


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything about a conversion except its inputs and its output folder."""

    schema: Schema
    """Which branches mean what."""
    tree: str | None = None
    """Name of the tree; the schema's where None."""
    normalization: Normalization = field(default_factory=Normalization)
    """How photons and seconds become the stored numbers."""
    dtype: str = "float32"
    """Storage type of the sensors: "float32" or "float16"."""
    events_per_shard: int = EVENTS_PER_SHARD
    seed: int = 0
    """Of the shuffle."""
    shuffle: bool = True
    """False keeps the order of the inputs as given: what inference on real data wants."""
    split: str | None = None
    """Like "train=0.9,val=0.1": one dataset each, in a folder of that name; None: one dataset."""
    split_by: str = "event"
    """What stays together in a split: "event", "run" or "source"."""
    split_seed: int = 0
    select: str | None = None
    """Expression on the columns; events that fail it are left out."""
    max_events: int | None = None
    """Keep at most this many: the first in the order of the output, hence a fair sample unless `shuffle` is off."""
    time_floor: float | None = None
    """Photons below which a time is marked invalid for ever; None: none (models have their own threshold)."""
    dead: DeadList = field(default_factory=DeadList)
    """Channels that are not to be believed."""
    dead_if_invalid_fraction: float | None = None
    """Also treat as dead what gave no usable photon number in at least this fraction of a run's events."""
    geometry: str | None = None
    """A surveyed geometry file; None: nominal."""
    skip_bad_files: bool = False
    """Leave out files with something wrong, and list them in the manifest, instead of stopping."""

    def __post_init__(self) -> None:
        if self.split_by not in SPLIT_BY:
            raise ConfigError(
                "cannot split by that", item="split_by", found=self.split_by, expected=" or ".join(SPLIT_BY)
            )
        if self.dtype not in ("float32", "float16"):
            raise ConfigError("unknown storage type", item="dtype", found=self.dtype, expected="float32 or float16")
        for name in ("events_per_shard", "max_events"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError("must be at least 1", item=name, found=value)
        fraction = self.dead_if_invalid_fraction
        if fraction is not None and not 0 < fraction <= 1:
            raise ConfigError("must be above 0 and at most 1", item="dead_if_invalid_fraction", found=fraction)
        if self.split is not None:
            parse_split(self.split)

    @property
    def splits(self) -> tuple[Split | None, ...]:
        """One entry per dataset that is written; (None,) without splitting."""
        if self.split is None:
            return (None,)
        fractions = parse_split(self.split)
        return tuple(Split(name, self.split_by, fractions, self.split_seed) for name in fractions)

    def recorded(self) -> dict[str, Any]:
        """What goes into a manifest's `conversion`: options that change the result and have no field of their own."""
        return {
            "schema": self.schema.name,
            "schema_digest": self.schema.digest,
            "tree": self.tree,
            "max_events": self.max_events,
            "time_floor": self.time_floor,
            "dead_given": self.dead.to_list(),
            "dead_if_invalid_fraction": self.dead_if_invalid_fraction,
        }
