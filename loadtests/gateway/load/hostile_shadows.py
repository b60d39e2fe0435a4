"""Models that do harm, a port each: one answers late, one resets what it is sent, one never reads."""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import cast

import uvloop

from loadtests.gateway.load.descriptors import raise_limit
from loadtests.waiting import HOST

SLOW_SECONDS = 30.0
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Slow(asyncio.Protocol):
    """Answers each request, which comes in one piece, after `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class has no base

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 -- the interface's
        asyncio.get_running_loop().call_later(self._seconds, self._answer)

    def _answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_ANSWER)


class Resetting(asyncio.Protocol):
    """Resets at the first byte."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 -- the interface's
        self.transport.abort()


class Deaf(asyncio.Protocol):
    """Takes the connection and never reads."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).pause_reading()


async def _serve(ports: dict[int, Callable[[], asyncio.Protocol]]) -> None:
    loop = asyncio.get_running_loop()
    for port, made in ports.items():
        await loop.create_server(made, HOST, port, backlog=4096)
    await loop.create_future()


def main() -> int:
    """`--slow PORT --slow-seconds S --resetting PORT --deaf PORT`, those that are wanted; runs until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("slow", "resetting", "deaf"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--slow-seconds", type=float, default=SLOW_SECONDS)
    options = parser.parse_args()
    raise_limit()
    kinds: tuple[tuple[int | None, Callable[[], asyncio.Protocol]], ...] = (
        (options.slow, partial(Slow, options.slow_seconds)),
        (options.resetting, Resetting),
        (options.deaf, Deaf),
    )
    uvloop.run(_serve({port: made for port, made in kinds if port is not None}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
