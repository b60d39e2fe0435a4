"""A replica that speaks HTTP/2 by h2, which checks every frame it gets; a script says what becomes of each request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

Fields = list[tuple[bytes, bytes]]


@dataclass
class Asked:
    """One request."""

    stream: int
    fields: Fields
    body: bytes = b""
    reset: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def field(self, name: bytes) -> bytes | None:
        """The only value of a field; fails if there are several."""
        found = [value for key, value in self.fields if key == name]
        assert len(found) < 2, f"{name!r} more than once"
        return found[0] if found else None


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, replica: Http2Replica) -> None:
        config = h2.config.H2Configuration(
            client_side=False, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        if replica.streams:
            self.h2.local_settings = Settings(
                client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: replica.streams}
            )
        self.replica = replica
        self.asked: dict[int, Asked] = {}
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.replica.connections.append(self)
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                fields = [(bytes(name), bytes(value)) for name, value in event.headers]
                asked = self.asked[event.stream_id] = Asked(event.stream_id, fields)
                self.replica.asked.append(asked)
                self.replica.run(self, asked)
            elif isinstance(event, h2.events.DataReceived):
                self.asked[event.stream_id].body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self.asked[event.stream_id].ended.set()
            elif isinstance(event, h2.events.StreamReset):
                self.asked[event.stream_id].reset = event.error_code
                self.asked[event.stream_id].ended.set()
        self.flush()

    def flush(self) -> None:
        """What h2 has to say."""
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def head(self, asked: Asked, fields: Fields, *, ended: bool = False) -> None:
        """Fields of an answer, or behind it."""
        self.h2.send_headers(asked.stream, fields, end_stream=ended)
        self.flush()

    def data(self, asked: Asked, body: bytes, *, ended: bool = False) -> None:
        """Of its body."""
        self.h2.send_data(asked.stream, body, end_stream=ended)
        self.flush()

    def reset(self, asked: Asked, code: int) -> None:
        """End the stream."""
        self.h2.reset_stream(asked.stream, code)
        self.flush()

    def goaway(self, last: int) -> None:
        """Say that nothing behind `last` will be looked at; h2 itself would take that for the end of everything."""
        self.transport.write(GoAwayFrame(0, last_stream_id=last).serialize())


Script = Callable[[Connection, Asked], Awaitable[None]]


async def echo(connection: Connection, asked: Asked) -> None:
    """Answer with the body it got."""
    await asked.ended.wait()
    connection.head(asked, [(b":status", b"200"), (b"content-type", b"text/plain")])
    connection.data(asked, asked.body, ended=True)


@dataclass
class Http2Replica:
    """One listening replica."""

    script: Script = echo
    port: int = 0
    streams: int = 0
    """At once on a connection; 0: says nothing."""
    asked: list[Asked] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def run(self, connection: Connection, asked: Asked) -> None:
        """The script, for one request."""

        async def one() -> None:
            await self.script(connection, asked)

        task = asyncio.get_running_loop().create_task(one())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every script; what broke in one is raised."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def http2_replica(script: Script = echo, streams: int = 0) -> AsyncIterator[Http2Replica]:
    """A replica for as long as the block runs."""
    replica = Http2Replica(script, streams=streams)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(replica), "127.0.0.1", 0)
    replica.port = server.sockets[0].getsockname()[1]
    try:
        yield replica
    finally:
        server.close()
        for connection in replica.connections:
            connection.transport.abort()
        await replica.close()
