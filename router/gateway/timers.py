"""One coarse timer wheel per worker: moving a deadline costs two stores, because an entry stays where it is.

An entry stands in the slot of some earlier deadline; when that comes, it is moved on to the slot of its present one. So
a connection that moves its deadline with every request enters a slot only once per span of its longest deadline.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from typing import Final, Protocol

from router.gateway.ends import Near

_SHIFT: Final = 23
"""A slot is 2^23 ns, 8.4 ms: deadlines are met that much late."""
NEVER: Final = (1 << 62) - 1
"""The largest number that compiled code holds in a machine word."""
_TURN_NS: Final = 4_000_000
"""Longest work of one turn; thousands of deadlines can be the same moment, and all else of the loop waits meanwhile."""
_LOOK: Final = 0xF
"""One in sixteen entries looks at the clock before."""


class Timed(Protocol):
    """What can stand in the wheel."""

    deadline: int
    """Monotonic nanoseconds; `NEVER` for none."""
    slot: int
    """The earliest slot it stands in; `NEVER` for none."""

    def on_deadline(self, now: int) -> None:
        """The deadline has passed and is cleared."""


class Wheel:
    """Slots of entries, and one loop timer for the earliest slot."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, list[Timed]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, entry: Timed, deadline: int) -> None:
        """Let `entry.on_deadline` run soon after `deadline`, instead of at any deadline it had."""
        slot = (deadline >> _SHIFT) + 1
        if isinstance(entry, Near):  # most are, and of these the compiler knows where their attributes are
            entry.deadline = deadline
            if slot >= entry.slot:
                return
        else:
            entry.deadline = deadline
        if slot < entry.slot:
            self._enter(entry, slot)

    @staticmethod
    def disarm(entry: Timed) -> None:
        """Let nothing happen to `entry` any more; its slot forgets it when it comes."""
        entry.deadline = NEVER

    def _enter(self, entry: Timed, slot: int) -> None:
        entry.slot = slot
        entries = self._slots.get(slot)
        if entries is not None:
            entries.append(entry)
            return
        self._slots[slot] = [entry]
        heapq.heappush(self._order, slot)
        if self._order[0] == slot:
            self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._order:
            wait = (self._order[0] << _SHIFT) - time.monotonic_ns()
            self._timer = self._loop.call_later(max(0.001, wait / 1e9), self._turn)

    def _turn(self) -> None:
        now = time.monotonic_ns()
        reached = now >> _SHIFT
        self._timer = None
        due: list[Timed] = []
        while self._order and self._order[0] <= reached:
            slot = heapq.heappop(self._order)
            due += [entry for entry in self._slots.pop(slot) if entry.slot == slot]
        for at, entry in enumerate(due):
            if at & _LOOK == _LOOK and time.monotonic_ns() - now > _TURN_NS:
                self._put_back(due[at:])
                break
            entry.slot = NEVER
            if entry.deadline > now:
                if entry.deadline != NEVER:
                    self._enter(entry, (entry.deadline >> _SHIFT) + 1)
            else:
                entry.deadline = NEVER
                entry.on_deadline(now)
        self._go_on()

    def _put_back(self, entries: list[Timed]) -> None:
        """Into the slots they were in: their turn is the next one."""
        for entry in entries:
            if entry.slot in self._slots:
                self._slots[entry.slot].append(entry)
            else:
                self._slots[entry.slot] = [entry]
                heapq.heappush(self._order, entry.slot)
        self._schedule()

    def _go_on(self) -> None:
        """Behind a turn, unless somebody has armed something meanwhile. (A method of its own: the compiler takes for granted
        that what was None before a call is None behind it.)
        """
        if self._timer is None:
            self._schedule()

    def close(self) -> None:
        """Forget everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots.clear()
        self._order.clear()
