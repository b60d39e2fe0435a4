"""Our own autoscaler over the fleet: what it writes, how soon pods follow its decisions, what it needs, how it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadtests.kubernetes.bench.fleet import USER
from loadtests.kubernetes.bench.playing import play
from loadtests.kubernetes.bench.schedule import Played, Schedule
from loadtests.kubernetes.bench.writing import first_writes
from loadtests.measure import peak_resident_bytes, resident_bytes
from router.contract.codec import decode_decision
from router.contract.events import DECISIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from loadtests.kubernetes.bench.fleet import Fleet
    from loadtests.kubernetes.bench.scaler import Scaler
    from router.runtime.log.base import Reader

RESYNC_SECONDS = 300.0
QUIET_SECONDS = 4.0
"""Without a write for so long a restart is over."""
REST_SECONDS = 30.0
_LOOK_SECONDS = 0.25


@dataclass(slots=True)
class Scaled:
    """What was measured."""

    grown_seconds: float
    """From nothing to the whole fleet, every pod ready."""
    played: Played
    decided: dict[str, int]
    """Endpoint → the time of the decision that it gets one more, as the decision itself says it (Unix nanoseconds)."""
    written: dict[str, int]
    """Endpoint → when the API server was asked for it (Unix nanoseconds)."""
    writes_up: Counter[str]
    writes_down: Counter[str]
    peak_bytes: int = 0
    """The most resident memory that any of the autoscaler's processes ever had."""
    settled_bytes: int = 0
    """Resident memory with the whole fleet, after the schedule."""
    resync: Resync | None = None
    rest: float = 0.0
    """CPU seconds per second of the API server while our autoscaler has nothing to do."""


@dataclass(slots=True)
class Resync:
    """Seconds from the start of the new process."""

    ready: float
    """It has said so: all is known, and the first turn is done."""
    acted: float
    """The pod was there that had been decided about by nobody while there was no autoscaler."""
    stamped: float
    """Its last write: every account and every Deployment has the new ownership's number on it."""
    writes: int


@dataclass(slots=True)
class _Decisions:
    """What is read on the log."""

    up: dict[str, int] = field(default_factory=dict)

    async def follow(self, reader: Reader) -> None:
        """For ever."""
        while True:
            for message in await reader.next(None):
                decision = decode_decision(message.value)
                if decision.desired > decision.previous:
                    self.up.setdefault(decision.endpoint, decision.at_ns)


async def scaled(fleet: Fleet, schedule: Schedule, say: Callable[[str], None]) -> Scaled:
    """Make the fleet, play the schedule, kill the autoscaler and start another."""
    async with fleet.autoscaler() as first:
        began = time.monotonic()
        for name in fleet.names:
            fleet.want(name, fleet.sizes.replicas)
        await fleet.until_all_ready(say)
        grown = time.monotonic() - began
        say(f"the fleet is there after {grown:.0f} s; the autoscaler has {resident_bytes(first.pid) / 1e6:.0f} MB")
        made = await _scheduled(fleet, schedule, grown, say)
        made.settled_bytes, made.peak_bytes = resident_bytes(first.pid), peak_resident_bytes(first.pid)
        await first.kill()
    say("the autoscaler is killed, and one deployment asked for a replica more; now another autoscaler")
    async with _restarted(fleet) as (second, resync):
        say(
            f"ready after {resync.ready:.1f} s, acted after {resync.acted:.1f} s, last write after {resync.stamped:.1f} s"
        )
        made.resync, made.rest = resync, await fleet.at_rest(REST_SECONDS)
        made.peak_bytes = max(made.peak_bytes, peak_resident_bytes(second.pid))
    return made


async def _scheduled(fleet: Fleet, schedule: Schedule, grown: float, say: Callable[[str], None]) -> Scaled:
    decisions, halfway = _Decisions(), Counter[str]()
    reader = await fleet.log.reader((DECISIONS,), "latest")
    listening = asyncio.create_task(decisions.follow(reader), name="decisions")
    before = await _quiet(fleet)

    def want(endpoint: str, count: int) -> int:
        if count == schedule.low and not halfway:
            halfway.update(fleet.writes())
        return fleet.want(endpoint, count)

    try:
        played = await play(fleet, schedule, want, say)
    finally:
        listening.cancel()
        await asyncio.wait({listening})
    if lacking := [name for name in schedule.endpoints if name not in decisions.up]:
        raise RuntimeError(f"no decision was read about {len(lacking)} deployments, such as {lacking[0]}")
    written = first_writes(fleet.bed.control.audit_log, USER, "deployments", decisions.up)
    return Scaled(grown, played, decisions.up, written, halfway - before, await _quiet(fleet) - halfway)


async def _quiet(fleet: Fleet) -> Counter[str]:
    """The autoscaler's writes so far, once it has none any more for some seconds."""
    since, last = time.monotonic(), fleet.writes()
    async with asyncio.timeout(RESYNC_SECONDS):
        while time.monotonic() - since < QUIET_SECONDS:
            await asyncio.sleep(_LOOK_SECONDS)
            if (now := fleet.writes()) != last:
                since, last = time.monotonic(), now
    return last


@contextlib.asynccontextmanager
async def _restarted(fleet: Fleet) -> AsyncIterator[tuple[Scaler, Resync]]:
    name, before = fleet.names[-1], fleet.writes()
    fleet.want(name, fleet.sizes.replicas + 1)
    await fleet.log.flush()
    began, began_ns = time.monotonic(), time.time_ns()
    stamping = asyncio.create_task(_last_write(fleet), name="last write")
    try:
        async with fleet.autoscaler() as second:
            ready = time.monotonic() - began
            async with asyncio.timeout(RESYNC_SECONDS):
                while not (made := fleet.pods.since(began_ns)).get(name):
                    await fleet.pods.news()
            acted = (made[name] - began_ns) / 1e9
            stamped = await stamping - began
            yield second, Resync(ready, max(ready, acted), stamped, (fleet.writes() - before).total())
    finally:
        stamping.cancel()
        await asyncio.wait({stamping})


async def _last_write(fleet: Fleet) -> float:
    """Monotonic seconds of the last write of a burst that is yet to begin."""
    last = before = fleet.writes()
    at = time.monotonic()
    async with asyncio.timeout(RESYNC_SECONDS):
        while last == before or time.monotonic() - at < QUIET_SECONDS:
            await asyncio.sleep(_LOOK_SECONDS)
            if (now := fleet.writes()) != last:
                at, last = time.monotonic(), now
    return at
