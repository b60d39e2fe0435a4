"""The live path of one worker without sockets: bytes in on the caller's side, bytes out on the replica's, in one thread.

Everything between is the real thing (connections, exchanges, lane, board, heads); only the two ends are made here. So a
conversation takes well under a millisecond, which fuzzing and every slicing of every case need.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import h11

from router.contract.events import DeploymentReplicas, EndpointReplicas, EndpointRevision, Phase, Replica, ReplicaState
from router.gateway.board import Board
from router.gateway.connections import Connections
from router.gateway.doorbell import Doorbell
from router.gateway.downstream import Downstream
from router.gateway.http2.serving import Serving
from router.gateway.routes import Endpoint
from router.gateway.state import State
from router.gateway.target import Target
from router.gateway.tee import Tee
from router.gateway.timers import Wheel
from router.gateway.upstream import Upstream
from router.policy.matching import Table
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.settings import DataLayout, GatewaySettings
from tests.support.gateway_rig import KEY, deployment

if TYPE_CHECKING:
    from router.gateway.exchange import Exchange

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Lingering:
    """As much of a socket as is asked of it: to end with a reset."""

    resets = False

    def setsockopt(self, level: int, name: int, value: bytes) -> None:
        self.resets = (level, name) == (socket.SOL_SOCKET, socket.SO_LINGER) and value == struct.pack("ii", 1, 0)


class Wire(asyncio.Transport):
    """A transport whose other end is `peer`, called with what is written; `None` for the end."""

    def __init__(self, protocol: asyncio.Protocol, peer: Callable[[bytes | None], None]) -> None:
        self.socket = Lingering()
        super().__init__({"socket": self.socket})
        self._protocol = protocol
        self._peer = peer
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert data, "an empty write"
        if not self._closing:
            self._peer(bytes(data))

    def is_closing(self) -> bool:
        return self._closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._peer(None)

    def close(self) -> None:
        self.lose()
        self._peer(None)

    abort = close

    def lose(self) -> None:
        """The connection is gone."""
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def pause_reading(self) -> None:
        """What is fed is fed at once; a conversation here is never long."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""


@dataclass
class Conversation:
    """What one caller's bytes led to."""

    requests: list[bytes] = field(default_factory=list)
    """What was written to replicas, per request as h11 cuts it."""
    answers: bytes = b""
    """What the caller got."""
    ended: bool = False
    """Whether the gateway has ended the connection."""
    broken: bool = False
    """Whether it did so by a reset."""
    connections: int = 0
    """To replicas."""


class MemoryTarget(Target):
    """A replica whose connections are wires."""

    __slots__ = ("now", "reply")

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.now = Conversation()
        self.reply: Callable[[Upstream, bytes], None] = answer_ok

    def connect(self, exchange: Exchange) -> None:
        connection = Upstream(self)
        unread = h11.Connection(h11.SERVER)
        raw = b""

        def peer(data: bytes | None) -> None:
            nonlocal unread, raw
            if data is None:
                return
            unread.receive_data(data)
            raw += data
            while not isinstance(event := unread.next_event(), type):
                if isinstance(event, h11.EndOfMessage):
                    assert unread.trailing_data == (b"", False), "bytes behind a request"
                    self.now.requests.append(raw)
                    request, raw, unread = raw, b"", h11.Connection(h11.SERVER)
                    asyncio.get_running_loop().call_soon(self.reply, connection, request)
                    return

        self.now.connections += 1
        connection.connection_made(Wire(cast("asyncio.Protocol", connection), peer))
        exchange.connected(connection)

    async def knock(self) -> bool:
        return True


def answer_ok(connection: Upstream, request: bytes) -> None:
    """200, without a body."""
    feed(connection, [OK])


def feed(connection: Upstream, pieces: Sequence[bytes], *, closes: bool = False) -> None:
    """Answer with these bytes, in these pieces, and perhaps end the connection."""
    for piece in pieces:
        if connection.transport.is_closing():
            return
        connection.data_received(piece)
    transport = connection.transport
    assert isinstance(transport, Wire)
    if closes:
        transport.lose()


class OpenEndpoint(Endpoint):
    """Lets everybody in, so that a request which is understood is one that passes."""

    __slots__ = ()

    def opens(self, key: bytes | None) -> bool:
        return True


class Everywhere(Table[Endpoint]):
    """Every address is the endpoint's."""

    __slots__ = ()

    def find(self, target: bytes, host: bytes) -> tuple[Endpoint | None, bytes]:
        return self.names[b"demo"], target


class MemoryGateway:
    """A worker's state with one endpoint and one replica."""

    def __init__(self, state: State, target: MemoryTarget) -> None:
        self.state = state
        self.target = target

    async def converse(
        self, pieces: Sequence[bytes], *, shut: bool, reply: Callable[[Upstream, bytes], None] = answer_ok
    ) -> Conversation:
        """One caller's connection, from its first byte until nothing moves any more."""
        now = Conversation()
        self.target.drop_idle()
        self.target.standing.trust_again()
        self.target.replicas.refresh()
        self.target.now, self.target.reply = now, reply
        down = Downstream(self.state)

        def peer(data: bytes | None) -> None:
            if data is None:
                now.ended = True
                now.broken = wire.socket.resets
            else:
                assert not now.ended, "bytes behind the end"
                now.answers += data

        wire = Wire(cast("asyncio.Protocol", down), peer)
        down.connection_made(wire)
        for piece in pieces:
            if wire.is_closing():
                break
            down.data_received(piece)
            await asyncio.sleep(0)
        await self._settle(down)
        if shut and not wire.is_closing():
            down.eof_received()
            await self._settle(down)
        wire.lose()
        await asyncio.sleep(0)
        assert not self.target.in_flight, "a place that has not come back"
        return now

    async def converse_http2(self, pieces: Sequence[bytes]) -> Conversation:
        """The same of a caller that speaks HTTP/2; its preface is the first of the pieces."""
        now = Conversation()
        self.target.drop_idle()
        self.target.standing.trust_again()
        self.target.replicas.refresh()
        self.target.now, self.target.reply = now, answer_ok
        serving = Serving(self.state)

        def peer(data: bytes | None) -> None:
            if data is None:
                now.ended = True
            else:
                assert not now.ended, "bytes behind the end"
                now.answers += data

        wire = Wire(cast("asyncio.Protocol", serving), peer)
        serving.connection_made(wire)
        for piece in pieces:
            if not wire.is_closing():
                serving.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(4):  # an exchange takes one turn or two
            await asyncio.sleep(0)
        wire.lose()
        await asyncio.sleep(0)
        assert not serving.streams, "a stream that has not ended"
        assert not self.target.in_flight, "a place that has not come back"
        return now

    @staticmethod
    async def _settle(down: Downstream) -> None:
        """Until nothing has moved for some turns of the loop: each step of an exchange takes one or two."""

        def where() -> tuple[object, ...]:
            return down.exchange, down.intake.mode, len(down.intake.backlog), down.exchange and down.exchange.stage

        still = 0
        while still < 4:
            before = where()
            await asyncio.sleep(0)
            still = still + 1 if where() == before else 0

    def forget(self) -> None:
        """Judge every head anew, so that nothing depends on what came before."""
        for calls in (self.state.calls, self.state.http2_calls):
            calls.clear()
            calls._lines.clear()
        self.state.answers.clear()


@contextlib.asynccontextmanager
async def memory_gateway(folder: Path, *, open_to_all: bool = False) -> AsyncIterator[MemoryGateway]:
    """A gateway in memory; `open_to_all` lets every request that is understood through, whatever its address and key."""
    data = DataLayout(folder)
    data.create()
    settings = GatewaySettings(data)
    loop = asyncio.get_running_loop()
    log = EmbeddedLog(data.log)
    board = Board(data.board, 0, 1)
    state = State(
        settings=settings,
        log=log,
        loop=loop,
        board=board,
        wheel=Wheel(loop),
        doorbell=Doorbell(data.run, 0, lambda: None),
        doors=Connections(1000, 0),
        tee=Tee(log, data.mirror_socket, 0),
        chance=random.Random(1).random,
        request_id_prefix=b"00000000-0000-4000-8000-",
        report_now=lambda _: None,
        report_soon=lambda _: None,
    )
    state.ready = True
    endpoint = (OpenEndpoint if open_to_all else Endpoint)(state, "demo")
    document = {"name": "demo", "auth_mode": "key", "traffic": {"blue": 100}}
    blue = {"name": "blue", "endpoint_name": "demo", **deployment(tidegate={"model_errors": "pass"})}
    keys = (hashlib.sha256(KEY.encode()).hexdigest(),)
    endpoint.apply_revision(EndpointRevision("demo", 1, 1, document, {"blue": blue}, keys))
    ready = Replica("r", "127.0.0.1", 1, ReplicaState.READY, "t")
    sets = {"blue": DeploymentReplicas(1, 1, Phase.READY, replicas=(ready,))}
    endpoint.apply_replicas(EndpointReplicas("demo", 1, 1, 1, sets))
    replicas = endpoint.lanes["blue"].replicas
    target = MemoryTarget(state, replicas, "r", ("127.0.0.1", 1), replicas.ready[0].column)
    replicas.ready, replicas.usable = [target], [target]
    kind: type[Table[Endpoint]] = Everywhere if open_to_all else Table
    state.table = kind({b"demo": endpoint}, {b"demo.localhost": endpoint})
    try:
        yield MemoryGateway(state, target)
    finally:
        endpoint.abort()
        state.wheel.close()
        state.doorbell.close()
        await asyncio.sleep(0)
        board.close()
        await log.close()
