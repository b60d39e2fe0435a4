"""The live path while the broker is away: latency beside that of the same load with the broker there, the gateway's
memory meanwhile, and how long the spool takes to empty once the broker is back."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadtests.log.bursts import slow_model
from loadtests.log.machine import shipped
from loadtests.log.pace import Pace, paced
from loadtests.log.scene import KEY, RATE, Scene, scene
from loadtests.measure import resident_bytes
from loadtests.scoreboard import Row
from router.contract.events import DECISIONS, DEMAND, REQUESTS, SHADOWS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from loadtests.broker import Broker

STREAMS = (REQUESTS, DEMAND, SHADOWS, DECISIONS)
AFTER_SECONDS = 8.0
"""The load goes on while the broker starts and the spool empties."""


@dataclass(slots=True)
class Found:
    """One value a round."""

    running: list[float] = field(default_factory=list)
    """p99 in ms with the broker there."""
    stopped: list[float] = field(default_factory=list)
    growth: list[float] = field(default_factory=list)
    """Of the gateway's resident memory during the outage, MB."""
    waiting: list[float] = field(default_factory=list)
    """From the broker's first answer until what waited for it is there, seconds."""


async def rows(folder: Path, broker: Broker, say: Callable[[str], None], *, quick: bool) -> list[Row]:
    """Rounds of running and stopped, interleaved."""
    count, running, stopped = (1, 5.0, 10.0) if quick else (3, 25.0, 60.0)
    found = Found()
    async with (
        slow_model() as port,
        scene(folder, f"kafka://{broker.servers}/outage", (), slow_port=port, courier=True) as here,
    ):
        await _load(here, 5)
        for turn in range(1, count + 1):
            await _round(here, broker, found, running, stopped)
            say(
                f"outage {turn}/{count}: p99 {found.running[-1]:.2f} ms with the broker, {found.stopped[-1]:.2f} ms "
                f"without, memory {found.growth[-1]:+.2f} MB, spool empty after {found.waiting[-1]:.1f} s"
            )
    there, away = statistics.median(found.running), statistics.median(found.stopped)
    growth, waited = max(found.growth), statistics.median(found.waiting)
    return [
        Row(f"live p99, broker stopped {stopped:g} s, {count} rounds", "ms", away,
            {"running": there}, away / there, "≤ 1.05 ×", away <= 1.05 * there),
        Row("gateway memory gained in an outage, worst", "MB", growth, {}, None, "≤ 1", growth <= 1),
        Row("broker back → spool empty, median", "s", waited, {"longest": max(found.waiting)}, None, "watched", None),
    ]  # fmt: skip


async def _round(here: Scene, broker: Broker, found: Found, running: float, stopped: float) -> None:
    found.running.append((await _load(here, running)).p99_ms)
    await broker.stop()
    async with _memory(here.gateway, stopped / 6) as growth:
        found.stopped.append((await _load(here, stopped)).p99_ms)
    found.growth.append(max(growth) / 1e6)
    load = asyncio.create_task(_load(here, AFTER_SECONDS), name="load while the broker comes back")
    try:
        await broker.start()
        found.waiting.append(await shipped(here.data.spool, STREAMS))
    finally:
        await load


async def _load(here: Scene, seconds: float) -> Pace:
    pace = await paced(here.url(), key=KEY, rate=RATE, seconds=seconds)
    if pace.failed:
        raise RuntimeError(f"{pace.failed} of {pace.requests} requests failed")
    return pace


@contextlib.asynccontextmanager
async def _memory(pid: int, warm_seconds: float) -> AsyncIterator[list[float]]:
    """Bytes more than after the first `warm_seconds`, every half second."""
    seen = [0.0]

    async def watch() -> None:
        await asyncio.sleep(warm_seconds)
        start = resident_bytes(pid)
        while True:
            await asyncio.sleep(0.5)
            seen.append(float(resident_bytes(pid) - start))

    watching = asyncio.create_task(watch(), name="memory")
    try:
        yield seen
    finally:
        watching.cancel()
        await asyncio.wait({watching})
