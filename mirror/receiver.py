"""Takes what gateway workers tee: one connection (`Link`) per worker at the mirror's socket, from listening to the end."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import cast

from mirror.budget import Budget
from mirror.capture import Spill
from mirror.dispatcher import Dispatcher
from mirror.link import Link
from mirror.recorder import Recorder
from router.contract.errors import Conflict

CLOSE_SECONDS = 1.0
"""How long a gateway may take to read its last answers."""
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

    async def listen(self, path: Path) -> asyncio.Server:
        """Listen on `path`, for the owner alone. A dead mirror's socket is replaced, a living one's raises `Conflict`."""
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(lambda: cast("asyncio.Protocol", Link(self)), sock=_bind(path))

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


def _bind(path: Path) -> socket.socket:
    """A bound socket that appears at `path` in one step and never with another mode than 0600."""
    if _answers(path):
        raise Conflict(f"another mirror listens on {path}")
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(str(fresh))
        os.chmod(fresh, stat.S_IRUSR | stat.S_IWUSR)
        listener.listen(128)
        os.rename(fresh, path)
    except BaseException:
        listener.close()
        raise
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def unbinder(path: Path) -> Callable[[], None]:
    """Remembers the socket at `path` and gives what removes it once, unless another mirror has replaced it by then."""
    ours = [path.stat().st_ino]

    def unbind() -> None:
        try:
            if ours and path.stat().st_ino == ours.pop():  # once: a successor may get the same inode number
                path.unlink()
        except FileNotFoundError:
            return

    return unbind
