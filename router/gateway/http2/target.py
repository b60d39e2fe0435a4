"""A replica that speaks HTTP/2: few connections, each with many requests under way."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from router.gateway.http2.calling import Calling
from router.gateway.reaching import reach
from router.gateway.target import CONNECT_SECONDS, Target
from router.policy.retrying import Failure
from router.runtime.telemetry import Limited

if TYPE_CHECKING:
    from router.gateway.ends import Far, Speaker
    from router.gateway.exchange import Exchange
    from router.gateway.replicas import Replicas
    from router.gateway.state import State

_SAY = Limited(logging.getLogger(__name__))


class Http2Target(Target):
    """See the module."""

    __slots__ = ("_opening", "_waiting", "calling", "sessions")

    def __init__(
        self, state: State, replicas: Replicas, replica_id: str, address: tuple[str, int], column: int
    ) -> None:
        super().__init__(state, replicas, replica_id, address, column)
        self.sessions: set[Calling] = set()
        """Connections that take requests."""
        self.calling: set[Calling] = set()
        """All that there are."""
        self._waiting: list[Exchange] = []
        """Exchanges that get a place on the connection that is being opened."""
        self._opening: asyncio.Task[None] | None = None

    def take(self) -> Far | None:
        """A place on a connection that has room."""
        for session in self.sessions:
            if session.has_room():
                return session.open()
        return None

    def connect(self, exchange: Exchange) -> None:
        """A place for `exchange`, which hears of it by `connected` or `upstream_failed`: many wait for one connection."""
        place = self.take()
        if place is not None:
            exchange.connected(place)
            return
        if self._opening is None:
            loop = asyncio.get_running_loop()
            self._opening = loop.create_task(self._open(), name=f"connect {self.id}")
            self._connecting.add(self._opening)
            self._opening.add_done_callback(self._connecting.discard)
        exchange.connecting = self._opening
        self._waiting.append(exchange)

    async def _open(self) -> None:
        try:
            session = await self._greeted()
        finally:
            task, self._opening = self._opening, None
            waiting, self._waiting = self._waiting, []
        if session is None:
            self.standing.unreachable()
        else:
            self.standing.reached()
        for exchange in waiting:
            if exchange.connecting is not task:
                continue  # it has given up meanwhile
            exchange.connecting = None
            place = self.take()
            if session is None:
                exchange.upstream_failed(Failure.REFUSED)
            elif place is None:
                self.connect(exchange)
            else:
                exchange.connected(place)
        if session is not None and not self._wanted() and not session.streams:
            session.leave()

    def _wanted(self) -> bool:
        return self.present and not self.draining

    async def _greeted(self) -> Calling | None:
        """A connection whose other end has shown that it speaks HTTP/2 and how many requests it takes at once."""
        session = cast("Calling | None", await self._opened())
        if session is not None and not session.speaks:
            _SAY.warning("http2", "a replica does not speak HTTP/2, as its deployment says it does", replica=self.id)
            session.close()
            return None
        if session is not None:
            self.sessions.add(session)
        return session

    async def _reached(self) -> Speaker | None:
        session = Calling(self)
        greeted = False
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await reach(self._state, self, "h2", lambda: session)
                await session.hello.wait()
            greeted = True
        except TimeoutError:
            return None
        finally:
            if not greeted:
                session.close()
        return session

    def entered(self, session: Calling) -> None:
        """A connection is there."""
        self.calling.add(session)
        self._state.upstreams += 1

    def left(self, session: Calling) -> None:
        """A connection is closed, and its descriptor with it."""
        self.calling.discard(session)
        self._state.upstreams -= 1

    async def knock(self) -> bool:
        """Whether it takes a connection, which is kept for the next exchange."""
        return await self._greeted() is not None

    def release(self) -> None:
        """Give a place back."""
        super().release()
        if not self._wanted():
            self.drop_idle()

    def give_back(self, connection: Far) -> None:
        """Nothing: places are given back with their streams."""

    def drop_idle(self) -> None:
        """Close the connections that carry nothing; the others end with their last request."""
        for session in list(self.sessions):
            session.leave()

    def close(self) -> None:
        """Close everything."""
        super().close()
        for session in list(self.calling):
            session.close()
