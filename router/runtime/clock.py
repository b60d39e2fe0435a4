"""The two clocks of a process behind one small interface, so that tests can move time by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds for durations, Unix nanoseconds for facts that leave the process."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""

    def time_ns(self) -> int:
        """Unix nanoseconds; may jump when the machine's clock is set."""

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` of monotonic time are over; always gives other tasks a turn."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def time_ns(self) -> int:
        """See `Clock`."""
        return time.time_ns()

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(max(0.0, seconds))


class ManualClock:
    """Time that stands still until `advance`. For tests; one event loop at a time."""

    def __init__(self, *, monotonic: float = 1_000.0, time_ns: int = 1_700_000_000_000_000_000) -> None:
        self._monotonic_ns = round(monotonic * 1e9)
        self._time_ns = time_ns
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        """See `Clock`."""
        return self._monotonic_ns / 1e9

    def time_ns(self) -> int:
        """See `Clock`."""
        return self._time_ns

    @property
    def sleepers(self) -> int:
        """How many tasks are asleep on this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both clocks and wake whoever slept until then, earliest first."""
        if seconds < 0:
            raise ValueError("time does not go back")
        step = round(seconds * 1e9)
        self._monotonic_ns += step
        self._time_ns += step
        while self._sleepers and self._sleepers[0][0] <= self._monotonic_ns:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Sleep until `advance` has moved time that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic_ns + round(seconds * 1e9), next(self._order), future))
        await future
