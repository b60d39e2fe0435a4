"""A worker's listening socket goes to its successor, while it listens: nobody is refused, nothing in its queue is lost.

    successor                                       predecessor
    connects to run/gateway-N.handover
                     ◄── the socket, and its address ──
    reads the log, counts on the board, accepts
                     ── "leave" ──►
                                                    stops accepting (the socket goes on), drains, ends

Until "leave" nothing has changed: a successor that dies before leaves the predecessor serving.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from router.runtime.doors import Door, reached

_LOG = logging.getLogger(__name__)
_LEAVE = b"leave\n"
_ASK_SECONDS = 5.0
_MOST_BYTES = 4096
_ONE_SOCKET = 1
_BACKLOG = 16


@dataclass(slots=True)
class Inheritance:
    """What a predecessor has given, and the line on which it is told to leave. Close it in any case."""

    listener: socket.socket
    """Listening, as the predecessor's still is."""
    line: socket.socket

    async def take_over(self) -> None:
        """We accept: the predecessor may leave. That it has gone meanwhile is no matter. There is nothing more to say then."""
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self.line, _LEAVE)
        self.close()

    def close(self) -> None:
        """Let go of the line; the listener is the caller's."""
        self.line.close()


def door(folder: Path, worker: int) -> Path:
    """Where the worker of this index hands its socket over."""
    return folder / f"gateway-{worker}.handover"


async def ask(path: Path, port: int) -> Inheritance | None:
    """The socket of whoever serves `port` there now; None where nobody does, or on another port."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    received: list[int] = []
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            loop = asyncio.get_running_loop()
            with reached(path) as address:
                await loop.sock_connect(line, address)
            await _readable(loop, line)
        said, received, _, _ = socket.recv_fds(line, _MOST_BYTES, _ONE_SOCKET)
        if not said:
            raise ConnectionResetError("it ended meanwhile")
        if received and json.loads(said)["port"] == port:
            return Inheritance(socket.socket(fileno=received.pop()), line)
        _LOG.warning("the predecessor serves another port: it is not taken over", extra={"port": port})
    except (FileNotFoundError, ConnectionRefusedError):
        _LOG.info("there is no predecessor to take over from", extra={"path": str(path)})
    except (OSError, ValueError, KeyError) as error:  # a timeout is an OSError
        _LOG.warning("the predecessor does not hand over", extra={"path": str(path), "problem": str(error)})
    for number in received:
        os.close(number)
    line.close()
    return None


async def _readable(loop: asyncio.AbstractEventLoop, line: socket.socket) -> None:
    ready = asyncio.Event()
    loop.add_reader(line.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(line.fileno())


@contextlib.asynccontextmanager
async def offered(path: Path, listener: socket.socket, leave: Callable[[], None]) -> AsyncIterator[None]:
    """Give `listener` to any successor that asks, while inside; `leave` is called once one of them accepts."""
    with contextlib.closing(Door(path, _BACKLOG)) as bound:
        serving = asyncio.create_task(_serve(bound.socket, listener, leave), name="handover")
        try:
            yield
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def _serve(bound: socket.socket, listener: socket.socket, leave: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    about = json.dumps({"port": listener.getsockname()[1]}).encode()
    async with asyncio.TaskGroup() as group:
        while True:
            line, _ = await loop.sock_accept(bound)
            group.create_task(_give(line, about, listener, leave), name="handover to a successor")


async def _give(line: socket.socket, about: bytes, listener: socket.socket, leave: Callable[[], None]) -> None:
    line.setblocking(False)
    with contextlib.closing(line):
        try:
            socket.send_fds(line, [about], [listener.fileno()])
            told = await asyncio.get_running_loop().sock_recv(line, len(_LEAVE))
        except OSError as error:
            _LOG.warning("a successor was not given the socket", extra={"problem": str(error)})
            return
    if told == _LEAVE:
        _LOG.info("a successor accepts: this worker leaves")
        leave()
