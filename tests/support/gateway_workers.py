"""Several workers on one port, as real processes, and connections to each of them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

from loadtests.waiting import free_port
from router.runtime.settings import DataLayout, GatewaySettings
from tests.support.gateway_rig import Publisher, worker_process
from tests.support.gateway_upstream import Caller, caller

Process = asyncio.subprocess.Process


@contextlib.asynccontextmanager
async def workers(folder: Path, publisher: Publisher) -> AsyncIterator[tuple[GatewaySettings, list[Process]]]:
    await publisher.log.flush()
    settings = GatewaySettings(data=DataLayout(folder), port=free_port(), workers=2, demand_period_seconds=0.05)
    async with contextlib.AsyncExitStack() as stack:
        started = [
            await stack.enter_async_context(worker_process(dataclasses.replace(settings, worker=index)))
            for index in range(2)
        ]
        yield settings, started


@contextlib.asynccontextmanager
async def publishing(folder: Path) -> AsyncIterator[Publisher]:
    DataLayout(folder).create()
    publisher = Publisher(DataLayout(folder).log)
    try:
        yield publisher
    finally:
        await publisher.log.close()


async def one_caller_for_each_worker(stack: contextlib.AsyncExitStack, port: int) -> list[Caller]:
    """Connections to both workers; a worker's request ids begin with its boot id."""
    found: dict[str, Caller] = {}
    for _ in range(200):
        connection = await stack.enter_async_context(caller(port))
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        found.setdefault((await connection.answer()).headers["x-request-id"][:23], connection)
        if len(found) == 2:
            return list(found.values())
    raise AssertionError("the kernel gave every connection to one worker")
