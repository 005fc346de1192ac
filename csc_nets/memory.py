"""Memory of the process on a CPU."""

import ctypes
import sys

__all__ = ["reuse_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def reuse_memory() -> bool:
    """Lets the process keep the memory of freed tensors, where the C library is glibc.

    By default glibc returns large blocks to the system and takes them back at the next step, page by page. A training
    step of ResNet-18 on 128 images of 32 x 32 then has 160,000 page faults, and takes 15 % longer than without them.
    Now all blocks come from one heap, which never shrinks: the process stays as large as it once was. Call it before
    the first step. ``train.py`` and ``evaluate.py`` do.

    Returns:
        Whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
