"""Waiting for other processes, which tell nobody when they get that far; and ports for them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import random
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

HOST = "127.0.0.1"
_POLL_SECONDS = 0.02
_given: set[int] = set()
"""Ports of this process."""


async def until(ask: Callable[[], Awaitable[bool]], *, every_seconds: float = _POLL_SECONDS) -> None:
    """Ask again and again until the answer is yes; the caller sets the deadline."""
    while not await ask():  # noqa: ASYNC110 -- nothing tells when another process gets that far
        await asyncio.sleep(every_seconds)


def free_port() -> int:
    """A port nobody listens on, below those that the kernel gives to outgoing connections, and nobody else's who asks here.

    A client that keeps trying a port of that range while its server is down ends up connected to itself. Before a port is listened on
    nothing but a lock says that it is taken; it is held for as long as this process lives.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, max(lowest, 20_000))
        if not _reserve(port):
            continue
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port


def _reserve(port: int) -> bool:
    """Take it for this process, by a byte of a file that all of this user's lock."""
    if port in _given:
        return False
    with contextlib.suppress(BlockingIOError, PermissionError):
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        _given.add(port)
        return True
    return False


@functools.cache
def _reservations() -> int:
    return os.open(Path(tempfile.gettempdir()) / f"tidegate-ports-{os.getuid()}", os.O_CREAT | os.O_RDWR, 0o600)


async def accepts(port: int, host: str = HOST) -> bool:
    """Whether somebody takes connections on this port."""
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True
    return False
