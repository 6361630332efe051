"""What a loader yields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank, always of the plan's full size B; padding repeats a real event with weight 0."""

    sensors: torch.Tensor
    """float32 (B, 4760, 2) on the loader's device: normalized [npho, time], sentinel-marked. Each event is
    contiguous, the batch need not be: there may be a gap between events."""
    truth: torch.Tensor
    """float64 (B, columns) on the CPU: the dataset's columns, in the manifest's order and units."""
    weight: torch.Tensor
    """float32 (B,) on the CPU: 1 for a real event (or its sampling weight), 0 for padding."""
    rows: npt.NDArray[np.int64]
    """(B,): row of each event in its dataset."""


class Loader(Protocol):
    """One pass over one rank's plan. Use as a context manager, or exhaust it; either frees the reader."""

    device: str

    def __len__(self) -> int:
        """Number of micro-batches."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """Free the reader's buffers and threads."""
        ...

    def __enter__(self) -> Loader: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
