"""A model that reads every body to its end before it answers: what it takes is little, and the same behind every proxy."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from typing import cast

import uvloop

from loadtests.gateway.load.descriptors import raise_limit
from loadtests.waiting import HOST

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 23\r\n\r\n{"prediction":[0.12,1]}'
_BUFFER = bytearray(1 << 16)
"""One for all connections: nobody looks at a body. No larger, as the kernel does not leave off amid a read, whoever waits for the processor."""
_REFUSAL = b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Model(asyncio.BufferedProtocol):
    """One connection."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.head = b""
        self.left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class has no base

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 -- the interface's
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        if self.left:
            self._took(nbytes)
            return
        self.head += _BUFFER[:nbytes]
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(self.head[: end + 2])
        if found is None:
            self.transport.write(_REFUSAL)
            self.transport.close()
            return
        body, self.head = len(self.head) - end - 4, b""
        self.left = int(found[1])
        self._took(body)

    def _took(self, count: int) -> None:
        self.left -= count
        if not self.left:
            self.transport.write(_ANSWER)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Model, HOST, port, backlog=4096)
    async with server:
        await server.serve_forever()


def main() -> int:
    """`--port N`; runs until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    raise_limit()
    uvloop.run(_serve(port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
