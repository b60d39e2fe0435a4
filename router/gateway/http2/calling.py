"""A connection of HTTP/2 to a replica, on which many requests are under way at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from router.gateway.http2.carrying import Carried
from router.gateway.upstream import ask_whether_alive, is_unheard
from router.runtime.http2.client import Client

if TYPE_CHECKING:
    from router.gateway.http2.target import Http2Target


class Calling(Client):
    """One connection."""

    __slots__ = ("target",)

    def __init__(self, target: Http2Target) -> None:
        super().__init__()
        self.target = target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.target.entered(self)
        ask_whether_alive(transport, self.target.upstreams)
        super().connection_made(transport)

    def open(self) -> Carried:
        """A place for one exchange."""
        return Carried(self.target, self)

    def is_unheard(self) -> bool:
        """Whether what was sent is sent again and again, and nobody has acknowledged anything for seconds."""
        return is_unheard(self.transport)

    def leave(self) -> None:
        """Nothing more to do; closed once nothing is left."""
        self.target.sessions.discard(self)
        super().leave()

    def close(self) -> None:
        """End it now, whatever it was doing."""
        self.target.sessions.discard(self)
        super().close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.target.sessions.discard(self)
        self.target.left(self)
        if isinstance(exc, TimeoutError):  # nobody answered the kernel's questions
            self.target.standing.unreachable()
        super().connection_lost(exc)
