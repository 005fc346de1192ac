"""Memory of the process on a CPU."""

import ctypes
import sys

__all__ = ["reuse_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def reuse_memory() -> bool:
    """Lets the process keep the memory of freed tensors, where the C library is glibc.

    By default glibc returns large blocks to the system and takes them back at the next step, page by page: on a stem
    of 64 atoms the page faults of a training step cost more than its elementwise work. The price is that the process
    stays as large as it once was (blocks above 32 MiB, glibc's limit, are still returned).

    Returns:
        Whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_M_MMAP_THRESHOLD, 32 << 20) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
