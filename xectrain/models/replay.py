"""Many small operations on a GPU as one: recorded once for every shape of the input, and replayed.

What the light says before anything is learned (`xectrain.models.reference`) is some thousands of operations on a few
numbers per event. A GPU has done each of them long before Python asks for the next, so that a step takes as long with
64 events as with 1024. A CUDA graph asks for all of them in one call.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Function = Callable[..., T]
WORTH = 3
"""Calls with inputs of the same shapes from which they are recorded: an epoch's last batch comes once in a while."""
MOST = 4
"""Recordings that are kept; each holds the memory of its intermediate results."""


def cuda_graph(function: Function[T], inputs: tuple[Tensor, ...]) -> Function[T]:
    """The function for inputs of these shapes, as a CUDA graph.

    Why this is right. A graph reads and writes the memory that was used when it was recorded. So inputs are copied
    there, and results from there: what a caller keeps, for gradients or for a second call, stays as it is. All of this
    is queued in the caller's stream, in order. Memory of the recording is made without inference mode, whose tensors
    could not be written later outside it. The reader's threads may use the device meanwhile (`thread_local`). The
    caller has called the function with these shapes before, so nothing is set up while it is recorded.
    """
    with torch.inference_mode(False), torch.no_grad():
        kept = tuple(tensor.clone() for tensor in inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = function(*kept)

    def replay(*inputs: Tensor) -> T:
        for place, tensor in zip(kept, inputs, strict=True):
            place.copy_(tensor)
        graph.replay()
        found: T = cloned(results)
        return found

    return replay


class Replayed(Generic[T]):
    """A function of tensors that is recorded for shapes that come again.

    Args:
        function: of tensors, gives a dataclass of tensors, nested if need be. It has no gradients, does not wait for
            the device, and depends on nothing but its inputs and on tensors that stay in their places (or `forget`).
        record: makes what is called instead, for inputs of the shapes of these.
    """

    def __init__(
        self, function: Function[T], record: Callable[[Function[T], tuple[Tensor, ...]], Function[T]] = cuda_graph
    ) -> None:
        self._function, self._record = function, record
        self.forget()

    def forget(self) -> None:
        """Drop all recordings: what the function depends on has moved."""
        self._calls, self._recordings = Counter[Any](), dict[Any, Function[T]]()

    def __reduce__(self) -> tuple[Any, ...]:
        return Replayed, (self._function, self._record)  # copies make recordings of their own

    # The compiler would take minutes for these operations. `torch.compiler.disable` loads it: half a second of a start.
    @torch._disable_dynamo  # type: ignore[attr-defined]
    def __call__(self, *inputs: Tensor) -> T:
        """The function's value."""
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
            return self._function(*inputs)
        key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs)
        if key not in self._recordings:
            self._calls[key] += 1
            if self._calls[key] < WORTH:
                return self._function(*inputs)
            if len(self._recordings) == MOST:
                del self._recordings[next(iter(self._recordings))]
            self._recordings[key] = self._record(self._function, inputs)
        return self._recordings[key](*inputs)


def cloned(value: Any) -> Any:
    """A dataclass with copies of all tensors in it."""
    if isinstance(value, Tensor):
        return value.clone()
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    parts = {field.name: cloned(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return dataclasses.replace(value, **parts)
