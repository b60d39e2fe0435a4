"""A model server for pods that come to harm, standard library only: `… PORT`, on every address.

It keeps connections, says which pod answered after the `delay` in seconds that a body may ask for, and ends as servers should:
at SIGTERM it listens no more, closes what is idle and finishes what it has begun.
"""

import asyncio
import json
import os
import signal
import sys


class Server:
    """Whoever is connected, and whether it is time to end."""

    def __init__(self) -> None:
        self.idle: set[asyncio.StreamWriter] = set()
        self.busy = 0
        self.ending = asyncio.Event()
        self.quiet = asyncio.Event()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests, one after the other."""
        try:
            while not self.ending.is_set():
                self.idle.add(writer)
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                self.idle.discard(writer)
                length = head.partition("content-length:")[2].partition("\r\n")[0]
                self.busy += 1
                try:
                    await self.answer(writer, await reader.readexactly(int(length or 0)))
                finally:
                    self.busy -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the caller left, or was closed while it was idle
        finally:
            self.idle.discard(writer)
            writer.close()
            if self.ending.is_set() and not self.busy:
                self.quiet.set()

    async def answer(self, writer: asyncio.StreamWriter, body: bytes) -> None:
        """Answer one request."""
        await asyncio.sleep(json.loads(body or b"{}").get("delay", 0))
        text = json.dumps({"pod": os.environ.get("HOSTNAME")}).encode()
        last = b"connection: close\r\n" if self.ending.is_set() else b""
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b\r\n%b" % (len(text), last, text))
        await writer.drain()

    async def run(self, port: int) -> None:
        """Serve until SIGTERM, and until what was begun then is finished."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.ending.set)
        server = await asyncio.start_server(self.connected, "0.0.0.0", port)
        await self.ending.wait()
        server.close()
        for writer in self.idle:
            writer.close()
        if self.busy:
            await self.quiet.wait()


if __name__ == "__main__":
    asyncio.run(Server().run(int(sys.argv[1])))
