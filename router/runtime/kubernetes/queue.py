"""What is to be looked at next: each target at most once in the queue and by one worker at a time.

After a failure it waits longer and longer, whatever happens to it meanwhile; a new wish waits the first pause only.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from router.runtime.clock import Clock
from router.runtime.kubernetes import Backoff
from router.runtime.kubernetes.pacing import Chance

Target = tuple[str, str]
"""(endpoint, deployment); the deployment is empty for a whole endpoint."""
FIRST_PAUSE_SECONDS = 0.5
MOST_PAUSE_SECONDS = 60.0


@dataclass(slots=True)
class _Failing:
    backoff: Backoff
    since: float = 0.0
    until: float = 0.0
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)


class Queue:
    """Targets that something has happened to."""

    def __init__(self, clock: Clock, chance: Chance) -> None:
        self._clock = clock
        self._chance = chance
        self._waiting: asyncio.Queue[Target] = asyncio.Queue()
        self._urgent: asyncio.Queue[Target] = asyncio.Queue()
        self._queued: set[Target] = set()
        self._busy: set[Target] = set()
        self._failing: dict[Target, _Failing] = {}
        self._something = asyncio.Semaphore(0)

    def add(self, target: Target, *, urgent: bool = False) -> None:
        """Look at `target` soon; `urgent` ones first."""
        failing = self._failing.get(target)
        if failing is not None and failing.until > self._clock.monotonic():
            if urgent:
                self._schedule(target, failing, min(failing.until, failing.since + FIRST_PAUSE_SECONDS))
            return
        if target in self._queued and not urgent:
            return
        self._queued.add(target)
        if target not in self._busy:
            self._put(target, urgent=urgent)

    async def next(self) -> Target:
        """The next one to look at. Say `done` afterwards."""
        while True:
            await self._something.acquire()
            target = self._waiting.get_nowait() if self._urgent.empty() else self._urgent.get_nowait()
            if target in self._queued and target not in self._busy:  # else it was taken when it was urgent
                self._queued.discard(target)
                self._busy.add(target)
                return target

    def done(self, target: Target, *, failed: bool = False, least_seconds: float = 0.0) -> float:
        """`target` was looked at; returns the pause until it is looked at again after it `failed`."""
        self._busy.discard(target)
        pause = self._fail(target, least_seconds) if failed else self._heal(target)
        if target in self._queued:
            if failed:
                self._queued.discard(target)
            else:
                self._put(target, urgent=False)
        return pause

    def close(self) -> None:
        """No timer runs on."""
        for target in list(self._failing):
            self._heal(target)

    def _put(self, target: Target, *, urgent: bool) -> None:
        (self._urgent if urgent else self._waiting).put_nowait(target)
        self._something.release()

    def _fail(self, target: Target, least_seconds: float) -> float:
        failing = self._failing.get(target)
        if failing is None:
            backoff = Backoff(FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS, self._chance)
            failing = self._failing[target] = _Failing(backoff)
        pause = max(failing.backoff.next(), least_seconds)
        failing.since = self._clock.monotonic()
        self._schedule(target, failing, failing.since + pause)
        return pause

    def _schedule(self, target: Target, failing: _Failing, at: float) -> None:
        if failing.timer is not None:
            failing.timer.cancel()
        failing.until = at
        wait = max(0.0, at - self._clock.monotonic())
        failing.timer = asyncio.get_running_loop().call_later(wait, self._again, target)

    def _again(self, target: Target) -> None:
        failing = self._failing.get(target)
        if failing is not None:
            failing.until = 0.0
            self.add(target)

    def _heal(self, target: Target) -> float:
        failing = self._failing.pop(target, None)
        if failing is not None and failing.timer is not None:
            failing.timer.cancel()
        return 0.0
