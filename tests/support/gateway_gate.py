"""A replica that answers only as often as it is told."""

from __future__ import annotations

import asyncio

from tests.support.gateway_upstream import Request


class Gate:
    """A replica that answers only as often as it is told, and counts how many are inside."""

    def __init__(self) -> None:
        self.passes = asyncio.Semaphore(0)
        self.inside = 0
        self.most = 0

    async def script(self, request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.passes.acquire()
        finally:
            self.inside -= 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.body), request.body))
