"""A gate in front of the API server for Tidegate alone: it can be shut, and it counts whoever comes, also while nobody is at home.

It passes bytes, so that what goes on inside a connection is between the two ends. Who comes while the API server is away, or the gate
shut, comes with one connection per request: there is none to be used again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from loadtests.kubernetes.cluster.authority import ADMINISTRATORS
from loadtests.kubernetes.cluster.cluster import Cluster


@dataclass(slots=True)
class Gate:
    """Where the API server is found by whoever has `kubeconfig`."""

    host: str
    port: int
    kubeconfig: Path = Path()
    knocks: int = 0
    """Connections that were made, whatever became of them."""
    shut: bool = False
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    def close(self) -> None:
        """Cut every connection, and let nobody in until `reopen`."""
        self.shut = True
        for writer in list(self._open):
            writer.transport.abort()

    def reopen(self) -> None:
        """Let everybody in."""
        self.shut = False

    async def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody knocks."""
        self.knocks += 1
        try:
            if self.shut:
                return
            with contextlib.suppress(OSError):
                inner, outer = await asyncio.open_connection(self.host, self.port)
                self._open |= {writer, outer}
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(_pass(reader, outer))
                        group.create_task(_pass(inner, writer))
                finally:
                    self._open -= {writer, outer}
                    outer.transport.abort()
        finally:
            writer.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Whatever comes, until either end closes; then both are closed."""
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def gate(cluster: Cluster, folder: Path) -> AsyncIterator[Gate]:
    """A gate to the API server of `cluster`, for an administrator of its own name, `tidegate`."""
    address = urlsplit(cluster.server)
    assert address.hostname is not None
    assert address.port is not None
    made = Gate(address.hostname, address.port)
    server = await asyncio.start_server(made.enter, made.host, 0)
    port = server.sockets[0].getsockname()[1]
    made.kubeconfig = cluster.control.authority.kubeconfig(
        folder / "gate.kubeconfig", f"https://{made.host}:{port}", user=USER, groups=(ADMINISTRATORS,)
    )
    try:
        yield made
    finally:
        server.close()
        made.close()
        await server.wait_closed()
        await asyncio.sleep(0)


USER = "tidegate"
"""Who comes through the gate, in the words of the audit log."""
