"""A worker's own socket on the shared port: it refuses nobody before it listens, and loses nobody when it stops."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.gateway.board import Board
    from router.gateway.doorbell import Doorbell
    from router.runtime.settings import GatewaySettings

_COUNTED_SECONDS = 1.0
"""Longest wait until the other workers have seen that there is one more."""


def bind(settings: GatewaySettings) -> socket.socket:
    """The socket, which does not listen yet. Raises `OSError` when the port cannot be had."""
    family, kind, proto, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setblocking(False)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


async def be_counted(board: Board, doorbell: Doorbell) -> None:
    """Let the other workers see our row before the first request: what they do not count could be too much."""
    for row in board.others():
        doorbell.ring(row)
    loop = asyncio.get_running_loop()
    until = loop.time() + _COUNTED_SECONDS
    while not board.is_seen() and loop.time() < until:  # noqa: ASYNC110 -- of other processes
        await asyncio.sleep(0.005)


async def end(server: asyncio.Server, listener: socket.socket, protocol: Callable[[], asyncio.Protocol] | None) -> None:
    """Stop accepting, without losing those that the kernel has accepted already: `protocol` serves them (None: a successor).

    The socket listens until its last descriptor is closed, so the server's goes first. A handshake that completes
    between the last look and the close is still lost; `net.ipv4.tcp_migrate_req=1` hands it to another worker.
    """
    rest = listener.dup()
    rest.setblocking(False)
    server.close()
    try:
        while listener.fileno() >= 0:  # noqa: ASYNC110 -- uvloop closes it in a later turn and says nothing
            await asyncio.sleep(0)
        while protocol is not None:
            connection, _ = rest.accept()
            connection.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)
    except BlockingIOError:
        pass
    finally:
        rest.close()
