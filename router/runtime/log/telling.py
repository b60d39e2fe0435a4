"""What the shipper's parts have to say about the way to the broker, made one sentence and written into the spool.

Written when it changes, but at most once a second, and at least every few seconds: other processes read it from there.
"""

from __future__ import annotations

import asyncio
import logging

from router.contract.errors import Unavailable
from router.runtime.log.spool_desk import Desk
from router.runtime.log.spool_link import CONNECTING, CURRENT, REFUSED, UNREACHABLE, Link
from router.runtime.telemetry import Limited

_WORST_FIRST = (REFUSED, UNREACHABLE, CONNECTING, CURRENT)


class Telling:
    """One for a shipper. Its parts set their side; the task of `run` writes."""

    def __init__(self, desk: Desk, sides: tuple[str, ...], pause_seconds: float = 1.0) -> None:
        """`pause_seconds`: shortest time between two writes, but for a change of the state."""
        self.link = Link()
        self._desk = desk
        self._pause_seconds = pause_seconds
        self._sides = dict.fromkeys(sides, (CONNECTING, ""))
        self._seen_current: set[str] = set()
        self._changed = asyncio.Event()
        self._reports = Limited(logging.getLogger(__name__))

    def side(self, name: str, state: str, message: str = "") -> None:
        """One part's view. The worst one counts; a part that is current again has nothing to say."""
        if state == CURRENT:
            self._seen_current.add(name)
        if self._sides[name] == (state, message):
            return
        self._sides[name] = (state, message)
        state, message = min(self._sides.values(), key=lambda side: _WORST_FIRST.index(side[0]))
        if state != self.link.state:
            self._changed.set()
            logging.getLogger(__name__).info("%s", f"the way to the broker is {state}", extra={"reason": message})
        self.link.state, self.link.message = state, message

    def was_current(self, name: str) -> bool:
        """Whether that part has been current since this was asked last."""
        found = name in self._seen_current
        self._seen_current.discard(name)
        return found

    async def run(self) -> None:
        """Write, until cancelled."""
        written = ""
        while True:
            self._changed.clear()
            body = self.link.encode()
            if body != written:
                written = body if await self.write() else ""
            try:
                async with asyncio.timeout(self._pause_seconds):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def write(self) -> bool:
        """Write now. False when that is not possible, which is no reason to end."""
        try:
            body = self.link.encode()
            await self._desk.ask(lambda spool: spool.write_link(body))
        except Unavailable as error:
            self._reports.warning("link_unwritten", f"how the shipper is doing cannot be told: {error.message}")
            return False
        return True
