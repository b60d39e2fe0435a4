"""The wheel: deadlines are met late by at most a slot, never early, and moving one costs no new entry."""

from __future__ import annotations

import asyncio
import time

from router.gateway.timers import NEVER, Wheel

MS = 1_000_000


class Entry:
    def __init__(self) -> None:
        self.deadline = NEVER
        self.slot = NEVER
        self.fired: list[int] = []
        self.event = asyncio.Event()

    def on_deadline(self, now: int) -> None:
        self.fired.append(now)
        self.event.set()


async def test_deadlines_come_in_time_and_not_early() -> None:
    wheel = Wheel(asyncio.get_running_loop())
    entries = [Entry() for _ in range(20)]
    deadlines = [time.monotonic_ns() + (20 - number) * 5 * MS for number in range(20)]
    for entry, deadline in zip(entries, deadlines, strict=True):
        wheel.arm(entry, deadline)
    for entry, deadline in zip(entries, deadlines, strict=True):
        await asyncio.wait_for(entry.event.wait(), 30)
        assert len(entry.fired) == 1
        assert entry.fired[0] >= deadline
    wheel.close()


async def test_a_deadline_may_move_either_way_or_vanish() -> None:
    wheel = Wheel(asyncio.get_running_loop())
    later, sooner, never, last = (Entry() for _ in range(4))
    now = time.monotonic_ns()
    wheel.arm(later, now + 20 * MS)
    wheel.arm(later, now + 150 * MS)
    wheel.arm(sooner, now + 3_600_000 * MS)
    wheel.arm(sooner, now + 20 * MS)
    wheel.arm(never, now + 20 * MS)
    wheel.disarm(never)
    wheel.arm(last, now + 200 * MS)
    await asyncio.wait_for(last.event.wait(), 30)
    assert later.fired[0] >= now + 150 * MS
    assert sooner.fired[0] < later.fired[0]
    assert never.fired == []
    wheel.close()


async def test_an_entry_that_fired_can_be_armed_again() -> None:
    wheel = Wheel(asyncio.get_running_loop())
    entry = Entry()
    for count in (1, 2, 3):
        entry.event.clear()
        wheel.arm(entry, time.monotonic_ns() + 5 * MS)
        await asyncio.wait_for(entry.event.wait(), 30)
        assert len(entry.fired) == count
    wheel.close()


class Slow(Entry):
    """Takes a millisecond, as dozens of refusals do."""

    def on_deadline(self, now: int) -> None:
        time.sleep(0.001)
        super().on_deadline(now)


async def test_many_that_are_due_at_once_leave_turns_to_others() -> None:
    loop = asyncio.get_running_loop()
    wheel = Wheel(loop)
    entries = [Slow() for _ in range(100)]
    deadline = time.monotonic_ns() + 5 * MS
    for entry in entries:
        wheel.arm(entry, deadline)
    await entries[0].event.wait()
    assert not entries[-2].fired
    wheel.arm(entries[-1], deadline + 3_600_000 * MS)  # moved after its slot has come, before its turn
    for entry in entries[:-1]:
        await asyncio.wait_for(entry.event.wait(), 30)
    assert all(len(entry.fired) == 1 for entry in entries[:-1])
    assert not entries[-1].fired
    wheel.close()
