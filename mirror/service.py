"""The mirror as a process: wiring and shutdown, nothing else."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from pathlib import Path

from mirror.budget import Budget
from mirror.capture import Spill
from mirror.discovery import Directory, follow
from mirror.dispatcher import Dispatcher
from mirror.marker import load_key
from mirror.receiver import Receiver, taken
from mirror.recorder import Recorder
from router.contract.errors import Unavailable
from router.runtime.courier import Courier
from router.runtime.exposition import Family, served, text_of
from router.runtime.log.base import Log
from router.runtime.memory import keep_freed
from router.runtime.settings import MirrorSettings
from router.runtime.vitals import PROCESS, offered, writer_families

_log = logging.getLogger("tidegate.mirror")
GRACE_SECONDS = 3.0
"""How long exchanges may still end by themselves after `stop`; then they are dropped as `shutdown`."""
FLUSH_SECONDS = 5.0
COURIER_SECONDS = 1.0
"""How long the last demand may be on its direct way."""
EXCHANGES = 10_000
"""Exchanges held at once, from their first frame to their events."""
SPILL_BYTES = 2 << 30
"""Request bodies on disk, over all exchanges."""
BODY_BYTES = 256 << 20
"""Largest request body that is mirrored; longer ones are dropped as `too_large`."""


async def run(settings: MirrorSettings, log: Log, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
    """Mirror until `stop`. `on_ready` is called once gateways can connect and the candidates are known.

    Raises `Conflict` when another mirror owns the socket. The log stays open; it is the caller's.
    """
    keep_freed()
    settings.data.create()
    directory = Directory()
    current = asyncio.Event()

    def changed(endpoint: str) -> None:
        dispatcher.changed(endpoint)
        recorder.urge(endpoint)

    def told(value: bytes) -> None:
        endpoint = directory.take_replicas(value)
        if endpoint is not None:
            changed(endpoint)

    courier = Courier(settings.autoscaler, told, credentials=settings.credentials)
    recorder = Recorder(log, directory, courier.hand)
    key = load_key(settings.data.shadow_key)
    courier.open()

    def families() -> list[Family]:
        return writer_families(log.dropped(), courier)

    async def numbers() -> str:
        return text_of(families(), **{PROCESS: "mirror"})

    try:
        async with served(settings.metrics, numbers), asyncio.TaskGroup() as group:
            dispatcher = Dispatcher(settings, key, directory, group, recorder.urge)
            memory = Budget(settings.memory_bytes, EXCHANGES, "memory")
            spill = Spill(settings.data.run, Budget(SPILL_BYTES, EXCHANGES, "spill_full"), exchange_bytes=BODY_BYTES)
            receiver = Receiver(memory, spill, dispatcher, recorder)
            following = group.create_task(follow(log, directory, changed, current.set), name="mirror discovery")
            reporting = group.create_task(recorder.run(dispatcher), name="mirror demand")
            await current.wait()
            async with offered(settings.data.vitals, "mirror", families):
                await _receive(receiver, settings.data.mirror_socket, stop, on_ready)
            following.cancel()
            reporting.cancel()
        recorder.report(dispatcher, everything=True)
        dispatcher.close()
    finally:
        await courier.close(COURIER_SECONDS)
    await _flush(log)


async def _receive(receiver: Receiver, socket: Path, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
    """Take exchanges from gateways until `stop`, and let those under way end."""
    door = taken(socket)
    server = await receiver.listen(door)
    gc.collect()
    gc.freeze()
    try:
        on_ready()
        await stop.wait()
        door.leave()
        server.close()
        await receiver.drain(GRACE_SECONDS)
    finally:
        door.leave()
        server.close()
        receiver.drop_all("shutdown")
        receiver.abort()


async def _flush(log: Log) -> None:
    try:
        async with asyncio.timeout(FLUSH_SECONDS):
            await log.flush()
    except (TimeoutError, Unavailable) as error:
        _log.error("the last events may be lost: the log did not commit them: %r", error)
