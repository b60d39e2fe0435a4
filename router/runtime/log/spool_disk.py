"""A spool on a full disk: some room is kept that only the shipper uses, so that what waits can still leave.

Removing rows takes room too, for a moment, in the write-ahead log. The *ballast* is a file of a few MiB that is given up
for that when everything else is gone, or for the writers when nothing waits any more, and taken back when the disk has
room again. Writers stop a little earlier: they leave as much free as the ballast has, and what the file has still to
grow by for what the write-ahead log holds, unless they fit into free pages of the file. What they have accepted waits
in their buffers.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

BALLAST_BYTES = 16 << 20
"""At most: enough for a checkpoint of what SQLite gathers in its write-ahead log, and for removing some thousand rows."""
SHARE = 8
"""On a small disk: at most this part of it."""
PLENTY = 8
"""Times the reserve: with so much free, nobody looks more closely."""
FILE = "ballast"


def reserve_bytes(folder: Path) -> int:
    """What is kept on the disk of `folder`: for the ballast, and once more for the writers to stop in time."""
    disk = os.statvfs(folder)
    return min(BALLAST_BYTES, disk.f_blocks * disk.f_frsize // SHARE)


def free_bytes(folder: Path) -> int:
    """What an ordinary user may still write to the disk of `folder`."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


class Ballast:
    """The file. Used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE

    @property
    def held(self) -> bool:
        """Whether the room is kept."""
        return self._path.exists()

    def is_needed(self) -> bool:
        """Whether the disk has less left than what is kept of it."""
        return free_bytes(self._folder) < reserve_bytes(self._folder)

    def take(self) -> bool:
        """Keep the room, if there is plenty. Cheap when it is kept already."""
        size = reserve_bytes(self._folder)
        if self.held or free_bytes(self._folder) < 4 * size:
            return self.held
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, size)
            finally:
                os.close(fd)
        except OSError as error:
            self.drop()
            logging.getLogger(__name__).warning("no room can be kept for a full disk: %s", error)
        return self.held

    def drop(self) -> None:
        """Give the room up."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def drop_and(self, work: Callable[[], _T]) -> _T:
        """Do `work` with the room given up."""
        self.drop()
        return work()
