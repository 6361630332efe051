"""The reader for machines without a DALI wheel: webdataset's own stages behind a source that follows the plan."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import webdataset

from pipelines.batch import Batch
from shards.dataset import require_whole
from shards.sums import member_sums

if TYPE_CHECKING:
    from shards.plan import RankPlan, View


class WebDatasetLoader:
    """Reads a plan through webdataset in this process; yields what `DaliLoader` yields."""

    def __init__(self, views: Sequence[View], plan: RankPlan, *, device: str = "cpu") -> None:
        self.device = device
        self._plan, self._views = plan, views

    def __len__(self) -> int:
        return len(self._plan.row) // self._plan.micro_batch

    def __iter__(self) -> Iterator[Batch]:
        size = self._plan.micro_batch
        stages = webdataset.DataPipeline(
            self._samples,
            webdataset.map(_decode),
            webdataset.to_tuple("sensors.npy", "truth.npy"),
            webdataset.batched(size, partial=False),
        )
        for k, (sensors, truth) in enumerate(stages):
            part = slice(k * size, (k + 1) * size)
            yield Batch(
                torch.as_tensor(sensors, dtype=torch.float32, device=self.device),
                torch.as_tensor(truth, dtype=torch.float64),
                torch.from_numpy(self._plan.weight[part]),
                self._plan.global_row[part],
            )

    def _samples(self) -> Iterator[dict[str, Any]]:
        """The members' bytes in plan order, read at the offsets the index gives."""
        plan = self._plan
        where = zip(plan.dataset.tolist(), plan.shard.tolist(), plan.row.tolist(), strict=True)
        for (d, shard), run in itertools.groupby(where, key=lambda place: place[:2]):
            dataset = self._views[d].dataset
            index = dataset.index(shard)
            require_whole(dataset, shard)
            with open(dataset.file(shard, "tar"), "rb") as tar:
                for _, _, row in run:
                    tar.seek(index.sensors_offset[row])
                    sensors = tar.read(index.sensors_size[row])
                    tar.seek(index.truth_offset[row])
                    truth = tar.read(index.truth_size[row])
                    if len(truth) != index.truth_size[row]:  # the last member of a sample
                        require_whole(dataset, shard)
                    if not dataset.seen[place := int(dataset.starts[shard]) + row]:
                        members = (np.frombuffer(member, np.uint8)[None] for member in (sensors, truth))
                        dataset.require_sums(np.array([place]), sum(map(member_sums, members), np.zeros(1, np.int64)))
                    yield {"__key__": index.keys[row], "sensors.npy": sensors, "truth.npy": truth}

    def close(self) -> None:
        """Nothing is held between iterations."""

    def __enter__(self) -> WebDatasetLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _decode(sample: dict[str, Any]) -> dict[str, Any]:
    """Decode the `.npy` members, and only those: a shard from elsewhere can carry no code."""
    return {
        name: np.load(io.BytesIO(value), allow_pickle=False) if name.endswith(".npy") else value
        for name, value in sample.items()
    }
