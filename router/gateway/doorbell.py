"""Workers wake each other: one byte to the Unix datagram socket of the worker whose request has waited longest.

A worker is known by its row on the board here: two generations of one index may live at once.

A lost ring costs little: while something waits, every worker looks at the board again after a few milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path


class Doorbell:
    """One worker's socket, and the addresses of the others."""

    def __init__(self, folder: Path, row: int, on_ring: Callable[[], None]) -> None:
        self._folder = folder
        self._on_ring = on_ring
        self._path = self._address(row)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket.bind(self._path)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def _address(self, row: int) -> str:
        return str(self._folder / f"gateway-{row}.bell")

    def ring(self, row: int) -> None:
        """Wake the worker of `row`; a full or missing socket is no matter."""
        with contextlib.suppress(OSError):
            self._socket.sendto(b"!", self._address(row))

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(16):
                pass
        self._on_ring()

    def close(self) -> None:
        """Let go of the socket and its file."""
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
