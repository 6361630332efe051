"""What differs between the configuration of a checkpoint and that of the run that continues it: refused, or named.

Whatever is not refused here, and has a meaning when a run is continued, must take effect from then on, since
`config.yaml` and the next checkpoint record it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.base import ConfigError
from xectrain.config.merge import leaves, merge
from xectrain.config.tree import Config

SAME_WEIGHTS = ("mode", "model", "tasks", "masking", "checkpoint.init_from", "checkpoint.init_parts")
"""What the weights of a run belong to."""
SAME_STEPS = ("data.batch_size", "data.epoch_events", "train.seed", "augment.curriculum", "reweight")
"""What the order of events and the meaning of a step rest on."""
NOT_THE_RESULT = (
    *("checkpoint.every", "checkpoint.keep", "checkpoint.resume", "checkpoint.new_run", "tracking", "train.log_every"),
    *("data.backend", "data.num_threads", "data.prefetch", "data.device"),
)
"""Options in which a finished run may differ from the request and still be its result."""
OF_RATE = ("schedule", "optim.lr", "train.epochs", "train.minutes", "checkpoint.refresh_lr")
"""What learning rates follow from."""
PATHS = ("data.train", "data.val", "checkpoint.init_from", "augment.patterns", "masking.patterns")
"""Options that name files, which may have different names from different folders."""


@dataclass(frozen=True)
class Change:
    """One option that has changed."""

    option: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.option} {_shown(self.old)} → {_shown(self.new)}"

    def within(self, options: Iterable[str]) -> bool:
        """Whether the option is one of these, or in one of these groups."""
        return any(self.option == option or self.option.startswith(f"{option}.") for option in options)


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in a checkpoint; options that are newer than it get their default."""
    tree: dict[str, Any] = Config().model_dump(mode="json")
    merge(tree, stored)
    return tree


def changes(stored: Mapping[str, Any], config: Config) -> list[Change]:
    """The options in which two configurations differ.

    Args:
        stored: of a checkpoint, `completed`.
        config: the present one.
    """
    before = dict(leaves(stored))
    return [
        Change(option, before.get(option), value)
        for option, value in leaves(config.model_dump(mode="json"))
        if _canonical(option, before.get(option)) != _canonical(option, value)
    ]


def refuse(found: Sequence[Change], options: Iterable[str], file: Path) -> None:
    """Refuse changes of these options.

    Raises:
        ConfigError: naming the first that did, with both values.
    """
    for change in found:
        if change.within(options):
            raise ConfigError(
                "is not what the run began with",
                file=file,
                item=change.option,
                found=_shown(change.new),
                expected=_shown(change.old),
                remedy="use another run folder for another run",
            )


def refuse_of_finished(found: Sequence[Change], file: Path) -> None:
    """Refuse a finished run that is not the one asked for.

    Raises:
        ConfigError: naming every option that would have given another result.
    """
    other = [change for change in found if not change.within(NOT_THE_RESULT)]
    if other:
        raise ConfigError(
            f"was trained to its end with other options: {', '.join(map(str, other))}",
            file=file,
            remedy="use another run folder, or train longer",
        )


def _canonical(option: str, value: Any) -> Any:
    if option not in PATHS or value is None:
        return value
    if isinstance(value, str):
        return str(Path(value).resolve())
    entries = [{"path": entry} if isinstance(entry, str) else dict(entry) for entry in value]
    return [{**entry, "path": str(Path(entry["path"]).resolve())} for entry in entries]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
