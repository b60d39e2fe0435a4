"""The request's body as far as it has come: how much that is, what of it could be sent anew, how a replica gets it.

Up to `HELD_BODY_BYTES` are kept, so that a request can wait, be sent again and be sent twice; of one that has passed more to a
replica nothing is. What is kept of requests that wait is counted into memory set aside for that. The mirror's copy gets
what the replica gets.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from router.contract.tee import Kind
from router.policy.admission import HELD_BODY_BYTES, may_hold
from router.policy.chunked import LAST, frame

if TYPE_CHECKING:
    from router.gateway.routes import Endpoint
    from router.gateway.state import State
    from router.gateway.tee import Shadow

JOINED_BYTES: Final = 32768
"""To copy a body behind its head costs less than a second write up to here; beyond, the two leave as one list of buffers."""


class RequestBody:
    """Of one request."""

    __slots__ = ("_chunked", "_counted", "_kept", "_kept_bytes", "complete", "received", "shadow", "whole")

    def __init__(self, *, chunked: bool) -> None:
        self._chunked = chunked
        """Whether the replica learns from chunks where it ends."""
        self._kept: list[bytes] | None = None
        """All of it so far, as payload; None: not even the first has come, or it cannot be sent anew."""
        self._kept_bytes = 0
        self._counted = 0
        """Bytes that count as those of a waiting request."""
        self.received = 0
        self.complete = False
        self.whole = 0
        """When the last byte came, where it did not come with the head (monotonic nanoseconds)."""
        self.shadow: Shadow | None = None

    # From the caller ------------------------------------------------------------------------------------------------

    def begin(self, pieces: list[bytes], size: int, *, complete: bool) -> None:
        """Take what came with the head."""
        self._kept = pieces
        self._kept_bytes = self.received = size
        self.complete = complete

    def add(self, pieces: list[bytes], size: int) -> None:
        """Take more, before a replica has any of it."""
        assert self._kept is not None
        self._kept += pieces
        self._kept_bytes += size
        self.received += size

    def is_at_hand(self) -> bool:
        """Whether all of it could be sent anew."""
        return self.complete and self._kept is not None

    def begun(self) -> bytes:
        """As much of it as could be sent anew."""
        pieces = self._kept or ()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def is_replayable(self) -> bool:
        """Whether what has come could be sent anew."""
        return self._kept is not None

    def is_large(self) -> bool:
        """Whether it has all the room that one body has: no more is to be read of it while it waits."""
        return self._kept_bytes >= HELD_BODY_BYTES

    def forget(self) -> None:
        """The request is over."""
        self._kept = None
        self.shadow = None

    # While it waits -------------------------------------------------------------------------------------------------

    def hold(self, state: State, endpoint: Endpoint) -> bool:
        """Count what is kept as that of a waiting request; whether there is room for it."""
        more = self._kept_bytes - self._counted
        self._counted += more
        state.held_bytes += more
        endpoint.held_bytes += more
        return not self._kept_bytes or may_hold(endpoint.held_bytes, state.held_bytes)

    def let_go(self, state: State, endpoint: Endpoint) -> None:
        """It waits no longer."""
        state.held_bytes -= self._counted
        endpoint.held_bytes -= self._counted
        self._counted = 0

    # To a replica ---------------------------------------------------------------------------------------------------

    def send(self, transport: asyncio.Transport, head: bytes) -> None:
        """Write `head`, what has come, and where that is all of it, its end."""
        pieces = self._kept
        assert pieces is not None
        if not pieces:
            transport.write(head)
        elif self._chunked:
            transport.write(head + frame(pieces))
        elif self._kept_bytes > JOINED_BYTES:
            transport.write(head)
            for piece in pieces:
                transport.write(piece)
        elif len(pieces) == 1:
            transport.write(head + pieces[0])
        else:
            transport.write(b"".join((head, *pieces)))
        if self._chunked and self.complete:
            transport.write(LAST)
        if self._kept_bytes > HELD_BODY_BYTES:
            self._kept = None

    def repeat(self, transport: asyncio.Transport, head: bytes) -> None:
        """Write `head` and all of it, which is at hand, to a second replica."""
        pieces = self._kept
        assert pieces is not None
        body = (frame(pieces) if pieces else b"") + LAST if self._chunked else b"".join(pieces)
        transport.write(head + body)

    def pass_on(self, transport: asyncio.Transport, pieces: list[bytes], size: int) -> None:
        """Take more, and write it to the replica that has what came before."""
        self.received += size
        if self._kept is not None:
            self._kept_bytes += size
            if self._kept_bytes > HELD_BODY_BYTES:
                self._kept = None
            else:
                self._kept += pieces
        if self.shadow is not None:
            for piece in pieces:
                self.shadow.add(Kind.BODY, piece)
        if self._chunked:
            transport.write(frame(pieces))
        else:
            for piece in pieces:
                transport.write(piece)

    def end(self, transport: asyncio.Transport | None) -> None:
        """Write its end; None: the replica has stopped listening."""
        if self._chunked and transport is not None:
            transport.write(LAST)
        if self.shadow is not None:
            self.shadow.add(Kind.REQUEST_END, b"")

    def copy_to(self, shadow: Shadow) -> None:
        """The mirror gets what has come, and from now on what comes."""
        self.shadow = shadow
        for piece in self._kept or ():
            shadow.add(Kind.BODY, piece)
        if self.complete:
            shadow.add(Kind.REQUEST_END, b"")
