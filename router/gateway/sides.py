"""One of the two ends of a WebSocket: what comes from it is walked over and passed to the other, which says what it takes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from router.gateway.tunnel import Tunnel
    from router.policy.websocket import Scanner


_TURN_BYTES: Final = 65536
"""Of frames in one turn of the event loop: a read may have 36,000 of them, and all others wait meanwhile."""


class Side:
    """What comes from it goes through `scanner` to the other. A protocol by its methods alone."""

    __slots__ = (
        "asked", "count", "cut_off", "heard", "is_near", "lost", "other", "paused_since", "rest", "said", "scanner", "told", "transport",
        "tunnel",
    )  # fmt: skip

    def __init__(
        self, tunnel: Tunnel, transport: asyncio.Transport, scanner: Scanner, now: int, *, is_near: bool
    ) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.scanner = scanner
        self.other: Side = self  # until there is the other
        self.is_near = is_near
        """Whether it is the caller's."""
        self.heard = now
        self.asked = 0
        """When it was last sent a ping that it has to answer; monotonic, 0 = never."""
        self.count = 0
        """Bytes that came from it."""
        self.paused_since = 0
        """Since when it takes nothing; 0 = it does."""
        self.rest = b""
        """What has come and is for a later turn of the loop."""
        self.said = False
        """It says nothing more: its close frame has come, or the end of its connection."""
        self.told = False
        """It hears nothing more: a close frame has gone to it, or none can."""
        self.cut_off = False
        """It will not say that it has understood, so it is told by the end of the connection too."""
        self.lost = False

    @property
    def over(self) -> bool:
        """Nothing more is owed to it, nor by it."""
        return self.said and self.told

    def data_received(self, data: bytes) -> None:
        """Frames, in any pieces."""
        if self.rest:
            self.rest += data
            return
        scanner, other = self.scanner, self.other
        if len(data) > _TURN_BYTES and not scanner.passes_whole(len(data)):
            self._later(data[_TURN_BYTES:])
            data = data[:_TURN_BYTES]
        self.count += len(data)
        if scanner.over:
            return
        now = self.heard = time.monotonic_ns()
        pieces = scanner.feed(data)
        if pieces:
            other.write(pieces)
        if scanner.saw_data:
            scanner.saw_data = False
            self.tunnel.active = now
        if scanner.saw_ping:
            scanner.saw_ping = False
            if other.asked <= other.heard:
                other.asked = now
        if scanner.muted or scanner.close_code or scanner.violation is not None:
            self.tunnel.ends(self, now)

    def _later(self, rest: bytes) -> None:
        """So many frames are work for further turns of the loop; nothing more is read before."""
        self.rest = rest
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        rest, self.rest = self.rest, b""
        if rest and not self.lost and not self.transport.is_closing():
            self.data_received(rest)
            if not self.rest and not self.other.paused_since and not self.transport.is_closing():
                self.transport.resume_reading()

    def write(self, pieces: list[bytes]) -> None:
        """To this end."""
        if not self.lost and not self.transport.is_closing():
            self.transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def pause_writing(self) -> None:
        """It reads slower than the other sends."""
        self.paused_since = time.monotonic_ns()
        if not self.other.lost and not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.paused_since = 0
        self.other.heard = time.monotonic_ns()  # whatever it said meanwhile was not read
        if not self.other.lost and not self.other.rest and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def eof_received(self) -> bool:
        """It sends nothing more."""
        while self.rest:
            self._go_on()
        self.tunnel.gone(self)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.lost = True
        self.tunnel.lost(self, exc)
