"""Both ends of very many open streams, each light enough that one process holds as many as it has descriptors.

    python -m loadtests.gateway.stream_ends source PORT            a model of endless event streams
    python -m loadtests.gateway.stream_ends callers PORT KEY       callers of the gateway at PORT

Both are told what to do by lines on their standard input and answer each with one line:

    source:   `event` sends one event on every stream; answers how many there are
    callers:  `stream N ADDRESS`, `idle N ADDRESS` opens N connections from a loopback address, with an endless stream or with one
              short answer on each; answers once all have it. `events N` answers once N more events have come in all.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
import sys
from typing import cast

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"data: {}\n\n"
BEAT = b"8\r\n: beat\n\n\r\n"
"""A comment: sent on every stream now and then, because one that is silent for long is taken for dead."""
_BEAT_SECONDS = 15.0
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_NO_PORT_YET = 24
"""IP_BIND_ADDRESS_NO_PORT: the kernel looks for a port when it knows where to, which is not slower with each."""
_NO_PORT_YET = 24
"""IP_BIND_ADDRESS_NO_PORT: the kernel looks for a port once it knows where to."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: callers leave with a reset. A gateway may not take anything else for leaving, and would wait for the next event."""
_AT_ONCE = 100
"""Connections under way while many are opened."""


class Stream(asyncio.Protocol):
    """The model's end of one connection: `/idle` is answered shortly, anything else never ends."""

    __slots__ = ("_open", "_transport")

    def __init__(self, streams: set[Stream]) -> None:
        self._open = streams

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET /idle "):
            self._transport.write(SHORT)
        else:
            self._open.add(self)
            self._transport.write(HEAD + CHUNK)

    def say(self, chunk: bytes) -> None:
        """One more."""
        self._transport.write(chunk)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        self._open.discard(self)


class Count:
    """Events that came, and whoever waits for some."""

    def __init__(self) -> None:
        self.events = self.lost = 0
        self.wanted = 0
        self.enough = asyncio.Event()

    def add(self, events: int) -> None:
        """Some more."""
        self.events += events
        if self.events >= self.wanted:
            self.enough.set()


class Reader(asyncio.Protocol):
    """The caller's end of one."""

    __slots__ = ("_count", "_request", "_transport", "begun")

    def __init__(self, count: Count, request: bytes, begun: asyncio.Future[None]) -> None:
        self._count = count
        self._request = request
        self.begun: asyncio.Future[None] | None = begun

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        good = data.startswith(b"HTTP/1.1 200 ")
        self._begin(None if good else RuntimeError(data[:500].decode("latin-1")))
        self._count.add(data.count(EVENT))

    def connection_lost(self, exc: Exception | None) -> None:
        self._count.lost += 1
        self._begin(exc or ConnectionError("the gateway ended the connection"))

    def _begin(self, error: Exception | None) -> None:
        begun, self.begun = self.begun, None
        if begun is None or begun.done():
            return
        if error is None:
            begun.set_result(None)
        else:
            begun.set_exception(error)


def _told(line: str) -> None:
    print(line, flush=True)


async def _lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def _source(port: int) -> None:
    streams: set[Stream] = set()
    server = await asyncio.get_running_loop().create_server(lambda: Stream(streams), "127.0.0.1", port, backlog=4096)
    async with server:
        beats = asyncio.create_task(_beat(streams), name="beats")
        _told("listening")
        async for _ in await _lines():
            for stream in list(streams):
                stream.say(CHUNK)
            _told(str(len(streams)))
        beats.cancel()


async def _beat(streams: set[Stream]) -> None:
    while True:
        await asyncio.sleep(_BEAT_SECONDS)
        for stream in list(streams):
            stream.say(BEAT)


async def _callers(port: int, key: str) -> None:
    count = Count()
    _told("there")
    async for line in await _lines():
        what, number, *address = line.decode().split()
        if what == "events":
            count.wanted = int(number)
            count.enough.clear()
            count.add(0)
            await count.enough.wait()
            count.events -= count.wanted
        else:
            await _open(count, port, key, (what, int(number), address[0]))
        _told(f"{count.lost} lost")


async def _open(count: Count, port: int, key: str, words: tuple[str, int, str]) -> None:
    what, number, address = words
    request = f"GET /endpoints/bench/{what} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n".encode()

    async def some(many: int) -> None:
        for _ in range(many):
            await _one(count, request, address, port)

    async with asyncio.TaskGroup() as group:
        for place in range(_AT_ONCE):
            group.create_task(some(number * (place + 1) // _AT_ONCE - number * place // _AT_ONCE))
    if what == "stream":
        count.add(-number)  # the first event of each came with its head


async def _one(count: Count, request: bytes, address: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    begun: asyncio.Future[None] = loop.create_future()
    end = socket.socket()
    end.setblocking(False)
    end.setsockopt(socket.IPPROTO_IP, _NO_PORT_YET, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.bind((address, 0))
    await loop.sock_connect(end, ("127.0.0.1", port))
    await loop.create_connection(lambda: Reader(count, request, begun), sock=end)
    await begun


def main(words: list[str]) -> None:
    """Run until the standard input ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    what, port, *rest = words
    uvloop.run(_source(int(port)) if what == "source" else _callers(int(port), *rest))


if __name__ == "__main__":
    main(sys.argv[1:])
