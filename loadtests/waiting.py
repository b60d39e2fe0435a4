"""Waiting for other processes, which tell nobody when they get that far; and ports for them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

HOST = "127.0.0.1"
_POLL_SECONDS = 0.02


async def until(ask: Callable[[], Awaitable[bool]], *, every_seconds: float = _POLL_SECONDS) -> None:
    """Ask again and again until the answer is yes; the caller sets the deadline."""
    while not await ask():  # noqa: ASYNC110 -- nothing tells when another process gets that far
        await asyncio.sleep(every_seconds)


def free_port() -> int:
    """A port nobody listens on, below those that the kernel gives to outgoing connections.

    A client that keeps trying a port of that range while its server is down ends up connected to itself.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, max(lowest, 20_000))
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port


async def accepts(port: int, host: str = HOST) -> bool:
    """Whether somebody takes connections on this port."""
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True
    return False
