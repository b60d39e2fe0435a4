"""Takes what gateway workers tee: one connection (`Link`) per worker at the mirror's socket, from listening to the end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import cast

from mirror.budget import Budget
from mirror.capture import Spill
from mirror.dispatcher import Dispatcher
from mirror.link import Link
from mirror.recorder import Recorder
from router.contract.errors import Conflict
from router.runtime.doors import Door, reached

CLOSE_SECONDS = 1.0
"""How long a gateway may take to read its last answers."""
_BACKLOG = 128
TOGETHER_SECONDS = 0.02
"""What ends within this time is put on the log and answered together."""


class Receiver:
    """Every connection and exchange of the mirror."""

    def __init__(self, memory: Budget, spill: Spill, dispatcher: Dispatcher, recorder: Recorder) -> None:
        self.memory = memory
        self.spill = spill
        self.dispatcher = dispatcher
        self.recorder = recorder
        self.links: set[Link] = set()
        self.closing = False
        """New exchanges end at once with the reason `shutdown`."""
        self._less = asyncio.Event()
        self._owing: list[Link] = []
        """Those on which exchanges have ended that are not answered yet."""
        self._settling: asyncio.TimerHandle | None = None

    async def listen(self, door: Door) -> asyncio.Server:
        """Take what comes there."""
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(lambda: cast("asyncio.Protocol", Link(self)), sock=door.socket)

    async def drain(self, grace_seconds: float) -> None:
        """Take no new exchanges; wait for those under way, then end the rest as `shutdown` and close every connection."""
        self.closing = True
        await self._until(lambda: not any(link.exchanges for link in self.links), grace_seconds)
        self.drop_all("shutdown")
        for link in list(self.links):
            link.close()
        await self._until(lambda: not self.links, CLOSE_SECONDS)
        self.abort()

    def less(self) -> None:
        """An exchange or a connection ended."""
        self._less.set()

    def lost(self, link: Link) -> None:
        """A connection is gone, and what it was owed with it."""
        self.links.discard(link)
        if link in self._owing:
            self._owing.remove(link)
        self.less()

    def owes(self, link: Link) -> None:
        """A connection's first exchange since it was settled has ended."""
        if link not in self._owing:
            self._owing.append(link)
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self._settle)

    def _settle(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        owing, self._owing = self._owing, []
        for link in owing:
            link.settle()

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._less.clear()
                    await self._less.wait()
        except TimeoutError:
            return

    def drop_all(self, reason: str) -> None:
        """End every exchange that is under way, and answer all that have ended."""
        for link in list(self.links):
            for exchange in list(link.exchanges.values()):
                link.end(exchange, reason)
        self._settle()

    def abort(self) -> None:
        """Close every connection now."""
        for link in list(self.links):
            link.abort()


def taken(path: Path) -> Door:
    """What the mirror listens on. A dead one's socket is replaced, a living one's raises `Conflict`."""
    if _answers(path):
        raise Conflict(f"another mirror listens on {path}")
    return Door(path, _BACKLOG)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            with reached(path) as address:
                probe.connect(address)
        except OSError:
            return False
    return True
