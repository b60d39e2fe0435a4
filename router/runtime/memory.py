"""What this process has of the machine's memory, and what it may have. Linux."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NO_LIMIT = 1 << 60
"""Version 1 of cgroups says "none" with a number above this."""
_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's `mallopt` numbers its parameters so."""
KEPT_BYTES = 16 << 20
_MAPPED_FROM_BYTES = 4 << 20


class Resident:
    """Memory of this process that is in RAM. Holds its file open: it must be readable when there are no more descriptors."""

    def __init__(self) -> None:
        self._file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def bytes(self) -> int:
        """Now."""
        return int(os.pread(self._file, 128, 0).split()[1]) * _PAGE_BYTES

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def resident_bytes() -> int:
    """Memory of this process that is in RAM, asked once."""
    resident = Resident()
    try:
        return resident.bytes()
    finally:
        resident.close()


def group_limit(own: Path = _OWN, groups: Path = _CGROUPS) -> int | None:
    """The least limit of the process's control group and of those above it; None where there is none."""
    found: list[int] = []
    for line in _lines(own):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = groups / controllers
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        folder = root / path.lstrip("/")
        # In a container the path may be one outside of what is mounted; then the root is its own group.
        for level in (folder, *folder.parents):
            found += [int(text) for text in _lines(level / name) if text.isdigit() and int(text) < _NO_LIMIT]
            if level == root:
                break
    return min(found, default=None)


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text().splitlines()
    return []


def give_back() -> bool:
    """Let the allocator return what it does not use; whether it did. Only glibc's can be asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))


def keep_freed(kept: int = KEPT_BYTES) -> bool:
    """Let the allocator keep `kept` freed bytes for what comes next, instead of 128 KiB; whether it does.

    Pieces of bodies come and go in every turn of the loop: each time the heap's end goes back to the system and is had again,
    the kernel clears its pages anew, which costs more than the request. glibc alone; what the environment says stands.
    """
    if "MALLOC_TRIM_THRESHOLD_" in os.environ or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    # To set either ends glibc's own guess at the other, from which size on a block is the system's own.
    return option is not None and bool(option(_TRIM_THRESHOLD, kept) and option(_MMAP_THRESHOLD, _MAPPED_FROM_BYTES))
