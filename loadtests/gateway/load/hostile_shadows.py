"""Candidates that do harm, a port each: one answers after 30 seconds, one resets what it is sent, one never reads."""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from typing import cast

import uvloop

from loadtests.gateway.load.descriptors import raise_limit
from loadtests.waiting import HOST

SLOW_SECONDS = 30.0
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Slow(asyncio.Protocol):
    """Answers each request, which comes in one piece, after 30 seconds."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class has no base

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 -- the interface's
        asyncio.get_running_loop().call_later(SLOW_SECONDS, self._answer)

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
    """`--slow PORT --resetting PORT --deaf PORT`; runs until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("slow", "resetting", "deaf"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    raise_limit()
    uvloop.run(_serve({options.slow: Slow, options.resetting: Resetting, options.deaf: Deaf}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
