"""What a command sets for its whole process."""

import atexit
import ctypes
import gc
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
LARGEST = 2**31 - 1  # of the first, bytes


def keep_freed_memory() -> None:
    """Keep freed memory in the process, for the next array, where the C library is glibc.

    By default glibc returns arrays of more than 32 MB to the system, which clears each page of the next one. For a
    water molecule with r2SCAN (500 eV) this is a third of the time. Memory that was once used is then not returned
    before the process ends.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST)


def skip_last_collections() -> None:
    """Do not search for cycles of objects when the process ends: with the modules of PyTorch this takes up to 1 s."""
    atexit.register(gc.freeze)
