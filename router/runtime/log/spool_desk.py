"""The shipper's one thread on the spool, and its one voice: who else wants something of the file asks here.

Everything that the file is told or asked for happens in order, in one thread; nothing of it holds up the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from router.contract.errors import Unavailable
from router.runtime.log.embedded import FILE, WAKE
from router.runtime.log.spool import Spool
from router.runtime.log.spool_rescue import mend
from router.runtime.log.wakeups import Bell
from router.runtime.telemetry import Limited

_T = TypeVar("_T")


class Desk:
    """Open the spool of one folder with `open`, `ask`, then `close`. Used from one event loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._spool: Spool | None = None
        self._bell: Bell | None = None
        self._reports = Limited(logging.getLogger(__name__))

    async def open(self, first: Callable[[], Spool]) -> None:
        """Open with `first`, in the desk's thread. Raises `Unavailable`."""

        def begin() -> None:
            self._spool = first()
            self._bell = Bell(self.folder / WAKE)

        await asyncio.get_running_loop().run_in_executor(self._thread, begin)

    async def ask(self, question: Callable[[Spool], _T]) -> _T:
        """What `question` finds or does. Raises `Unavailable`."""

        def answer() -> _T:
            assert self._spool is not None
            return question(self._spool)

        return await asyncio.get_running_loop().run_in_executor(self._thread, answer)

    def ring(self, topics: Collection[str]) -> None:
        """Wake the readers of `topics` in every process. For the desk's own thread."""
        assert self._bell is not None
        try:
            self._bell.ring(topics)
        except OSError as error:
            self._reports.warning("spool_wakeup_failed", f"readers are not woken and will poll: {error}")

    async def close(self) -> None:
        """Let go of the file once everything asked before is done. May be repeated."""

        def end() -> None:
            if self._spool is not None:
                self._spool.close()
            if self._bell is not None:
                self._bell.close()

        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, end))


class Syncing:
    """Puts what is committed on the disk for good: a power cut takes at most what came since the last sync.

    SQLite itself syncs only at its checkpoints. The write-ahead log lives as long as the desk's connection does, and
    no lock of SQLite's is on it, so that opening and closing it does no harm.
    """

    def __init__(self, folder: Path, pause_seconds: float) -> None:
        """`pause_seconds`: between a commit and its sync, and so between two syncs."""
        self._path = folder / f"{FILE}-wal"
        self._pause_seconds = pause_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool-sync")
        self._reports = Limited(logging.getLogger(__name__))
        self._fd = -1
        self.count = 0
        """How often it has synced."""

    async def run(self, news: asyncio.Event) -> None:
        """Sync soon after each `news`, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await news.wait()
                await asyncio.sleep(self._pause_seconds)
                news.clear()
                await loop.run_in_executor(self._thread, self._sync)
        finally:
            await asyncio.shield(loop.run_in_executor(self._thread, self._close))
            self._thread.shutdown(wait=False)

    def _sync(self) -> None:
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            os.fdatasync(self._fd)
            self.count += 1
        except OSError as error:
            self._reports.error("spool_sync_failed", f"{self._path} cannot be synced: {error}")

    def _close(self) -> None:
        self._sync()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def opened(folder: Path, *, busy_seconds: float = 5.0) -> Spool:
    """The spool in `folder`, made if absent and mended if damaged. Raises `Unavailable`."""
    try:
        (folder / WAKE).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"spool {folder} cannot be made: {error}; name a folder you may write") from error
    mend(folder / FILE)
    return Spool.open(folder / FILE, busy_seconds=busy_seconds)
