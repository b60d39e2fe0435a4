"""The control plane as a process: what it opens, the tasks it runs, and the order in which it ends.

Ready means: everything in the store is published and the API answers. End: stop accepting, end the streams, finish
the requests under way, stop the tasks, close the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from router.contract.errors import TidegateError, Unavailable
from router.control.access_log import AccessLog, opened
from router.control.api import application
from router.control.assets import Assets
from router.control.direct import follow_direct
from router.control.fleet import Fleet
from router.control.log_reading import LogReading
from router.control.plane import Plane
from router.control.publisher import Publisher
from router.control.settling import Settler
from router.control.store import Store
from router.runtime.credentials import NONE
from router.runtime.log.base import Log
from router.runtime.login import check_reach, nobody_is_asked
from router.runtime.settings import ControlSettings

if TYPE_CHECKING:
    from router.control.resources.controller import Controller  # its client library is optional

_log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
SHUTDOWN_SECONDS = 5.0
"""Longest wait for requests under way."""


async def run(settings: ControlSettings, log: Log, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
    """Serve until `stop`. Raises `Unavailable` when the store, the log or the address cannot be had, and `InvalidSpec`
    for an address that other machines reach without a login.
    """
    check_reach(settings.host, settings.login or nobody_is_asked())
    logs = LogReading(settings.autoscaler or (f"unix:{settings.data.autoscaler_socket}",), settings.credentials or NONE)
    settings.data.create()
    unsettled, stirred = asyncio.Event(), asyncio.Event()

    def moved() -> None:
        unsettled.set()
        stirred.set()

    fleet = Fleet(moved)
    publisher = Publisher(log, moved)
    settler = Settler(publisher, fleet, unsettled)

    def committed() -> None:
        publisher.wake()
        unsettled.set()

    path, kept = settings.data.control_db, settings.revisions_kept
    store = await Store.open(path, revisions_kept=kept, on_commit=committed)
    try:
        assets = Assets(settings.data.assets)
        await asyncio.to_thread(assets.clean)
        await publisher.catch_up(store)
        plane = Plane(settings, log, store, assets, publisher, fleet, settler, logs, stirred=stirred)
        with opened(settings.access_log) as access:
            async with _controller(plane) as controller:
                await _run(plane, controller, access, stop, on_ready)
    except ExceptionGroup as failures:
        known, unknown = failures.split(TidegateError)
        if known is None or unknown is not None:
            raise
        raise known.exceptions[0] from None  # one sentence for the operator, not a tree of tracebacks
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def _controller(plane: Plane) -> AsyncIterator[Controller | None]:
    """Who turns Kubernetes objects into revisions, where that is asked for."""
    wanted = plane.settings.objects
    if wanted is None:
        yield None
        return
    try:
        from router.control.resources.controller import Controller
        from router.runtime.kubernetes import Cluster, ClusterSettings
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("kubernetes_asyncio"):
            raise
        message = "--kubernetes-objects needs more packages: pip install 'tidegate[kubernetes]'"
        raise Unavailable(message) from None
    cluster = Cluster(ClusterSettings(kubeconfig=wanted.kubeconfig, context=wanted.context))
    controller = Controller(plane, cluster, wanted.namespace)
    try:
        await controller.open()
        plane.exposed.append(controller.exposed)
        yield controller
    finally:
        await controller.close()


async def _run(
    plane: Plane,
    controller: Controller | None,
    access: AccessLog | None,
    stop: asyncio.Event,
    on_ready: Callable[[], None],
) -> None:
    """Serve, with the tasks that work beside the API."""
    store, fleet, log = plane.store, plane.fleet, plane.log
    # Without a broker the log is as near as the autoscaler.
    health = await log.health()
    brokered = bool(health.state or health.message)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(plane.publisher.run(store), name="publisher"),
            group.create_task(plane.settler.run(store), name="settler"),
            group.create_task(_again("replicas", lambda: fleet.follow_replicas(log)), name="replicas"),
            group.create_task(_again("streams", lambda: fleet.follow_streams(log)), name="streams"),
        ]
        if brokered:
            directly = follow_direct(fleet, plane.settings.data.autoscaler_socket)
            tasks.append(group.create_task(directly, name="direct demand"))
        if access is not None:
            plane.exposed.append(access.exposed)
            tasks.append(group.create_task(_again("the access log", lambda: access.follow(log)), name="access log"))
        if controller is not None:
            tasks.append(group.create_task(controller.run(), name="objects"))
        await _serve(plane, stop, on_ready)
        for task in tasks:
            task.cancel()


async def _serve(plane: Plane, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
    settings = plane.settings
    runner = web.AppRunner(application(plane), handle_signals=False, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port, reuse_address=True).start()
        except OSError as error:
            message = (
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}; choose another port"
            )
            raise Unavailable(message) from error
        for address in runner.addresses:
            _log.info("listening on %s:%d", *address[:2])
        on_ready()
        await stop.wait()
    finally:
        plane.closing.set()
        await runner.cleanup()


async def _again(name: str, follow: Callable[[], Awaitable[None]]) -> None:
    """Follow the log for ever: while it cannot be read, the API goes on with what is known."""
    while True:
        try:
            await follow()
        except Unavailable as error:
            _log.warning("%s cannot be read right now: %s", name, error.message)
        await asyncio.sleep(RETRY_SECONDS)
