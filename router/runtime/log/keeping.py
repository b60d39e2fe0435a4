"""Keeps the spool within its bounds: folds when it gets full, and keeps some of the disk for bad times."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from router.contract.errors import Unavailable
from router.runtime.log.spool import Spool
from router.runtime.log.spool_desk import Desk
from router.runtime.log.spool_disk import Ballast
from router.runtime.log.spool_folding import Folder, Step
from router.runtime.log.telling import Telling
from router.runtime.telemetry import Limited


@dataclass(frozen=True, slots=True)
class KeepingSettings:
    """When a spool is folded. Unit, default and why under each field."""

    spool_bytes: int = 1 << 30
    """From here on writers refuse stream messages."""
    fold_from: float = 0.85
    """Share of it from which on it is folded: the rest takes what is written meanwhile."""
    fold_to: float = 0.75
    """Share of it down to which it is folded."""
    look_seconds: float = 0.1
    """Shortest time between two looks while messages come in."""
    idle_seconds: float = 2.0
    """Longest time between two looks."""


class Keeping:
    """One task runs it, for the life of the shipper."""

    def __init__(
        self, desk: Desk, telling: Telling, ballast: Ballast, folder: Folder, settings: KeepingSettings
    ) -> None:
        self.news = asyncio.Event()
        """Set when the spool may have grown."""
        self._desk = desk
        self._telling = telling
        self._ballast = ballast
        self._folder = folder
        self._settings = settings
        self._reports = Limited(logging.getLogger(__name__), seconds=10.0)

    async def run(self) -> None:
        """Look after it until cancelled."""
        while True:
            await asyncio.sleep(self._settings.look_seconds)
            try:
                async with asyncio.timeout(self._settings.idle_seconds):
                    await self.news.wait()
            except TimeoutError:
                pass
            self.news.clear()
            try:
                await self._desk.ask(self._mind_the_disk)
                await self._look()
            except (Unavailable, OSError) as error:
                self._reports.error("spool_not_kept", f"the spool cannot be folded: {error}")

    def _mind_the_disk(self, spool: Spool) -> None:
        if self._ballast.held and self._ballast.is_needed() and not spool.size().rows:
            self._ballast.drop()  # nothing waits that has to leave, and the writers have no room for more
        else:
            self._ballast.take()

    async def _look(self) -> None:
        cap = self._settings.spool_bytes
        before = (await self._desk.ask(Spool.size)).bytes
        if before < self._settings.fold_from * cap:
            return
        size = before
        while size > self._settings.fold_to * cap:
            step, size = await self._desk.ask(self._step)
            if step is None:
                message = "the spool is full and nothing in it can be folded any more: new stream messages are refused"
                if size >= cap:
                    self._reports.error("spool_full", message, spool_bytes=size, cap=cap)
                break
            if step.messages:
                self._telling.link.folded[step.topic] += step.messages
        if size < before:
            message = "the spool is nearly full; its oldest messages were folded"
            self._reports.warning("spool_folded", message, bytes_before=before, bytes_after=size)

    def _step(self, spool: Spool) -> tuple[Step | None, int]:
        return self._folder.step(spool), spool.size().bytes
