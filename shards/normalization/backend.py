"""One spelling for NumPy and torch: both offer log1p, expm1, sqrt, where, clip and stack under the same names."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""A NumPy array or a torch tensor; functions return the kind they were given."""

NUMPY_KINDS = (np.ndarray, np.generic, float, int)


def is_numpy(array: Array) -> bool:
    """Whether `array` is NumPy's (or a plain number), as opposed to a torch tensor."""
    return isinstance(array, NUMPY_KINDS)


def namespace(array: Array) -> Any:
    """The module whose functions fit `array`: `math` for a plain number (a constant to a compiler), `numpy`, or `torch`
    (imported only here, where there is a tensor already)."""
    if isinstance(array, float):
        return math
    if is_numpy(array):
        return np
    import torch

    if not isinstance(array, torch.Tensor):
        raise TypeError(f"expected a NumPy array or a torch tensor, not {type(array).__name__}")
    return torch


def at_least(array: Array, lowest: float) -> Array:
    """`array` with smaller values raised to `lowest` (the same array where there are none); NaN stays."""
    xp = namespace(array)
    if xp is math:
        return max(array, lowest)
    if xp is np and np.size(array) and np.min(array) >= lowest:  # a look is cheaper than clipping
        return array
    return xp.clip(array, lowest, None)


def widen(array: Array) -> Array:
    """`array` in the type arithmetic is done in: float64 for NumPy; for torch at least float32 (float64 stays).

    The NumPy path writes datasets, where one more rounding would be permanent; the torch path feeds networks.
    """
    if is_numpy(array):
        return np.asarray(array, dtype=np.float64)
    import torch

    return array if array.dtype in (torch.float32, torch.float64) else array.to(torch.float32)


def cast(array: Array, dtype: str) -> Array:
    """`array` in the dtype of that name; what is too large becomes infinite."""
    if is_numpy(array):
        with np.errstate(over="ignore"):
            return np.asarray(array).astype(dtype, copy=False)
    import torch

    return array.to(getattr(torch, dtype))


def dtype_name(array: Array) -> str:
    """The name of the array's dtype, the same for both kinds: "float16", "float32" …"""
    return str(array.dtype).removeprefix("torch.")
