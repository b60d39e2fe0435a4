"""How often may be asked: writes at a steady rate, and longer and longer pauses after failures. No hot loop.

Time and chance are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from router.runtime.clock import Clock

Chance = Callable[[], float]
"""0 ≤ x < 1, such as `random.random`."""


class Pace:
    """At most `burst` at once and `per_second` after that; whoever comes first goes first."""

    def __init__(self, per_second: float, burst: int, clock: Clock) -> None:
        self._gap = 1.0 / per_second
        self._allowance = (burst - 1) / per_second
        self._clock = clock
        self._due = clock.monotonic()

    async def turn(self) -> None:
        """Return when it is our turn."""
        now = self._clock.monotonic()
        due = max(self._due, now)
        self._due = due + self._gap
        wait = due - self._allowance - now
        if wait > 0:
            await self._clock.sleep(wait)


@dataclass(slots=True)
class Backoff:
    """Pauses that double from `first_seconds` to `most_seconds`, each drawn from the upper half of its length."""

    first_seconds: float
    most_seconds: float
    chance: Chance
    failures: int = 0
    """In a row."""

    def next(self) -> float:
        """Seconds to pause after one more failure."""
        whole = min(self.most_seconds, self.first_seconds * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return float(whole * (0.5 + 0.5 * self.chance()))

    def reset(self) -> None:
        """It worked."""
        self.failures = 0
