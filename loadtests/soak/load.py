"""Open-loop load of every kind at a rate that keeps the machine busy to a part of it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadtests.soak import kinds, rude, sockets, sticky, streams
from loadtests.soak.processes import Machine

if TYPE_CHECKING:
    from loadtests.soak.road import Road

BUSY = 0.6
"""Share of all cores that are to be busy, with whatever else runs on the machine."""
LEAST, MOST = 50.0, 400.0
"""Requests a second: on a machine that others keep busy it is the least."""
_MOST_AT_ONCE = 500
_PACE_SECONDS = 2.0
_NAMED = ("blue", "green")
Does = Callable[["Road"], Awaitable[object]]
SHARES: tuple[tuple[float, Does], ...] = (
    (36, kinds.json_kept),
    (8, kinds.json_fresh),
    (6, kinds.pipelined),
    (5, kinds.stream),
    (0.7, kinds.upload),
    (3, kinds.upload_chunked),
    (2, kinds.both_ways),
    (3, kinds.head_only),
    (4, kinds.model_error),
    (2, kinds.turned_away),
    (2, kinds.http10),
    (1.5, kinds.expecting),
    (2, kinds.half_close),
    (2, kinds.slow_sender),
    (1, kinds.slow_reader),
    (1.5, kinds.unframed),
    (6, rude.leaves),
    (2, rude.garbage),
    (1, rude.bad_chunk),
    (3, streams.json_stream),
    (0.5, streams.at_once),
    (1, streams.events),
    (0.3, streams.upload),
    (1, streams.slow_reader),
    (2, streams.taken_back),
    (3, streams.grpc_unary),
    (1.5, streams.grpc_talk),
    (1.5, lambda road: streams.json_stream(road, streams.CALLS)),
    (1.5, lambda road: kinds.json_kept(road, streams.CALLS, "json to replicas of HTTP/2")),
    (2, sockets.echoes),
)
"""In clear text."""
UNDER_TLS: tuple[tuple[float, Does], ...] = (
    (4, kinds.json_kept),
    (2, kinds.json_fresh),
    (0.5, kinds.pipelined),
    (1, kinds.stream),
    (0.2, kinds.upload),
    (0.5, kinds.both_ways),
    (0.5, kinds.expecting),
    (0.5, kinds.slow_reader),
    (1, rude.leaves),
    (3, streams.json_stream),
    (0.3, streams.at_once),
    (0.5, streams.events),
    (0.2, streams.upload),
    (0.5, streams.taken_back),
    (1, streams.grpc_unary),
    (1, streams.grpc_talk),
    (1, sockets.echoes),
)


@dataclass(slots=True)
class Load:
    """The generator."""

    road: Road
    secure: Road
    """To the gateway under TLS."""
    stickiness: sticky.Stickiness
    long_seconds: float = 60.0
    """Longest that a WebSocket stays."""
    most: float = MOST
    """Requests a second, however idle the machine is."""
    rate: float = 60.0
    """Requests a second."""
    named: list[str] = field(default_factory=lambda: list(_NAMED))
    """Deployments that callers name."""
    late_seconds: float = 0.0
    """Most that a request began after its time: the generator itself was held up."""
    skipped: int = 0
    """Not begun, because too many were under way."""
    busy: float = 0.0
    """Of the machine, newest."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def _choices(self) -> tuple[list[Callable[[], Awaitable[object]]], list[float]]:
        state, road, secure = self.stickiness, self.road, self.secure
        more: tuple[tuple[float, Does], ...] = (
            (8, lambda road: sticky.sticks(road, state)),
            (1, lambda road: sticky.gets_cookie(road, state)),
            (4, lambda road: kinds.named(road, road.chance.choice(self.named))),
            (0.2, lambda road: sockets.stays(road, self.long_seconds)),
        )
        long: tuple[float, Does] = (0.1, lambda road: sockets.stays(road, self.long_seconds))
        everything = [(share, functools.partial(does, road)) for share, does in (*SHARES, *more)]
        everything += [(share, functools.partial(does, secure)) for share, does in (*UNDER_TLS, long)]
        return [does for _, does in everything], [share for share, _ in everything]

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then what is under way ends by itself."""
        does, shares = self._choices()
        self.rate = min(self.rate, self.most)
        pacing = asyncio.create_task(self._pace(), name="pace")
        due = time.monotonic()
        try:
            while not stop.is_set():
                due += self.road.chance.expovariate(self.rate)
                ahead = due - time.monotonic()
                if ahead > 0:
                    await asyncio.sleep(ahead)
                else:
                    self.late_seconds = max(self.late_seconds, -ahead)
                    if ahead < -1:
                        due = time.monotonic()
                    await asyncio.sleep(0)
                self._begin(self.road.chance.choices(does, shares)[0])
        finally:
            pacing.cancel()
        await self._rest()

    def _begin(self, does: Callable[[], Awaitable[object]]) -> None:
        if len(self._tasks) >= _MOST_AT_ONCE:
            self.skipped += 1
            return
        task = asyncio.create_task(_as_task(does()))
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.road.account.fault(f"a caller of the soak itself failed: {error!r}")

    async def _rest(self) -> None:
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _pace(self) -> None:
        machine = Machine()
        machine.busy()
        while True:
            await asyncio.sleep(_PACE_SECONDS)
            self.busy = machine.busy()
            wanted = self.rate * min(1.25, max(0.7, BUSY / max(self.busy, 0.01)))
            self.rate = min(self.most, max(LEAST, wanted))


async def _as_task(work: Awaitable[object]) -> None:
    await work
