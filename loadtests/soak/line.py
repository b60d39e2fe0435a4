"""One TCP connection to a gateway, in clear text or under TLS: when it began, how it ended, and what it was used for."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from typing import Self, cast

_LAST_RECEIVED = struct.Struct("=52xI")
"""Of the kernel's `tcp_info`: milliseconds since the last data came (`tcpi_last_data_recv`)."""
SERVER = "localhost"
"""The name that a certificate is held against."""


class Broken(Exception):
    """The connection ended where it must not. `port`: our end's, where there never was one to ask."""

    def __init__(self, text: str, port: int = 0) -> None:
        super().__init__(text)
        self.port = port


class Wrong(Exception):
    """An answer that is not the one to the request."""


class Line(asyncio.Protocol):
    """Reading is for those who know what is spoken: `came` gets the bytes, `changed` is told of the end."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called
        self.port = 0
        """Our end's: by it the gateway's side is found."""
        self.opening = self.opened = time.monotonic()
        """When it was asked for, and when it was there as far as we know, its handshake included."""
        self.received = 0
        self.used = self.opened
        """When the newest answer ended."""
        self.ended = ""
        """How the other end has ended it; empty while it has not."""
        self.tls: ssl.SSLObject | None = None
        self._room = asyncio.Event()
        self._room.set()

    @classmethod
    async def to(cls, host: str, port: int, tls: ssl.SSLContext | None = None) -> Self:
        """Raises `Broken` when it is refused, or when the handshake fails."""
        loop = asyncio.get_running_loop()
        own = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        number, made = 0, cls()
        try:
            await loop.sock_connect(own, (host, port))
            number = own.getsockname()[1]
            name = None if tls is None else SERVER
            await loop.create_connection(lambda: made, sock=own, ssl=tls, server_hostname=name)
        except BaseException as error:
            own.close()
            if isinstance(error, OSError):  # TLS's own are some too
                raise Broken(f"no connection: {error!r}", number) from None
            raise
        return made

    def came(self, data: bytes) -> None:
        """Bytes of the other end."""
        raise NotImplementedError

    def changed(self) -> None:
        """Something came, or the end."""
        raise NotImplementedError

    # asyncio's ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self.transport = cast("asyncio.Transport", transport)
        self.port = transport.get_extra_info("sockname")[1]
        self.opened = self.used = time.monotonic()
        self.tls = transport.get_extra_info("ssl_object")

    def data_received(self, data: bytes) -> None:
        """Bytes of answers."""
        self.received += len(data)
        self.came(data)
        self.changed()

    def eof_received(self) -> bool:
        """The gateway sends nothing more."""
        self.ended = self.ended or "ended"
        self.changed()
        return self.tls is None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.ended = f"broke: {exc!r}" if exc is not None else self.ended or "closed"
        self.changed()
        self._room.set()

    def pause_writing(self) -> None:
        """The gateway reads slower than we send."""
        self._room.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._room.set()

    @property
    def idle_seconds(self) -> float:
        """Since the other end's last bytes came, by the kernel: on a busy machine we read them much later."""
        own = self.transport.get_extra_info("socket")
        try:
            told = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_RECEIVED.size)
        except OSError:  # it is gone already
            return time.monotonic() - self.used
        return float(_LAST_RECEIVED.unpack(told)[0]) / 1000

    # For callers ----------------------------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Write, and wait for room. What breaks is told by reading: an answer may have come before."""
        if not self.transport.is_closing():
            self.transport.write(data)
        await self._room.wait()

    def close(self) -> None:
        """In order."""
        self.transport.close()

    def abort(self) -> None:
        """At once."""
        self.transport.abort()
