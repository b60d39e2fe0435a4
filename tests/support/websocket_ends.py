"""Both ends of a WebSocket through the gateway, as a common library speaks it, and a raw caller for what none would send."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve

from tests.support.gateway_rig import KEY, PATIENCE
from tests.support.gateway_upstream import Caller, caller

Handler = Callable[[ServerConnection], Awaitable[None]]
NONCE = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""To that key (RFC 6455, 1.3)."""


async def echo(connection: ServerConnection) -> None:
    """Every message back."""
    async for message in connection:
        await connection.send(message)


@dataclass
class SocketReplica:
    """One replica that speaks WebSocket."""

    server: Server
    connections: list[ServerConnection] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Where it listens."""
        address: tuple[str, int] = next(iter(self.server.sockets)).getsockname()
        return address[1]


@contextlib.asynccontextmanager
async def socket_replica(handler: Handler = echo, **options: Any) -> AsyncIterator[SocketReplica]:
    """A replica for as long as the block runs."""
    found: list[ServerConnection] = []

    async def noted(connection: ServerConnection) -> None:
        found.append(connection)
        await handler(connection)

    settings = {"ping_interval": None, "max_size": 1 << 26, "close_timeout": 2, **options}
    async with serve(noted, "127.0.0.1", 0, **settings) as server:
        yield SocketReplica(server, found)


@contextlib.asynccontextmanager
async def socket_caller(port: int, *, key: str | None = KEY, **options: Any) -> AsyncIterator[ClientConnection]:
    """A caller for as long as the block runs."""
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    settings = {
        "ping_interval": None, "max_size": 1 << 26, "close_timeout": 5, "open_timeout": PATIENCE, "proxy": None,
        "additional_headers": headers, **options,
    }  # fmt: skip
    scheme = "wss" if "ssl" in options else "ws"
    async with connect(f"{scheme}://127.0.0.1:{port}/endpoints/demo/chat?room=1", **settings) as connection:
        yield connection


def handshake(
    *, key: str | None = KEY, nonce: str = NONCE, version: str = "13", extra: str = "", first: str = ""
) -> bytes:
    """The bytes of a caller's request for a WebSocket."""
    authorization = f"Authorization: Bearer {key}\r\n" if key is not None else ""
    return (
        f"{first or 'GET /endpoints/demo/chat HTTP/1.1'}\r\nHost: gateway\r\n{authorization}Connection: keep-alive, Upgrade\r\n"
        f"Upgrade: WebSocket\r\nSec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: {version}\r\n{extra}\r\n"
    ).encode("latin-1")


@contextlib.asynccontextmanager
async def raw_socket(port: int) -> AsyncIterator[Caller]:
    """A caller behind its handshake that sends what bytes it likes."""
    async with caller(port) as connection:
        connection.send(handshake())
        assert (await connection.head()).status == 101
        yield connection
