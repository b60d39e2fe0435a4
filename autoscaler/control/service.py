"""The autoscaler's life: own, remember, then turn after turn until told to stop. Wiring only.

A turn follows every change of the specs, of a backend or of our share at once, and so it does when requests begin to queue
or to wait where no replica is; other demand gathers for a few milliseconds. Without any of them a turn comes every tick,
and when something that was refused replicas may have them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from autoscaler.backends.base import Backend
from autoscaler.control import ownership
from autoscaler.control.actuation import Actuator
from autoscaler.control.admin import admin_site
from autoscaler.control.answers import Answers
from autoscaler.control.door import Door
from autoscaler.control.figures import Figures
from autoscaler.control.intake import Intake, Kept
from autoscaler.control.keeping import Keeper
from autoscaler.control.observers import publish
from autoscaler.control.ownership import ASSUME_SECONDS, Mandate
from autoscaler.control.passing import Passing
from autoscaler.control.reconciler import Reconciler
from router.contract.handover import Handed
from router.runtime.clock import Clock, SystemClock
from router.runtime.credentials import NONE
from router.runtime.log.base import Log, Share
from router.runtime.settings import AutoscalerSettings, DataLayout
from router.runtime.tasks import Supervisor

_LOG = logging.getLogger(__name__)

GROUP = "autoscaler"
"""Under this name autoscalers share the endpoints."""
GATHER_SECONDS = 0.05
"""Ordinary demand waits this long for more, so that a busy fleet is decided about twenty times a second."""
FLUSH_SECONDS = 5.0
SHARE_SECONDS = 10.0
"""Longest wait for the first share at the start: who has none yet is ready all the same."""
LOOK_SECONDS = 0.1
"""Between two looks at whether waiting for the log still makes sense."""


class Bell:
    """Wakes the turns: `now` at once, `soon` after the gathering time."""

    def __init__(self) -> None:
        self._any = asyncio.Event()
        self._urgent = asyncio.Event()

    def ring(self, urgent: bool) -> None:
        """`now` or `soon`."""
        (self.now if urgent else self.soon)()

    def now(self) -> None:
        """Somebody waits for this turn."""
        self._any.set()
        self._urgent.set()

    def soon(self) -> None:
        """Something happened that may gather."""
        self._any.set()

    async def rung(self, most_seconds: float) -> None:
        """Return when a turn is due, after `most_seconds` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_seconds):
                await self._any.wait()
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._urgent.wait()
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
    assume_seconds: float = ASSUME_SECONDS,
    on_made: Callable[[Autoscaler], None] = lambda _: None,
) -> None:
    """Scale every deployment on the log that is ours until `stop`.

    `backends` by the name that `tidegate.backend` gives; a deployment without one runs on the backend of its kind
    (`kubernetes`) where that is there, else on `default_backend`. Backends are started here and closed by the caller,
    who alone knows whether the replicas are to end. `on_ready` is called once everything that was is known and the
    first turn is done. `assume_seconds`: see `ownership`. `on_made` gets the parts, whose figures are for metrics.
    Raises `Conflict` when another autoscaler owns the data folder, `TaskFailed` (from `Fenced`) when a newer one has
    taken over a backend and nothing is shared.
    """
    clock = clock or SystemClock()
    owner = await ownership.take(settings.data.root, wait_seconds=own_wait_seconds)
    try:
        member = await log.member(GROUP)
        try:
            mandate = Mandate(member, owner, settings.data.root, log.partitions, clock, assume_seconds=assume_seconds)
            reconciler = Reconciler(
                backends=backends.keys(),
                default_backend=default_backend,
                silent_seconds=settings.drain_acknowledge_seconds,
                partition_of=log.partition_of,
                sharing=not mandate.alone,
                folder=_name_of(settings.data),
            )
            made = Autoscaler(settings, backends, log, mandate=mandate, reconciler=reconciler, clock=clock)
            on_made(made)
            await made.run(stop, on_ready)
        finally:
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(log.flush(), FLUSH_SECONDS)
            finally:
                await member.close()  # after our last words, so that whoever takes over has them
    finally:
        owner.release()


def _name_of(data: DataLayout) -> str:
    """How the data folder is called among all; empty for one that has no name because it shares nothing."""
    return data.instance.read_text().strip() if data.instance.exists() else ""


class Autoscaler:
    """The parts of one process, and the tasks that move them."""

    def __init__(
        self,
        settings: AutoscalerSettings,
        backends: Mapping[str, Backend],
        log: Log,
        *,
        mandate: Mandate,
        reconciler: Reconciler,
        clock: Clock,
    ) -> None:
        self.reconciler = reconciler
        self.intake = Intake(log, reconciler)
        self._credentials = settings.credentials or NONE
        self._door = Door(self._credentials.token)
        self.figures = Figures(log, self.intake, reconciler, mandate, door=self._door, backends=backends.values())
        self._passing = Passing()
        self._settings = settings
        self._backends = backends
        self._log = log
        self._mandate = mandate
        self._clock = clock
        self._bell = Bell()
        self._keeper = Keeper(log, reconciler, self.intake.position)
        self._settled = asyncio.Event()
        self._working = False
        """Whether the first turn is done."""
        self._actuators = {
            name: Actuator(name, one, reconciler, self._bell.now, clock) for name, one in backends.items()
        }
        self._tasks = Supervisor("autoscaler")

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """See `run`."""

        async def turns() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._mandate.alone else SHARE_SECONDS):
                    await self._settled.wait()
            due_ns = self._turn()
            self._working = True
            on_ready()
            while True:
                left_seconds = max(0.0, (due_ns - self._clock.time_ns()) / 1e9)
                await self._bell.rung(min(self._settings.tick_seconds, left_seconds))
                due_ns = self._turn()

        answers = Answers(
            self._backend_of, self._taken, self.figures.text, self._passing.after, ready=lambda: self._working
        )
        site = admin_site(
            self._settings.data.autoscaler_socket,
            answers,
            self._settings.listen,
            credentials=self._credentials,
            door=self._door,
        )
        async with site:
            async with self._tasks as tasks:
                for name, actuator in self._actuators.items():
                    await actuator.backend.start()
                    tasks.start(f"observe {name}", actuator.observe)
                    tasks.start(f"act {name}", actuator.act)
                tasks.start("turns", turns)
                tasks.start("share", self._follow_share)
                await tasks.until(stop)
            self.reconciler.hold(self._mandate.share.partitions)
            self.reconciler.fold()
            self._keeper.keep(self._clock.time_ns(), everything=True)

    def _backend_of(self, endpoint: str, deployment: str) -> Backend | None:
        return self._backends.get(self.reconciler.home_of((endpoint, deployment)) or "")

    def _taken(self, messages: Sequence[Handed]) -> list[tuple[str, bytes]]:
        told, urgent = self.intake.take_handed(messages)
        self._passing.put(messages)
        self._bell.ring(urgent)
        return told

    def _turn(self) -> int:
        """One turn: what gateways must know goes out before anything is done to the backends. Returns `Turn.due_ns`."""
        now_ns, started = self._clock.time_ns(), time.perf_counter()
        self.reconciler.hold(self._mandate.share.partitions)
        turn = self.reconciler.turn(now_ns)
        self.figures.told.note(turn, time.perf_counter() - started)
        publish(self._log, turn)
        for name, plans in turn.plans.items():
            for plan in plans:
                self._actuators[name].wish(plan)
        self._keeper.keep(now_ns)
        return turn.due_ns

    async def _follow_share(self) -> None:
        """Take over what is dealt to us, let go of what is not, for ever."""
        mandate, territory = self._mandate, self.reconciler.territory
        kept: Kept | None = await self.intake.load()
        self._tasks.start("facts", lambda: self.intake.follow_facts(self._bell.ring))
        settled: Share | None = None
        while settled is None or not mandate.alone:
            share = mandate.share
            unchanged = share == settled and territory.acting == share.partitions
            if not mandate.dealt or (unchanged and territory.confirmed >= mandate.confirmed):
                await mandate.news()
                self._bell.soon()  # so that what is lost is let go of
                continue
            if kept is None and not share.partitions <= territory.followed:
                kept = await self.intake.load()
            if mandate.share == share and await self._settle(share, kept or Kept()):
                settled = share
            kept = None

    async def _settle(self, share: Share, kept: Kept) -> bool:
        """Know everything about `share`, then act for it; False when meanwhile it has become another one."""
        reconciler, intake = self.reconciler, self.intake
        if not intake.open or share.partitions != reconciler.territory.followed:
            await self._tasks.cancel("demand")
            intake.settle(share.partitions, kept, self._clock.time_ns())
            noted = {one: (said.incarnation, notes) for one, (said, notes) in kept.notes.items()}
            self._keeper.recall({one: notes for one, notes in noted.items() if one in share.partitions})
            if share.partitions:
                self._tasks.start("demand", lambda: intake.follow_demand(self._bell.ring))
        await self._caught_up(share)
        for actuator in self._actuators.values():
            await actuator.seen.wait()
        if self._mandate.share != share:
            return False
        if self._mandate.alone:
            self._mandate.used(reconciler.territory.highest + 1)
        confirmed = self._mandate.confirmed
        reconciler.adopt(share.partitions, self._mandate.floor, self._clock.time_ns(), confirmed=confirmed)
        self._mandate.used(reconciler.territory.highest)
        remembered = "" if confirmed else ", from memory: nobody can be asked"
        _LOG.info("acting for partitions %s%s", sorted(share.partitions), remembered, extra={"of": share.generation})
        self._settled.set()
        self._bell.now()
        return True

    async def _caught_up(self, share: Share) -> None:
        """Wait until the demand of `share` is read, unless there is nobody to read it from for too long."""
        patience = 0.0
        while share.partitions and self._mandate.share == share and not self.intake.level.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.intake.level.wait(), LOOK_SECONDS)
            patience = 0.0 if self._mandate.confirmed else patience + LOOK_SECONDS
            if patience >= ASSUME_SECONDS or self._mandate.assumed:
                return
