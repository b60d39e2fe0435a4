"""Who has the embedded log's file open: everybody shares one lock, and who repairs the file needs it alone.

SQLite has locks of its own on the file, but none that can be asked about a file that it cannot read.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from router.contract.errors import Unavailable

SUFFIX = ".lock"


class OpenLock:
    """The lock of one opening; `close` lets go. The file stays: to remove it would let two have the lock at once."""

    def __init__(self, path: Path, *, alone: bool = False, wait_seconds: float = 0.0) -> None:
        """Share the lock of the log in `path`, or have it `alone`. Raises `Unavailable` when that is not to be had.

        Where the lock file cannot be made there is no lock: the log's own opening says what is wrong with the folder.
        """
        self._fd = -1
        try:
            self._fd = os.open(f"{path}{SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        deadline = time.monotonic() + wait_seconds
        while not self._try(fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
            if time.monotonic() >= deadline:
                self.close()
                who = "in use" if alone else "being repaired"
                raise Unavailable(f"embedded log {path} is {who} by another process; try again")
            time.sleep(0.01)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let go. May be repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
