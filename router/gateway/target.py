"""One replica as a worker sees it: its idle connections, its load on the board, its standing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, SupportsIndex, cast

from router.gateway.calls import LONGEST, MOST, Answer
from router.gateway.connections import SHORTAGES, spare
from router.gateway.reaching import reach
from router.gateway.standing import Standing
from router.gateway.upstream import Upstream
from router.policy.retrying import Failure

if TYPE_CHECKING:
    from router.gateway.ends import Far, Speaker
    from router.gateway.exchange import Exchange
    from router.gateway.replicas import Replicas
    from router.gateway.state import State
    from router.gateway.turns import Turns

_SPARINGS: Final = 100
_SPARING_SECONDS: Final = 0.01
"""For the loop to close what it was told to, and for others to be answered."""
CONNECT_SECONDS: Final = 3.0
"""A replica that is gone without a word (a lost machine) costs a request no more than this."""


class Target:
    """One replica as this worker sees it: its idle connections, its load on the board, its standing."""

    __slots__ = (
        "_at", "_connecting", "_state", "address", "answers", "bad", "cell", "column", "connections", "draining", "good", "id",
        "idle", "in_flight", "present", "ready_ns", "replicas", "standing", "steps", "zone",
    )  # fmt: skip

    def __init__(
        self, state: State, replicas: Replicas, replica_id: str, address: tuple[str, int], column: int
    ) -> None:
        self._state = state
        self.replicas = replicas
        self.answers = state.answers
        self.id = replica_id
        self.address = address
        board = state.board
        self.column = column
        self.cell = board.row + column
        self._at: SupportsIndex = self.cell
        """The same as the object that it is to the table: a compiled number would become one for each request."""
        self.steps = board.steps
        """To the cells of other workers."""
        self.in_flight = 0
        """Of this worker; the board knows the sum."""
        self.idle: list[Far] = []
        self.connections: set[Upstream] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self.draining = False
        self.present = True
        """Whether the newest snapshot still has it."""
        self.good = 0
        self.bad = 0
        """Answers since the start that were good, and that were its fault."""
        self.ready_ns = 0
        """When the backend saw it become ready (Unix); 0 = nobody says."""
        self.zone = ""
        self.standing = Standing(replicas, self)

    def understand(self, raw: bytes) -> Answer:
        """The answer that the head `raw` begins. Raises `ValueError`."""
        answer = Answer(raw)
        if len(raw) <= LONGEST:
            if len(self.answers) >= MOST:
                self.answers.clear()
            self.answers[raw] = answer
        return answer

    def load(self) -> int:
        """Requests in flight from all workers."""
        if not self.steps:
            return self.in_flight
        cells, own = self._state.board.cells, self.cell
        return self.in_flight + sum([cells[own + step] for step in self.steps])

    def claim(self, concurrency: int) -> bool:
        """Take a place if there is one. Stores first and looks then, so that two workers never both take the last."""
        cells, at = self._state.board.cells, self._at
        count = cells[at] + 1
        cells[at] = count
        self.in_flight += 1
        if self.steps:
            own = self.cell
            for step in self.steps:
                count += cells[own + step]
        if count > concurrency:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Give a place back."""
        self.in_flight -= 1
        self._state.board.cells[self._at] -= 1
        if not self.in_flight and not self.present:
            self.replicas.retire(self)

    def take(self) -> Far | None:
        """The connection that was used last, if one is idle."""
        idle = self.idle
        return idle.pop() if idle else None

    def give_back(self, connection: Far) -> None:
        """Keep a connection for the next exchange."""
        if self.present and not self.draining and not connection.transport.is_closing():
            self.idle.append(connection)
        else:
            connection.close()

    @property
    def upstreams(self) -> int:
        """Connections to replicas, of the whole worker."""
        return self._state.upstreams

    @property
    def turns(self) -> Turns:
        """Of the whole worker, for what takes long."""
        return self._state.turns

    def joined(self, connection: Upstream) -> None:
        """A connection is there."""
        self.connections.add(connection)
        self._state.upstreams += 1

    def lost(self, connection: Upstream) -> None:
        """A connection is closed, and its descriptor with it."""
        self.forget(connection)
        self._state.upstreams -= 1

    def forget(self, connection: Upstream) -> None:
        """A connection is used no more."""
        self.connections.discard(connection)
        if connection.exchange is None and connection in self.idle:
            self.idle.remove(connection)

    def connect(self, exchange: Exchange) -> None:
        """Open a connection for `exchange`, which hears of it by `connected` or `upstream_failed`."""
        task = asyncio.get_running_loop().create_task(self._connect(exchange), name=f"connect {self.id}")
        exchange.connecting = task
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, exchange: Exchange) -> None:
        connection = cast("Upstream | None", await self._opened())
        if connection is None:
            self.standing.unreachable()
            if exchange.connecting is asyncio.current_task():
                exchange.connecting = None
                exchange.upstream_failed(Failure.REFUSED)
            return
        self.standing.reached()
        if exchange.connecting is asyncio.current_task():
            exchange.connecting = None
            exchange.connected(connection)
        else:
            self.give_back(connection)

    def keep(self, task: asyncio.Task[None]) -> None:
        """What `close` has to end."""
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def knock(self) -> bool:
        """Whether it takes a connection, which is kept for the next exchange."""
        connection = cast("Upstream | None", await self._opened())
        if connection is None:
            return False
        self.give_back(connection)
        return True

    async def _opened(self) -> Speaker | None:
        """What other endpoints leave lying idle must not cost this one its requests."""
        state = self._state
        for _ in range(_SPARINGS):
            if state.upstreams > state.doors.most - state.doors.room:
                spare(state)
            if state.upstreams < state.doors.most:
                state.upstreams += 1
                try:
                    return await self._reached()
                except OSError as error:
                    if error.errno not in SHORTAGES:
                        return None
                    spare(state)
                finally:
                    state.upstreams -= 1
            await asyncio.sleep(_SPARING_SECONDS)
        return None

    async def _reached(self) -> Speaker | None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await reach(self._state, self, "http/1.1", lambda: Upstream(self))
        except TimeoutError:
            return None

    def drop_idle(self) -> None:
        """Close the connections that carry nothing."""
        for connection in self.idle[:]:
            connection.close()
        self.idle.clear()

    def close(self) -> None:
        """Close everything."""
        self.standing.close()
        for task in list(self._connecting):
            task.cancel()
        for connection in list(self.connections):
            connection.close()
        self.idle.clear()
