"""Time by hand."""

from __future__ import annotations

import asyncio
import time

import pytest

from router.runtime.clock import Clock, ManualClock, SystemClock


def test_manual_time_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock(monotonic=5.0, time_ns=7)
    assert (clock.monotonic(), clock.time_ns()) == (5.0, 7)
    clock.advance(1.5)
    assert (clock.monotonic(), clock.time_ns()) == (6.5, 1_500_000_007)
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)


async def test_sleepers_wake_in_order_and_not_before_their_time() -> None:
    clock = ManualClock()
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    tasks = [asyncio.create_task(sleeper(name, s)) for name, s in (("late", 3.0), ("early", 1.0), ("now", 0.0))]
    while woken != ["now"]:
        await asyncio.sleep(0)
    assert clock.sleepers == 2
    clock.advance(0.999)
    await asyncio.sleep(0)
    assert woken == ["now"]
    clock.advance(5)
    await asyncio.gather(*tasks)
    assert woken == ["now", "early", "late"]


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(1))
    while not clock.sleepers:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert clock.sleepers == 0
    clock.advance(2)


async def test_the_system_clock_is_the_machines() -> None:
    clock: Clock = SystemClock()
    assert abs(clock.time_ns() - time.time_ns()) < 60e9
    before = clock.monotonic()
    await clock.sleep(-1)
    assert clock.monotonic() >= before
