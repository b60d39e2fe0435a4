"""The shipper: one process per machine that stands between its spool and Kafka, in both directions.

It ships what waits (`shipping`), keeps the copy of the compacted topics (`copying`), puts on the disk for good what was
committed (`spool_desk`), makes a full spool smaller (`spool_folding`) and tells how all that is going (`telling`). A
second one on the same spool stands by until the first is gone. No role waits for a shipper, and none for a broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from router.contract.errors import Unavailable
from router.runtime.exposition import served
from router.runtime.log.embedded import WAKE
from router.runtime.log.exposing import Exposing
from router.runtime.log.shipping import SIDE, Shipping, ShippingSettings
from router.runtime.log.spool import Spool
from router.runtime.log.spool_desk import Desk, Syncing, opened
from router.runtime.log.spool_disk import Ballast
from router.runtime.log.telling import Telling
from router.runtime.log.wakeups import Listener
from router.runtime.tasks import OnFailure, Supervisor

if TYPE_CHECKING:
    from router.runtime.log.kafka_url import KafkaUrl

_LOG = logging.getLogger(__name__)
LOCK = "shipper.lock"


@dataclass(frozen=True, slots=True)
class ShipperSettings:
    """How the shipper behaves. Unit, default and why under each field."""

    spool_bytes: int = 1 << 30
    """What may wait; near it, the oldest request records are folded. Hours of an ordinary machine's records."""
    metrics: tuple[str, int] | None = None
    """(host, port) where Prometheus finds this machine in numbers; None: nowhere."""
    vitals: Path | None = None
    """Folder of the sockets on which the machine's processes tell what they count; None: only the log is told of."""
    further_vitals: tuple[Path, ...] = ()
    """Further such sockets."""
    sync_seconds: float = 0.05
    """Between a commit and its sync to the disk: what a power cut may take."""
    standby_seconds: float = 0.25
    """How often a second shipper looks whether the first is gone."""
    drain_seconds: float = 5.0
    """How long it goes on shipping what is there when it is told to end; the rest waits for the next one."""
    busy_seconds: float = 5.0
    """How long one transaction waits for other processes'."""
    shipping: ShippingSettings = field(default_factory=ShippingSettings)


async def run(
    url: KafkaUrl,
    folder: Path,
    stop: asyncio.Event,
    on_ready: Callable[[], None],
    *,
    settings: ShipperSettings | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Serve the spool in `folder` until `stop` is set.

    `on_ready` is called as soon as it works or stands by, whatever the broker does. Raises `Unavailable` when the
    spool cannot be opened, `InvalidSpec` for wrong settings in `environ`, `TaskFailed` when a part of it breaks.
    """
    settings = settings or ShipperSettings()
    from router.runtime.log.kafka_connection import client_options

    options = client_options(url, "shipper", environ)
    async with _alone(folder, stop, on_ready, settings) as mine:
        if not mine:
            return
        desk = Desk(folder)
        try:
            await desk.open(lambda: opened(folder, busy_seconds=settings.busy_seconds))
            on_ready()
            await _Shipper(url, options, desk, settings).run(stop)
        finally:
            await desk.close()


@contextlib.asynccontextmanager
async def _alone(
    folder: Path, stop: asyncio.Event, on_ready: Callable[[], None], settings: ShipperSettings
) -> AsyncIterator[bool]:
    """Hold the lock of the folder; False when told to end while standing by."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"spool {folder} cannot be made: {error}; name a folder you may write") from error
    try:
        told = False
        while not (held := _lock(fd)) and not stop.is_set():
            if not told:
                _LOG.info("another shipper serves this spool; standing by")
                on_ready()
                told = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.standby_seconds):
                    await stop.wait()
        yield held and not stop.is_set()
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Shipper:
    """The parts of one shipper that has the lock, wired together."""

    def __init__(self, url: KafkaUrl, options: Mapping[str, object], desk: Desk, settings: ShipperSettings) -> None:
        # Only now: a shipper that stands by needs neither a Kafka client nor numpy.
        from router.runtime.log.copying import SIDE as COPY_SIDE
        from router.runtime.log.copying import Copying, CopyingSettings
        from router.runtime.log.kafka_messages import partition_of
        from router.runtime.log.keeping import Keeping, KeepingSettings
        from router.runtime.log.producing import Producing
        from router.runtime.log.spool_folding import Folder

        self._desk = desk
        self._settings = settings
        self._ballast = Ballast(desk.folder)
        self._telling = Telling(desk, (SIDE, COPY_SIDE))
        self._producing = Producing(url, options)
        bounds = replace(settings.shipping, bytes=min(settings.shipping.bytes, settings.spool_bytes // 8))
        self._shipping = Shipping(self._producing, desk, self._telling, self._ballast, bounds)
        self._copying = Copying(
            url, options, desk, self._telling, CopyingSettings(), shipping_again=self._shipping.from_the_start
        )
        folder = Folder(uuid.uuid4().hex, lambda key: partition_of(key, url.partitions), time.time_ns)
        self._keeping = Keeping(desk, self._telling, self._ballast, folder, KeepingSettings(settings.spool_bytes))
        self._syncing = Syncing(desk.folder, settings.sync_seconds)
        self._unsynced = asyncio.Event()
        self._exposing = Exposing(desk, settings.vitals, settings.further_vitals)

    async def run(self, stop: asyncio.Event) -> None:
        await self._take_over()
        listener = Listener(self._desk.folder / WAKE, ())
        loop = asyncio.get_running_loop()
        loop.add_reader(listener.socket, self._on_wakeup, listener)
        ending = asyncio.Event()
        try:
            async with served(self._settings.metrics, self._exposing.text), Supervisor("shipper") as tasks:
                tasks.start("sync", lambda: self._syncing.run(self._unsynced), on_failure=OnFailure.RESTART)
                tasks.start("keep", self._keeping.run, on_failure=OnFailure.RESTART)
                tasks.start("tell", self._telling.run, on_failure=OnFailure.RESTART)
                shipping = tasks.start("ship", lambda: self._shipping.run(ending))
                tasks.start("copy", self._copying.run)
                await tasks.until(stop)
                ending.set()
                self._shipping.news.set()
                await asyncio.wait({shipping}, timeout=self._settings.drain_seconds)
        finally:
            loop.remove_reader(listener.socket)
            listener.close()
            await self._producing.close()
            await self._telling.write()

    async def _take_over(self) -> None:
        def look(spool: Spool) -> tuple[bool, int]:
            before = spool.link()
            return before is not None and before.copied_once, spool.try_again()

        try:
            self._telling.link.copied_once, waiting = await self._desk.ask(look)
        except Unavailable as error:
            _LOG.warning("%s", error.message)
            return
        if waiting:
            _LOG.warning("messages that were set aside are tried once more", extra={"messages": waiting})

    def _on_wakeup(self, listener: Listener) -> None:
        listener.drain()
        self._unsynced.set()
        self._keeping.news.set()
        self._shipping.news.set()
