"""The rows about a fleet, from one cluster: our own autoscaler first, then Kubernetes' HPA controller in its place."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtests.kubernetes.bench import hpa
from loadtests.kubernetes.bench.fleet import fleet
from loadtests.kubernetes.bench.scaling import scaled
from loadtests.kubernetes.bench.schedule import Schedule, milliseconds
from loadtests.scoreboard import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from loadtests.kubernetes.bench.fleet import Fleet
    from loadtests.kubernetes.bench.scaling import Scaled
    from loadtests.kubernetes.bench.schedule import Played
    from loadtests.kubernetes.bench.sizes import Sizes

IDLE_SECONDS = 20.0
RESYNC_GOAL, MEMORY_GOAL, WRITES_GOAL, CREATED_GOAL = 10.0, 400.0, 2.0, 1000.0


@dataclass(frozen=True, slots=True)
class _Beside:
    """What was measured without us."""

    idle_cpu: float
    """CPU seconds per second of the API server, while nobody scales."""
    rest_cpu: float
    """The same with HPAs that have nothing to do."""
    played: Played


async def rows(folder: Path, sizes: Sizes, names: Collection[str], say: Callable[[str], None]) -> list[Row]:
    """`names`: `fleet`, `hpa` or both; the second needs the first's figures and measures them in any case."""
    async with fleet(folder, sizes) as here:
        say(f"a cluster with {sizes.nodes} make-believe nodes at {here.bed.server}")
        schedule = Schedule.of(here.names, sizes)
        made = await scaled(here, schedule, say)
        found = _fleet_rows(made, schedule, sizes) if "fleet" in names else []
        if "hpa" in names:
            beside = await _without_us(here, schedule, say)
            found.append(_hpa_row(made, beside, schedule, sizes))
    return found


async def _without_us(here: Fleet, schedule: Schedule, say: Callable[[str], None]) -> _Beside:
    await asyncio.sleep(5)
    idle = await here.at_rest(IDLE_SECONDS)
    say(f"nobody scales: the API server takes {idle:.0%} of one core")
    return _Beside(idle, *await hpa.scheduled(here, schedule, say))


def _fleet_rows(made: Scaled, schedule: Schedule, sizes: Sizes) -> list[Row]:
    size = f"{sizes.deployments} deployments, {sizes.deployments * sizes.replicas} pods"
    count, resync = len(schedule.endpoints), made.resync
    if resync is None:
        raise RuntimeError("no restart was measured")
    up, down = made.writes_up.total() / count, made.writes_down.total() / count
    writes = (made.writes_up + made.writes_down).total() / (2 * count)
    p50, p99 = milliseconds(made.decided, made.played.created, schedule.endpoints)
    _, lag = milliseconds(made.played.asked_up(schedule), made.decided, schedule.endpoints)
    _, ours = milliseconds(made.decided, made.written, schedule.endpoints)
    _, theirs = milliseconds(made.written, made.played.created, schedule.endpoints)
    megabytes, settled = made.peak_bytes / 1e6, made.settled_bytes / 1e6
    return [
        Row(
            f"{size}: autoscaler killed and started again → it knows all and has acted", "s", resync.acted,
            {"says ready s": resync.ready, "last take-over write s": resync.stamped, "writes": float(resync.writes)},
            None, f"≤ {RESYNC_GOAL:g} s", resync.acted <= RESYNC_GOAL,
        ),
        Row(
            f"{size}: the autoscaler's resident memory, at most", "MB", megabytes, {"settled MB": settled}, None,
            f"≤ {MEMORY_GOAL:g} MB", megabytes <= MEMORY_GOAL,
        ),
        Row(
            f"API writes per scaling decision ({count} up, {count} down, by the audit log)", "", writes,
            {"up": up, "down": down}, None, f"≤ {WRITES_GOAL:g} each way", max(up, down) <= WRITES_GOAL,
        ),
        Row(
            f"decision → its pod is created, p99 of {count} at {sizes.decisions_per_second:g} decisions/s", "ms", p99,
            {
                "p50 ms": p50, "decision → write p99 ms": ours, "write → pod p99 ms": theirs, "asked → decision p99 ms": lag,
                "fleet from nothing s": made.grown_seconds,
            },
            None, f"≤ {CREATED_GOAL:g} ms", p99 <= CREATED_GOAL,
        ),
    ]  # fmt: skip


def _hpa_row(made: Scaled, beside: _Beside, schedule: Schedule, sizes: Sizes) -> Row:
    ours, theirs = made.played, beside.played
    idle = beside.idle_cpu * ours.seconds
    ratio = ours.cpu_seconds / theirs.cpu_seconds
    net = (ours.cpu_seconds - idle) / max(0.01, theirs.cpu_seconds - beside.idle_cpu * theirs.seconds)
    _, late = milliseconds(theirs.asked_up(schedule), theirs.created, schedule.endpoints)
    figures = {
        f"{sizes.deployments} HPAs s": theirs.cpu_seconds, "nobody scales s": idle, "ratio above idle": net,
        "HPAs took s": theirs.seconds, "at rest, ours: % of a core": made.rest * 100,
        "at rest, HPAs: % of a core": beside.rest_cpu * 100, "HPA asked → pod p99 s": late / 1e3,
    }  # fmt: skip
    work = f"API server's CPU for {2 * len(schedule.endpoints)} changes of count in {ours.seconds:.0f} s, everything included"
    return Row(work, "s", ours.cpu_seconds, figures, ratio, "< 1 of the HPAs'", ratio < 1)
