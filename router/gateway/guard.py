"""The worker's guard against overload: it looks at memory, at how late the loop runs and at connections, a few times a second.

What it finds stands in three words of `State` that requests look at (`closing`, `shedding`, `pressed`). Who is inside goes on;
newcomers are refused, the newest first therefore, and of endpoints with classes the lowest class before all others.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from router.policy.overload import Level, Marks, Steady
from router.runtime.exposition import single
from router.runtime.memory import Resident, give_back, group_limit
from router.runtime.telemetry import Limited

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator

    from router.gateway.state import State
    from router.runtime.exposition import Family
    from router.runtime.settings import GatewaySettings

_LOG = logging.getLogger(__name__)
_TURN_SECONDS = 0.1
_SLOW_TURNS = 10
"""Turns between two looks at memory and at idle connections."""
_TRIM_TURNS = 50
_PRESSED_LAG = 0.25
"""Of the lag that overloads."""
_MEMORY = (0.85, 0.95)
_CONNECTIONS = (0.9, float("inf"))
_IDLE_NS = 5_000_000_000
"""A connection that is idle for so long is closed when connections or memory are short."""


def memory_limit(settings: GatewaySettings) -> int:
    """Bytes that this worker may have; 0 = any."""
    return settings.memory_limit_bytes or (group_limit() or 0) // settings.workers


class Guard:
    """Of one worker."""

    def __init__(self, state: State) -> None:
        settings = state.settings
        self._state = state
        self._limit = memory_limit(settings)
        self._memory: Resident | None = None
        self._say = Limited(_LOG)
        lag = settings.overload_lag_seconds or float("inf")
        self._steady = Steady()
        self._by_lag = Marks(lag * _PRESSED_LAG, lag)
        self._by_memory = Marks(*_MEMORY)
        self._by_connections = Marks(*_CONNECTIONS)
        self._turns = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.lag = 0.0
        self.resident = 0

    def open(self) -> None:
        """Begin to look."""
        self._memory = Resident()
        self._wait()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _wait(self) -> None:
        self._due = time.monotonic() + _TURN_SECONDS
        self._timer = self._state.loop.call_later(_TURN_SECONDS, self._turn)

    def _turn(self) -> None:
        # How late this is run is how long callers wait for a turn.
        self.lag = self._steady.take(max(0.0, time.monotonic() - self._due))
        self._by_lag.take(self.lag)
        if self._turns % _SLOW_TURNS == 0:
            self._look_slowly()
        self._turns += 1
        self._by_connections.take(self._state.doors.open / self._state.doors.most)
        self._set()
        self._wait()

    def _look_slowly(self) -> None:
        assert self._memory is not None
        self.resident = self._memory.bytes()
        if self._by_memory.take(self.resident / self._limit if self._limit else 0.0) and self._turns % _TRIM_TURNS == 0:
            give_back()
        if self._is_short():
            since = time.monotonic_ns() - _IDLE_NS
            for connection in list(self._state.connections):
                connection.leave_if_idle(since)

    def _is_short(self) -> bool:
        """Whether there is too little of what open connections take."""
        return bool(self._by_memory.level or self._by_connections.level)

    @property
    def level(self) -> Level:
        """How hard the worker is pressed."""
        return max(self._by_lag.level, self._by_memory.level, self._by_connections.level)

    def _set(self) -> None:
        state, level = self._state, self.level
        before = (state.pressed, state.shedding)
        state.pressed = level is not Level.CALM
        state.shedding = level is Level.OVERLOADED
        state.closing = state.stopping or state.shedding or self._is_short()
        if (state.pressed, state.shedding) != before:
            fields = {"lag": f"{self.lag:.3f}", "memory": self.resident, "connections": state.doors.open}
            self._say.warning(f"overload {level.name.lower()}", "how hard this worker is pressed has changed", **fields)

    def families(self) -> Iterator[Family]:
        """What it measures."""
        doors = self._state.doors
        return families(self.level, self.lag, self.resident, self._limit, doors.open, doors.most)


def families(  # noqa: PLR0917 -- one number each
    level: int, lag: float, resident: int, limit: int, connections: int, most: int
) -> Iterator[Family]:
    """What a guard measures, in numbers."""
    for name, words, value in (
        ("overload_level", "0: calm, 1: pressed, 2: overloaded, so that new requests are refused", level),
        ("loop_lag_seconds", "How late the event loop runs what is due, the least of the last three looks", lag),
        ("memory_bytes", "Memory of the worker that is in RAM", resident),
        ("memory_limit_bytes", "Memory that the worker may have; 0 = any", limit),
        ("open_connections", "Connections of callers now", connections),
        ("connections_limit", "Most connections of callers", most),
    ):
        yield single(f"tidegate_gateway_{name}", "gauge", words, float(value))
