"""The DALI pipeline: one definition for CPU and GPU, fed by the plan's index files.

DALI returns exactly the samples an index lists, in the order listed, so its own shuffling, sharding and checkpointing
stay off: order, rank share, selection and resume are all in the plan.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from nvidia.dali import fn, pipeline_def, types

from pipelines.batch import Batch
from shards.base import keep_freed_memory
from shards.plan import write_indexes

if TYPE_CHECKING:
    from shards.plan import RankPlan, View

MEMBERS = ("sensors.npy", "truth.npy")


@pipeline_def  # type: ignore[untyped-decorator]
def shard_pipeline(tars: list[str], indexes: list[str], gpu: bool, cast: bool) -> Any:
    """Tar members to (sensors float32 (4760, 2) on the device, truth float64 (columns,) on the CPU)."""
    sensors_raw, truth_raw = fn.readers.webdataset(  # type: ignore[misc]  # its stub says None
        paths=tars,
        index_paths=indexes,
        ext=list(MEMBERS),
        missing_component_behavior="error",
        name="shards",
    )
    sensors = fn.decoders.numpy(sensors_raw)
    if gpu:
        sensors = sensors.gpu()
    if cast:  # DALI copies even where there is nothing to cast
        sensors = fn.cast(sensors, dtype=types.FLOAT)
    return sensors, fn.decoders.numpy(truth_raw)


class DaliLoader:
    """Reads a plan through DALI; micro-batch k of the plan is the k-th one yielded."""

    def __init__(
        self, views: Sequence[View], plan: RankPlan, *, device: str = "cpu", threads: int = 2, prefetch: int = 2
    ) -> None:
        self.device = device
        self._plan, self._views = plan, views
        self._folder = tempfile.TemporaryDirectory(prefix="xec-plan-")
        self._pipe: Any = None
        if device == "cpu":
            keep_freed_memory()  # every batch is a fresh buffer of megabytes
        if len(self):
            try:
                self._pipe = self._build(threads, prefetch)
            except BaseException:
                self.close()
                raise

    def _build(self, threads: int, prefetch: int) -> Any:
        tars, indexes = write_indexes(self._plan, self._views, Path(self._folder.name))
        target = torch.device(self.device)
        pipe = shard_pipeline(
            [str(t) for t in tars],
            [str(i) for i in indexes],
            gpu=target.type == "cuda",
            cast=any(view.dataset.dtype != "float32" for view in self._views),
            batch_size=self._plan.micro_batch,
            num_threads=threads,
            device_id=(target.index or 0) if target.type == "cuda" else None,
            prefetch_queue_depth=prefetch,
            exec_dynamic=True,
        )
        pipe.build()
        return pipe

    def __len__(self) -> int:
        return len(self._plan.row) // self._plan.micro_batch

    def __iter__(self) -> Iterator[Batch]:
        size = self._plan.micro_batch
        with self:
            for k in range(len(self)):
                # The tensors share DALI's memory, which it gives to no other batch while they live (exec_dynamic).
                sensors, truth = (torch.utils.dlpack.from_dlpack(output.as_tensor()) for output in self._pipe.run())
                part = slice(k * size, (k + 1) * size)
                yield Batch(sensors, truth, torch.from_numpy(self._plan.weight[part]), self._plan.global_row[part])

    def close(self) -> None:
        self._pipe = None
        self._folder.cleanup()

    def __enter__(self) -> DaliLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
