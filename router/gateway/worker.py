"""One gateway worker: wires the parts, listens, and stops like a list: unready → stop accepting → drain → flush.

The caller has installed uvloop and its signal handlers; setting `stop` begins the end. A successor that takes over begins it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from router.gateway import downstream, handover, listening
from router.gateway.board import Board
from router.gateway.certificate_store import served
from router.gateway.connections import Connections, most_connections
from router.gateway.discovery import Discovery
from router.gateway.doorbell import Doorbell
from router.gateway.downstream import Downstream
from router.gateway.entrance import PROTOCOLS, Entering, Entrance
from router.gateway.figures import families
from router.gateway.guard import Guard
from router.gateway.mirror_link import give_up, keep_connected
from router.gateway.reports import Reports
from router.gateway.state import State
from router.gateway.tee import Tee
from router.gateway.timers import Wheel
from router.gateway.tracing import Tracer
from router.gateway.tunnel import leave_all
from router.runtime.courier import Courier
from router.runtime.memory import keep_freed
from router.runtime.vitals import offered, writer_families

if TYPE_CHECKING:
    from router.gateway.certificate_store import Certificates
    from router.gateway.routes import Endpoint
    from router.runtime.exposition import Family
    from router.runtime.log.base import Log
    from router.runtime.otlp import Exporter
    from router.runtime.settings import GatewaySettings

_LOG = logging.getLogger(__name__)
_BACKLOG = 4096
_TEE_CLOSE_SECONDS = 1.0
_COURIER_CLOSE_SECONDS = 1.0
_EXPORTER_CLOSE_SECONDS = 1.0
_COLLECT = (700, 10, 300)
"""When cycles are looked for, by the objects that were made since. A look at all objects stops the loop: for 90 ms with 9,000
requests inside. Little of what a request leaves is in cycles, so it may wait for two million objects; two looks at few are as before.
"""
_QUIET_NS = 500_000_000
"""A connection that has been quiet this long is closed at the stop; one in use ends with its next answer."""


async def run(settings: GatewaySettings, log: Log, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
    """Serve until `stop`, then drain for at most `settings.drain_seconds`, flush and return.

    `on_ready` is called once the routing snapshot is complete and the port listens. Raises `OSError` when the port
    cannot be had, and `InvalidSpec` when a certificate cannot.
    """
    keep_freed()
    certificates = served(settings.tls_cert, settings.tls_key, settings.tls_dir, tuple(PROTOCOLS))
    settings.data.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = settings.take_over
    inherited = await handover.ask(handover.door(settings.data.run, settings.worker), settings.port) if beside else None
    listener = inherited.listener if inherited is not None else listening.bind(settings)
    board: Board | None = None
    try:
        # Waiting for the row's lock (a predecessor that is still draining) must not stop the loop.
        board = await asyncio.to_thread(
            Board, settings.data.board, settings.worker, settings.workers, beside=settings.take_over
        )
        worker = _Worker(settings, log, board, listener, certificates)
        worker.inherited = inherited
        async with offered(settings.data.vitals, f"gateway-{settings.worker}", worker.vitals):
            await worker.serve(stop, on_ready)
    finally:
        listener.close()
        if inherited is not None:
            inherited.close()
        if board is not None:
            board.close()


def _exporter(settings: GatewaySettings, boot: str) -> Exporter | None:
    """The way of spans to the collector, where one is named."""
    if not settings.otlp:
        return None
    from importlib.metadata import PackageNotFoundError, version

    from router.runtime.otlp import Exporter

    try:
        release = version("tidegate")
    except PackageNotFoundError:  # it runs from a folder
        release = "unknown"
    resource = {
        "service.name": "tidegate-gateway",
        "service.version": release,
        "service.instance.id": boot,
        "host.name": socket.gethostname(),
    }
    return Exporter(settings.otlp, resource, version=release)


class _Worker:
    """The parts and their lives."""

    def __init__(
        self,
        settings: GatewaySettings,
        log: Log,
        board: Board,
        listener: socket.socket,
        certificates: Certificates | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._log = log
        self._listener = listener
        self._loop = loop
        boot = log.writer
        self._state = State(
            settings=settings,
            log=log,
            loop=loop,
            board=board,
            wheel=Wheel(loop),
            doorbell=Doorbell(settings.data.run, board.number, self._on_ring),
            doors=Connections(most_connections(settings), settings.max_connections_per_client),
            tee=Tee(log, settings.data.mirror_socket, settings.mirror_budget_bytes),
            chance=random.random,
            request_id_prefix=f"{boot[:8]}-{boot[8:12]}-{boot[12:16]}-{boot[16:20]}-".encode(),
            report_now=self._report_now,
            report_soon=self._report_soon,
        )
        self._guard = Guard(self._state)
        self._state.trust.check()
        self.inherited: handover.Inheritance | None = None
        self._handed_over = False
        self._certificates = certificates
        self._entrance = Entrance(self._state, certificates) if certificates is not None else None
        self._exporter = _exporter(settings, boot)
        if self._exporter is not None:
            self._state.tracer = Tracer(self._exporter.offer, settings.trace_share, random.random, settings.scheme)
        self._discovery = Discovery(self._state)
        self._courier = Courier(settings.autoscaler, self._discovery.take_replicas, credentials=settings.credentials)
        self._reports = Reports(self._state, self._discovery, self._courier.hand)
        self._caught_up = asyncio.Event()

    def vitals(self) -> list[Family]:
        """What this worker counts about itself. Costs nothing before somebody asks."""
        return [
            *writer_families(self._log.dropped(), self._courier),
            *families(self._state.counters, self._state.refusals, self._discovery.endpoints.values()),
            *self._guard.families(),
            *(self._exporter.families() if self._exporter is not None else ()),
        ]

    async def serve(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """The worker's whole life."""
        state = self._state
        self._courier.open()
        self._guard.open()
        if self._exporter is not None:
            self._exporter.open()
        try:
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(self._discovery.follow(self._log, self._caught_up.set), name="discovery"),
                    group.create_task(keep_connected(state.tee), name="mirror connection"),
                    group.create_task(self._reports.keep_on(), name="observers"),
                ]
                if self._certificates is not None:
                    background.append(group.create_task(self._certificates.follow(), name="certificates"))
                ending = group.create_task(stop.wait(), name="stop")
                caught_up = group.create_task(self._caught_up.wait(), name="caught up")
                await asyncio.wait((ending, caught_up), return_when=asyncio.FIRST_COMPLETED)
                caught_up.cancel()
                if not stop.is_set():
                    await self._listen_until(stop, on_ready)
                await self._drain()
                for task in background:
                    task.cancel()
        finally:
            await self._close()

    async def _listen_until(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        await listening.be_counted(self._state.board, self._state.doorbell)
        server = await self._loop.create_server(self._near_side, sock=self._listener, backlog=_BACKLOG)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT)
        self._state.ready = True
        at = {"host": self._settings.host, "port": self._listener.getsockname()[1]}
        told = {"scheme": self._settings.scheme, **at, "connections": self._state.doors.most}
        _LOG.info("listening", extra={**told, "compiled": not downstream.__file__.endswith(".py")})

        def leave() -> None:
            self._handed_over = True
            stop.set()

        try:
            if self.inherited is not None:
                await self.inherited.take_over()
            door = handover.door(self._settings.data.run, self._settings.worker)
            async with handover.offered(door, self._listener, leave):
                on_ready()
                await stop.wait()
        finally:
            self._state.ready = False
            self._state.stopping = self._state.closing = True
            await listening.end(server, self._listener, None if self._handed_over else self._near_side)

    def _near_side(self) -> asyncio.Protocol:
        near = Downstream(self._state) if self._entrance is None else Entering(self._entrance)
        return cast("asyncio.Protocol", near)

    async def _drain(self) -> None:
        """Let what is under way end by itself, as long as the settings allow."""
        state = self._state
        until = self._loop.time() + self._settings.drain_seconds
        looked = time.monotonic_ns()
        while state.connections and self._loop.time() < until:
            leave_all(state.tunnels)
            # Quiet at the look before: what has come since then, also while this process had no processor, has been read.
            since, looked = looked - _QUIET_NS, time.monotonic_ns()
            for connection in list(state.connections):
                connection.leave_if_idle(since)
            await asyncio.sleep(0.02)
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    def _report_now(self, endpoint: Endpoint) -> None:
        self._reports.now(endpoint)

    def _report_soon(self, endpoint: Endpoint) -> None:
        self._reports.soon(endpoint)

    def _on_ring(self) -> None:
        self._state.board.renew()
        for endpoint in list(self._state.awake):  # wherever something waits
            for lane in list(endpoint.lanes.values()):
                lane.queue.rung()

    async def _close(self) -> None:
        """Everything this worker opened, in order, also after a failure."""
        state = self._state
        self._guard.close()
        self._reports.close()
        for connection in list(state.connections):
            connection.transport.abort()
        for endpoint in self._discovery.endpoints.values():
            endpoint.abort()
        await give_up(state.tee, _TEE_CLOSE_SECONDS)
        await asyncio.sleep(0)
        self._reports.flush()
        await self._courier.close(_COURIER_CLOSE_SECONDS)
        if self._exporter is not None:
            await self._exporter.close(_EXPORTER_CLOSE_SECONDS)
        state.wheel.close()
        state.doorbell.close()
        with contextlib.suppress(Exception):
            await self._log.flush()
