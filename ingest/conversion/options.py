"""What a conversion is asked to do, and how much of it decides the result."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat, PositiveInt
from pydantic.dataclasses import dataclass

from ingest.reading.schema import Schema
from shards.dead import DeadList
from shards.gains import GainFile
from shards.manifest import EVENTS_PER_SHARD, Split
from shards.normalization import Normalization
from shards.order import parse_split

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ConversionOptions:
    """Everything about a conversion except its inputs and its output folder."""

    schema: Schema
    """Which branches mean what."""
    tree: str | None = None
    """Name of the tree; the schema's where None."""
    normalization: Normalization = field(default_factory=Normalization)
    """How photons and seconds become the stored numbers."""
    dtype: Literal["float32", "float16"] = "float32"
    """Storage type of the sensors: "float32" or "float16"."""
    events_per_shard: PositiveInt = EVENTS_PER_SHARD
    seed: Seed = 0
    """Seed of the shuffle."""
    shuffle: bool = True
    """False keeps the order of the inputs as given: what inference on real data needs."""
    split: str | None = None
    """For example "train=0.9,val=0.1": one dataset each, in a folder of that name; None: one dataset."""
    split_by: Literal["event", "run", "source"] = "event"
    """What a split keeps together: "event", "run" or "source"."""
    split_seed: Seed = 0
    select: str | None = None
    """Expression on the columns; events that fail it are left out."""
    max_events: PositiveInt | None = None
    """Keep at most this many: the first in the order of the output, hence a fair sample unless `shuffle` is off."""
    time_floor: FiniteFloat | None = None
    """Photons below which times are stored as invalid; None: no limit (models have their own threshold)."""
    dead: DeadList = field(default_factory=DeadList)
    """Dead channels."""
    dead_if_invalid_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Also treat as dead what gave no usable photon number in at least this fraction of a run's events."""
    channel_gain: GainFile | None = None
    """A table of the channels' responses, by which photons are divided; None: photons as they are in the files."""
    geometry: str | None = None
    """A surveyed geometry file; None: nominal."""
    skip_bad_files: bool = False
    """Leave out bad files, and list them in the manifest, instead of stopping."""

    allow_duplicates: bool = False
    """Whether events may share run and event number."""

    def __post_init__(self) -> None:
        if self.split is not None:
            parse_split(self.split)

    @property
    def splits(self) -> tuple[Split | None, ...]:
        """One entry per dataset that is written, without groups; (None,) without splitting."""
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
            **self._gain(),
        }

    def _gain(self) -> dict[str, Any]:
        """The gains that were applied, if any: datasets without them do not mention them."""
        gain = self.channel_gain
        return {} if gain is None else {"channel_gain": {"file": Path(gain.path).name, "sha256": gain.sha256}}
