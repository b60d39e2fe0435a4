"""The autoscaler's life: own, remember, then turn after turn until told to stop. Wiring only.

A turn follows every change of the specs or of a backend at once, and so does a request that waits where no replica
is; other demand gathers for a few milliseconds; without any of them a turn comes every tick.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from autoscaler.backends.base import Backend
from autoscaler.control import ownership
from autoscaler.control.actuation import Actuator
from autoscaler.control.admin import admin_site
from autoscaler.control.intake import Intake
from autoscaler.control.observers import publish
from autoscaler.control.reconciler import Reconciler
from router.runtime.clock import Clock, SystemClock
from router.runtime.log.base import Log
from router.runtime.settings import AutoscalerSettings
from router.runtime.tasks import Supervisor

_LOG = logging.getLogger(__name__)

GATHER_SECONDS = 0.05
"""Ordinary demand waits this long for more, so that a busy fleet is decided about twenty times a second."""
FLUSH_SECONDS = 5.0


class Bell:
    """Wakes the turns: `now` at once, `soon` after the gathering time."""

    def __init__(self) -> None:
        self._any = asyncio.Event()
        self._urgent = asyncio.Event()

    def now(self) -> None:
        """Somebody waits for this turn."""
        self._any.set()
        self._urgent.set()

    def soon(self) -> None:
        """Something happened that may gather."""
        self._any.set()

    async def rung(self, tick_seconds: float) -> None:
        """Return when a turn is due."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._any.wait(), tick_seconds)
            await asyncio.wait_for(self._urgent.wait(), min(GATHER_SECONDS, tick_seconds))
        self._any.clear()
        self._urgent.clear()


async def run(
    settings: AutoscalerSettings,
    backends: Mapping[str, Backend],
    log: Log,
    stop: asyncio.Event,
    on_ready: Callable[[], None],
    *,
    default_backend: str = "local",
    clock: Clock | None = None,
    own_wait_seconds: float = 10.0,
) -> None:
    """Scale every deployment on the log until `stop`.

    `backends` by the name that `tidegate.backend` gives; a deployment without one runs on the backend of its kind
    (`kubernetes`) where that is there, else on `default_backend`. Backends are started here and closed by the caller,
    who alone knows whether the replicas are to end. `on_ready` is called once everything that was is known and the
    first turn is done. Raises `Conflict` when another autoscaler owns the data folder, `TaskFailed` (from `Fenced`)
    when a newer one has taken over a backend.
    """
    clock = clock or SystemClock()
    owner = await ownership.take(settings.data.root, wait_seconds=own_wait_seconds)
    try:
        reconciler = Reconciler(
            backends=backends.keys(),
            default_backend=default_backend,
            silent_seconds=settings.drain_acknowledge_seconds,
        )
        intake = Intake(log, settings.data.root, reconciler, clock.time_ns())
        try:
            await _serve(
                settings,
                backends,
                log,
                stop=stop,
                on_ready=on_ready,
                reconciler=reconciler,
                intake=intake,
                owner=owner,
                clock=clock,
            )
        finally:
            await intake.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(log.flush(), FLUSH_SECONDS)
    finally:
        owner.release()


async def _serve(
    settings: AutoscalerSettings,
    backends: Mapping[str, Backend],
    log: Log,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[], None],
    reconciler: Reconciler,
    intake: Intake,
    owner: ownership.Ownership,
    clock: Clock,
) -> None:
    bell = Bell()
    actuators = {name: Actuator(name, one, reconciler, bell.now, clock) for name, one in backends.items()}

    def backend_of(endpoint: str, deployment: str) -> Backend | None:
        return backends.get(reconciler.home_of((endpoint, deployment)) or "")

    async def begin() -> None:
        await intake.catch_up()
        for one in actuators.values():
            await one.seen.wait()
        owner.raise_above(reconciler.generation)
        reconciler.begin(owner.generation, clock.time_ns())

    async def read() -> None:
        while True:
            (bell.now if await intake.next(clock.time_ns()) else bell.soon)()

    async def turns() -> None:
        await begin()
        _turn(reconciler, actuators, log, clock)
        on_ready()
        tasks.start("intake", read)
        while True:
            await bell.rung(settings.tick_seconds)
            _turn(reconciler, actuators, log, clock)

    async with admin_site(settings.data.autoscaler_socket, backend_of), Supervisor("autoscaler") as tasks:
        for name, actuator in actuators.items():
            await actuator.backend.start()
            tasks.start(f"observe {name}", actuator.observe)
            tasks.start(f"act {name}", actuator.act)
        tasks.start("turns", turns)
        await tasks.until(stop)


def _turn(reconciler: Reconciler, actuators: Mapping[str, Actuator], log: Log, clock: Clock) -> None:
    """One turn: what gateways must know goes out before anything is done to the backends."""
    turn = reconciler.turn(clock.time_ns())
    publish(log, turn)
    for name, plan in turn.plans.items():
        actuators[name].wish(plan)
