"""The shipper by itself: many small messages that have waited, and one message from end to end."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import numpy as np

from loadtests.log.machine import POLL_SECONDS, machine
from loadtests.log.recording import records
from loadtests.measure import cpu_seconds
from loadtests.scoreboard import Row
from router.contract.events import DEMAND
from router.gateway.records import Ledger
from router.gateway.state import Counters
from router.runtime.log.embedded import FILE
from router.runtime.log.opening import open_log
from router.runtime.log.spool import Spool
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loadtests.log.machine import Machine

ENDPOINTS = 24


async def many(folder: Path, servers: str, say: Callable[[str], None], *, quick: bool) -> Row:
    """Messages of one record, all in the spool before the shipper starts."""
    count = 10_000 if quick else 100_000
    url = f"kafka://{servers}/many"
    data = DataLayout(folder / "data")
    data.create()
    await _fill(url, data, count)
    spool = Spool.open(data.spool / FILE)
    try:
        async with machine(folder, url) as here:
            samples = [(time.monotonic(), spool.size().rows, cpu_seconds([here.shipper]))]
            async with asyncio.timeout(180):
                while samples[-1][1]:
                    await asyncio.sleep(POLL_SECONDS)
                    samples.append((time.monotonic(), spool.size().rows, cpu_seconds([here.shipper])))
    finally:
        spool.close()
    # The start of the producer and its topics is not the shipper's speed.
    first = max(at for at, (_, rows, _) in enumerate(samples) if rows >= count)
    (began, _, cpu_before), (ended, _, cpu_after) = samples[first], samples[-1]
    rate = count / (ended - began)
    say(f"{count} messages shipped at {rate:,.0f}/s")
    beside = {"µs CPU each": (cpu_after - cpu_before) / count * 1e6}
    return Row(f"shipper: {count:,} messages of 1 record", "/s", rate, beside, None, "watched", None)


async def _fill(url: str, data: DataLayout, count: int) -> None:
    log = open_log(url, spool=data.spool, role="bench")
    ledgers = [Ledger(log, f"many-{number}", Counters()) for number in range(ENDPOINTS)]
    made = records()
    try:
        for number in range(count):
            ledger = ledgers[number % ENDPOINTS]
            ledger.add(*made[number % len(made)])
            ledger.flush()
            if number % 5_000 == 0:
                await log.flush()
        await log.flush()
    finally:
        await log.close()


async def one(here: Machine, say: Callable[[str], None], *, quick: bool) -> Row:
    """append → a reader of Kafka in the same process has it, with nothing else to do."""
    log = open_log(here.log, spool=here.spool, role="bench")
    took: list[float] = []
    try:
        reader = await log.reader((DEMAND,), "latest")
        for number in range(50 if quick else 400):
            await asyncio.sleep(random.uniform(0.0, 0.02))
            begun = time.perf_counter()
            log.append(DEMAND, f"one-{number % ENDPOINTS}", b"d" * 300)
            if not await reader.next(30):
                raise RuntimeError("a message did not come within 30 s")
            took.append((time.perf_counter() - begun) * 1000)
    finally:
        await log.close()
    p50, p99 = np.percentile(took, (50, 99))
    say(f"one message from end to end: {p50:.1f} ms, p99 {p99:.1f} ms")
    return Row("one message, append → read: p99", "ms", float(p99), {"p50": float(p50)}, None, "watched", None)
