"""Arrays shared through caches must not change under their other readers."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


def frozen(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """`array` itself, contiguous and made read-only."""
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array
