"""One autoscaler per data folder: a lock that dies with its process, and a generation that only counts up."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from router.contract.errors import Conflict

FILE = "autoscaler.owner"
WIDTH = 20
"""Digits: the number is overwritten in place, so that no crash can leave it empty."""
POLL_SECONDS = 0.05


class Ownership:
    """The lock, held until `release`, and the generation it came with."""

    def __init__(self, handle: int, generation: int) -> None:
        self._handle: int | None = handle
        self.generation = generation

    def raise_above(self, generation: int) -> None:
        """Make the generation greater than `generation`, which the log has already seen."""
        if self._handle is not None and self.generation <= generation:
            self.generation = generation + 1
            _store(self._handle, self.generation)

    def release(self) -> None:
        """Let the next owner in."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


async def take(root: Path, *, wait_seconds: float = 10.0) -> Ownership:
    """Own the deployments of the data folder `root`, with a generation above every earlier one.

    Waits for a predecessor that is about to end; raises `Conflict` when it does not within `wait_seconds`.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(root / FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        await _lock(handle, root, wait_seconds)
        stored = os.pread(handle, WIDTH, 0).strip()
        generation = (int(stored) if stored.isdigit() else 0) + 1
        _store(handle, generation)
    except BaseException:
        os.close(handle)
        raise
    return Ownership(handle, generation)


async def _lock(handle: int, root: Path, wait_seconds: float) -> None:
    for _ in range(max(1, round(wait_seconds / POLL_SECONDS))):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(POLL_SECONDS)
        else:
            return
    raise Conflict(f"another autoscaler owns {root}: stop it first, or use another data folder")


def _store(handle: int, generation: int) -> None:
    os.pwrite(handle, str(generation).zfill(WIDTH).encode(), 0)
    os.fsync(handle)
