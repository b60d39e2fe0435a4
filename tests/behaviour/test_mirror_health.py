"""The mirror's own port: health from its start, numbers whenever somebody asks, gone with the mirror."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import aiohttp

from loadtests.waiting import free_port
from mirror.service import run
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.settings import DataLayout, MirrorSettings
from tests.support.control_plane import until


async def test_health_and_numbers_are_served_while_it_lives(tmp_path: Path) -> None:
    data = DataLayout(tmp_path)
    data.create()
    port = free_port()
    log, stop, ready = EmbeddedLog(data.log), asyncio.Event(), asyncio.Event()
    mirror = asyncio.create_task(run(MirrorSettings(data, metrics=("127.0.0.1", port)), log, stop, ready.set))
    try:
        await asyncio.wait_for(ready.wait(), 60)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            async with session.get("/healthz") as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")
            async with session.get("/metrics") as answer:
                assert 'tidegate_courier_handed_messages_total{process="mirror"} 0' in await answer.text()
            stop.set()
            await asyncio.wait_for(mirror, 60)

            async def silent() -> bool:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get("/healthz"):
                        return False
                return True

            await until("the end of the port", silent)
    finally:
        stop.set()
        await log.close()
