"""A schedule is played against whoever scales: counts are asked for when they are due, the API server's account is kept."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from loadtests.kubernetes.bench.schedule import Played, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtests.kubernetes.bench.fleet import Fleet

PATIENCE_SECONDS = 600.0
"""So much later than the schedule's own end everything may be done."""
_TELL_SECONDS = 15.0


async def play(fleet: Fleet, schedule: Schedule, want: Callable[[str, int], int], say: Callable[[str], None]) -> Played:
    """All of `schedule`: `want(endpoint, count)` asks for a change and says when it did (Unix nanoseconds).

    Raises RuntimeError when in the end not every deployment has as many pods as in the beginning, or one never had more.
    """
    began, began_ns, before = time.monotonic(), time.time_ns(), fleet.pods.deleted
    cpu, told = fleet.server_cpu_seconds(), time.monotonic()
    asked: dict[tuple[str, int], int] = {}
    for change in schedule:
        await asyncio.sleep(max(0.0, began + change.at_seconds - time.monotonic()))
        asked[change.endpoint, change.count] = want(change.endpoint, change.count)
        if time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            say(
                f"{len(asked)} of {2 * len(schedule.endpoints)} changes, {len(fleet.pods.since(began_ns))} pods created"
            )
    await asyncio.sleep(max(0.0, began + schedule.seconds - time.monotonic()))
    late = await _until_all_is_done(fleet, schedule, began_ns, before)
    cpu, took = fleet.server_cpu_seconds() - cpu, time.monotonic() - began
    if late > 1:
        say(f"all was done only {late:.0f} s after the last rest: this machine is too busy for so much")
    return Played(asked, cpu, took, fleet.pods.since(began_ns), fleet.pods.deleted - before)


async def _until_all_is_done(fleet: Fleet, schedule: Schedule, since_ns: int, deleted: int) -> float:
    """Seconds that it took after the schedule's end."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while missing := _missing(fleet, schedule, since_ns, deleted):
                await fleet.pods.news()
    except TimeoutError:
        raise RuntimeError(f"{PATIENCE_SECONDS:g} s after the schedule's end {missing}") from None
    return time.monotonic() - began


def _missing(fleet: Fleet, schedule: Schedule, since_ns: int, deleted: int) -> str:
    created = fleet.pods.since(since_ns)
    if lacking := [name for name in schedule.endpoints if name not in created]:
        return f"{len(lacking)} deployments never had a pod more, such as {lacking[0]}"
    if odd := [name for name in schedule.endpoints if fleet.pods.alive[name] != schedule.low]:
        return f"{len(odd)} deployments have not {schedule.low} pods, such as {odd[0]} with {fleet.pods.alive[odd[0]]}"
    if fleet.pods.deleted - deleted < len(schedule.endpoints):
        return f"only {fleet.pods.deleted - deleted} of {len(schedule.endpoints)} pods are gone"
    return ""
