"""The least that a machine needs for a log on Kafka: a spool and its shipper."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtests.log.roles import role
from router.runtime.log.embedded import FILE
from router.runtime.log.spool import Spool
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path

POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it is."""

    log: str
    spool: Path
    shipper: int
    """Its process id."""

    async def shipped(self, topics: Collection[str], deadline_seconds: float = 120) -> float:
        """Wait until what is in the spool now has left it; seconds."""
        return await shipped(self.spool, topics, deadline_seconds)


async def shipped(folder: Path, topics: Collection[str], deadline_seconds: float = 120) -> float:
    """Wait until what the spool in `folder` holds now of `topics` has left it; seconds."""
    began = time.monotonic()
    spool = Spool.open(folder / FILE)
    try:
        last = spool.last_outgoing(topics)
        async with asyncio.timeout(deadline_seconds):
            while spool.has_outgoing(topics, last):  # noqa: ASYNC110 -- nothing tells when another process gets that far
                await asyncio.sleep(POLL_SECONDS)
    finally:
        spool.close()
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def machine(folder: Path, log: str) -> AsyncIterator[Machine]:
    """A machine under `folder`, its shipper ready."""
    data = DataLayout(folder / "data")
    data.create()
    with role("shipper", data.root, log) as shipper:
        yield Machine(log, data.spool, shipper)
