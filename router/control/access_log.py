"""Every finished request as a line in a file or on standard output: `--access-log FILE|-` of the control plane.

Read from the log like everything else, so that a slow or full disk costs no gateway anything: reading waits for writing, and
what cannot be written is counted and given up. Lines are those of the traffic log. A file that was moved away or removed
(logrotate) is opened anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from router.contract.errors import Unavailable
from router.contract.events import REQUESTS
from router.control.traffic_log import Selection
from router.runtime.exposition import single, text_of
from router.runtime.log.base import Log, Message, Reader
from router.runtime.telemetry import Limited

STDOUT = "-"
LAST_SECONDS = 2.0
"""For what is still to be read at the end."""
_say = Limited(logging.getLogger(__name__))


class AccessLog:
    """Where the lines go. Used by one task."""

    def __init__(self, where: str) -> None:
        """`where`: a path, or `-`. Raises `Unavailable` when the file cannot be opened."""
        self._path = None if where == STDOUT else Path(where)
        self.written = 0
        self.lost = 0
        """Lines that could not be written."""
        self._descriptor = sys.stdout.fileno() if self._path is None else -1
        try:
            self._renew()
        except OSError as error:
            raise Unavailable(
                f"--access-log {where}: {error.strerror or error}; name a file that can be written"
            ) from error

    async def follow(self, log: Log) -> None:
        """Write every request that is recorded from now on, until cancelled."""
        reader = await log.reader((REQUESTS,), "latest")
        try:
            while True:
                await self._next(reader, None)
        except asyncio.CancelledError:
            # The gateways have ended before: what they said last is on the log.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    while not await reader.caught_up():
                        await self._next(reader, 0.1)
            raise
        finally:
            await reader.close()

    async def _next(self, reader: Reader, timeout_seconds: float | None) -> None:
        messages = await reader.next(timeout_seconds)
        # Not to be interrupted: a line is written once and whole.
        await asyncio.shield(asyncio.to_thread(self._take, messages))

    def _take(self, messages: Sequence[Message]) -> None:
        everything = Selection()
        self.write([line for message in messages for line in everything.lines_of(message)])

    def write(self, lines: list[bytes]) -> None:
        """Append `lines`, all of them or, when that fails, those that there was room for. Blocks."""
        data = memoryview(b"".join(lines))
        try:
            self._renew()
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            lost = bytes(data).count(b"\n")
            self.lost += lost
            _say.warning("access-log", "requests could not be written to the access log", lost=lost, problem=str(error))
        else:
            lost = 0
        self.written += len(lines) - lost

    def _renew(self) -> None:
        """Open the file, unless it is the one that is open."""
        path = self._path
        if path is None:
            return
        if self._descriptor >= 0:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(self._descriptor)):
                    return
            os.close(self._descriptor)
            self._descriptor = -1
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def close(self) -> None:
        """Let the file go."""
        if self._path is not None and self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def exposed(self) -> bytes:
        """For Prometheus."""
        return text_of(
            (
                single("tidegate_access_log_lines_total", "counter", "Lines of the access log", self.written),
                single("tidegate_access_log_lost_lines_total", "counter", "Lines that could not be written", self.lost),
            )
        ).encode()


@contextlib.contextmanager
def opened(where: str | None) -> Iterator[AccessLog | None]:
    """The access log at `where` while inside; None where none is wanted."""
    if where is None:
        yield None
        return
    access = AccessLog(where)
    try:
        yield access
    finally:
        access.close()
