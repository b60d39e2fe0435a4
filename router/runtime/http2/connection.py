"""One connection of HTTP/2 as its streams know it: what they send on it, what they share, and how it ends (RFC 9113)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from router.runtime.http2 import frames
from router.runtime.http2.flooding import Patience
from router.runtime.http2.flow import Flow

if TYPE_CHECKING:
    from router.runtime.http2.channel import Channel
    from router.runtime.http2.frames import Code


class Connection:
    """Either end of one; what comes on it is for who derives from it."""

    __slots__ = ("flow", "over", "patience", "streams", "taken", "transport")

    def __init__(self) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called
        self.flow = Flow()
        self.patience = Patience(time.monotonic_ns())
        self.streams: dict[int, Channel] = {}
        self.taken = 0
        """Highest stream of the other end for which anything was done."""
        self.over = False

    # Streams --------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Whole frames."""
        if not self.over:
            self.transport.write(data)

    def write_frames(self, written: list[bytes]) -> None:
        """Several."""
        if written and not self.over:
            self.transport.write(written[0] if len(written) == 1 else b"".join(written))

    def pause_writing(self) -> None:
        """The other end reads too slowly."""
        self.flow.congested = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self.flow.congested = False
        self.flow.pump()

    def drop(self, channel: Channel) -> None:
        """A stream is over."""
        if self.streams.get(channel.id) is channel:
            del self.streams[channel.id]
            self.flow.waiting.pop(channel.id, None)
            if not self.streams:
                self.quiet()

    def strike(self) -> None:
        """A stream was ended early by the other end, or by its fault. Raises `Broken` when that was too often."""
        self.patience.strike(time.monotonic_ns())

    def good(self) -> None:
        """A stream was answered."""
        self.patience.good()

    # The end --------------------------------------------------------------------------------------------------------

    def end(self, code: Code, why: str) -> None:
        """Say why, and let nothing more come of it."""
        if self.over:
            return
        self.transport.write(frames.goaway(self.taken, code, why))
        self.over = True
        self.hang_up(code)
        self.lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.over = True
        self.lost(exc)

    def eof_received(self) -> bool:
        """The other end sends nothing more: the connection is over (RFC 9113 has no half of one)."""
        return False

    def lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- for whoever asks why
        """Every stream is over, in the middle."""
        channels = list(self.streams.values())
        for channel in channels:
            channel.leave()
        for channel in channels:
            channel.broken(None, processed=True)

    def hang_up(self, code: Code) -> None:  # noqa: ARG002 -- for those that do not hang up at once
        """End the connection behind what has been written."""
        self.transport.close()

    def quiet(self) -> None:
        """No stream is left."""
