"""How this process keeps its memory."""

from __future__ import annotations

import ctypes


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks up to 32 MB for reuse: giving pages back and getting them anew costs more than the
    arithmetic done on them. Other C libraries are left as they are."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        library.mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD
