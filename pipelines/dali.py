"""The DALI pipeline: one definition for CPU and GPU, fed by the plan's index files.

DALI returns exactly the samples an index lists, in the order listed, so its own shuffling, sharding and checkpointing
stay off: order, rank share, selection and resume are all in the plan.
"""

from __future__ import annotations

import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def

from pipelines.batch import Batch
from shards.base import CorruptError, InputError, keep_freed_memory
from shards.base.publish import process_alive
from shards.dataset import require_whole
from shards.plan import write_indexes
from shards.sums import member_sums

if TYPE_CHECKING:
    from shards.plan import RankPlan, View

MEMBERS = ("sensors.npy", "truth.npy")
MEMORY = Path("/dev/shm")
PREFIX = f"xec-plan-{socket.gethostname()}-"
"""Prefix of index folders; the process id follows."""
SERIAL = 32767
"""Elements up to which torch does an operation in the calling thread (`at::internal::GRAIN_SIZE` is one more)."""
LINE, PAGE = 256, 4096
"""Bytes that an event takes in an index at most, and that a file takes at least."""


@pipeline_def  # type: ignore[untyped-decorator]
def shard_pipeline(tars: list[str], indexes: list[str], headers: tuple[int, int], gpu: bool) -> Any:
    """The bytes of both tar members, uint8 (size,), the sensors' on the device, and those of their `.npy` headers.

    Args:
        headers: bytes in the header of each member.

    Nothing is decoded: the manifest says what follows the header, and DALI's decoder would copy it once more.
    """
    sensors, truth = fn.readers.webdataset(  # type: ignore[misc]  # its stub says None
        paths=tars,
        index_paths=indexes,
        ext=list(MEMBERS),
        missing_component_behavior="error",
        dont_use_mmap=True,  # a tar that is cut while it is mapped would end the process by SIGBUS
        name="shards",
    )
    heads = sensors[: headers[0]], truth[: headers[1]]
    if gpu:
        sensors = fn.copy(sensors).gpu()  # from the mapped file into pinned memory, and on
    return sensors, truth, *heads


class DaliLoader:
    """Reads a plan through DALI; micro-batch k of the plan is the k-th one yielded."""

    def __init__(
        self, views: Sequence[View], plan: RankPlan, *, device: str = "cpu", threads: int = 2, prefetch: int = 2
    ) -> None:
        self.device = device
        self._plan, self._views = plan, views
        self._layout = views[0].dataset.manifest.settings.layout  # datasets that are read together have the same
        self._pipe: Any = None
        self._sums = any(view.dataset.has_unseen(plan.global_row[plan.dataset == d]) for d, view in enumerate(views))
        self._lent: tuple[torch.Tensor, torch.cuda.Event] | None = None
        if device == "cpu":
            keep_freed_memory()  # every batch is a fresh buffer of megabytes
        if len(self):
            self._pipe = self._build(threads, prefetch)

    def _build(self, threads: int, prefetch: int) -> Any:
        target = torch.device(self.device)
        parent = _index_parent(self._plan)
        _remove_abandoned(parent)
        with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=parent) as folder:
            tars, indexes = write_indexes(self._plan, self._views, folder)
            pipe = shard_pipeline(
                [str(t) for t in tars],
                [str(i) for i in indexes],
                headers=(len(self._layout.sensors_npy), len(self._layout.truth_npy)),
                gpu=target.type == "cuda",
                batch_size=self._plan.micro_batch,
                num_threads=threads,
                device_id=(target.index or 0) if target.type == "cuda" else None,
                prefetch_queue_depth=prefetch,
                exec_dynamic=True,
            )
            with self._explained():
                pipe.build()  # which reads the indexes, for good
        return pipe

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """When DALI cannot read, name the first tar of the plan that is gone or cut."""
        try:
            yield
        except RuntimeError as error:
            for d, shard in dict.fromkeys(zip(self._plan.dataset.tolist(), self._plan.shard.tolist(), strict=True)):
                require_whole(self._views[d].dataset, shard)
            said = " ".join(str(error).split())[:200]
            raise InputError(f"shards cannot be read: {said}", file=self._views[0].dataset.path) from error

    def __len__(self) -> int:
        return len(self._plan.row) // self._plan.micro_batch

    def __iter__(self) -> Iterator[Batch]:
        size = self._plan.micro_batch
        with self:
            for k in range(len(self)):
                with self._explained():
                    outputs = self._pipe.run()
                sensors, truth = self._arrays(k * size, outputs)
                part = slice(k * size, (k + 1) * size)
                yield Batch(sensors, truth, torch.from_numpy(self._plan.weight[part]), self._plan.global_row[part])

    def _arrays(self, first: int, outputs: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sensors and truth of a batch, from what the pipeline gives.

        On the CPU float32 sensors, and the truth, share DALI's memory, which it uses for nothing else while they live
        (the `exec_dynamic` model). With a GPU they are copies: DALI's memory for the truth may be pinned then, and a
        copy from there to the device would still be reading when DALI takes it back.

        Args:
            first: place in the plan of the batch's first event.

        Raises:
            CorruptError: a member does not begin as the manifest says.
        """
        sensors, truth = (torch.utils.dlpack.from_dlpack(output.as_tensor()) for output in outputs[:2])
        expected = self._layout.sensors_npy, self._layout.truth_npy
        for name, heads, header in zip(MEMBERS, outputs[2:], expected, strict=True):
            wrong = (np.asarray(heads.as_tensor()) != np.frombuffer(header, np.uint8)).any(axis=1)
            if wrong.any():
                place = first + int(wrong.argmax())
                raise CorruptError(
                    "a member is not the array that the manifest describes",
                    file=self._views[self._plan.dataset[place]].dataset.file(int(self._plan.shard[place]), "tar"),
                    item=f"sample {self._plan.row[place]}, {name}",
                    expected=header[10:].decode().strip(),
                    remedy="run `xec shards verify`",
                )
        if self._sums:
            self._require_sums(first, sensors, truth)
        values = sensors[:, len(expected[0]) :].view(getattr(torch, self._layout.dtype))
        values = values.unflatten(1, (self._layout.sensors, 2))
        truth = truth[:, len(expected[1]) :].view(torch.float64)
        if values.is_cuda:
            return self._own(values), truth.clone()
        return in_float32(values), truth

    def _require_sums(self, first: int, sensors: torch.Tensor, truth: torch.Tensor) -> None:
        """Compare the sums of samples that are read for the first time with the recorded ones.

        On the CPU NumPy makes them, in this thread: torch would wake its others, and DALI's own sum takes longer.
        """
        part = slice(first, first + len(truth))
        found = member_sums(truth.numpy())
        if sensors.is_cuda:
            found += sensors.view(torch.int64).sum(dim=1).cpu().numpy()
        else:
            found += member_sums(sensors.numpy())
        dataset, rows = self._plan.dataset[part], self._plan.global_row[part]
        for d in np.unique(dataset).tolist():
            mine = dataset == d
            self._views[d].dataset.require_sums(rows[mine], found[mine])

    def _own(self, lent: torch.Tensor) -> torch.Tensor:
        """A float32 copy of a tensor in DALI's memory on the GPU.

        Coming: torch's `from_dlpack` names its current stream to DALI's `__dlpack__`, which makes that stream wait for
        the batch; the copy is queued in that stream, so nothing else has to wait. Going: DALI takes its memory back
        when the last reference is gone, in an order of its own streams, and knows nothing of what torch has queued. So
        the reference is held until the event after the copy has passed, which by the time the next batch is asked for
        it usually has. A copy costs microseconds a batch there, and frees the network from that question.
        """
        own = lent.to(torch.float32, copy=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(lent.device))
        self._take_back()
        self._lent = lent, copied
        return own

    def _take_back(self) -> None:
        """Return lent memory to DALI when it is no longer being read."""
        if self._lent is not None:
            self._lent[1].synchronize()
            self._lent = None

    def close(self) -> None:
        """Release the pipeline and the memory that it has lent."""
        self._take_back()
        self._pipe = None

    def __enter__(self) -> DaliLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def in_float32(values: torch.Tensor) -> torch.Tensor:
    """`values` (B, S, 2) as float32, by this thread alone: torch would wake its others for a cast of milliseconds, and
    their waiting for the next one takes the cores that DALI's threads need (float16 shards were read at 0.8 of the rate
    of float32 ones with that, and at 1.2 without)."""
    if values.dtype == torch.float32:
        return values
    whole = torch.empty(values.shape, dtype=torch.float32)
    events = max(1, SERIAL // values[0].numel())
    for start in range(0, len(values), events):
        whole[start : start + events].copy_(values[start : start + events])
    return whole


def _index_parent(plan: RankPlan) -> Path:
    """Where the indexes of a plan go until DALI has read them: into memory, if it has room, since making and removing
    thousands of small files on a disk can take longer than reading the shards; else wherever temporary files go."""
    needed = LINE * len(plan.row) + PAGE * len(plan.stretches()[0])
    try:
        room = shutil.disk_usage(MEMORY).free if os.access(MEMORY, os.W_OK) else 0
    except OSError:
        room = 0
    return MEMORY if room > 2 * needed else Path(tempfile.gettempdir())


def _remove_abandoned(parent: Path) -> None:
    """Remove the indexes that processes of this host left when they were killed."""
    for left in parent.glob(f"{glob.escape(PREFIX)}*"):
        pid = left.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not process_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)  # another process may be removing it, or it is another user's
