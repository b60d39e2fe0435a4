"""Traffic that knows the fate of every request it sent."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Sequence

_PATIENCE = aiohttp.ClientTimeout(total=60)


@dataclass(slots=True)
class Tally:
    """What became of the requests of one stage."""

    sent: int = 0
    answered: int = 0
    by_deployment: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    """Seconds, one per answered request."""

    @property
    def lost(self) -> int:
        """Requests without a 200."""
        return self.sent - self.answered

    def quantile_ms(self, q: float) -> float:
        """Latency quantile in milliseconds; 0 before the first answer."""
        if not self.latencies:
            return 0.0
        ranked = sorted(self.latencies)
        return ranked[min(len(ranked) - 1, int(q * len(ranked)))] * 1000

    def add(self, other: Tally) -> None:
        """Count another stage's requests too."""
        self.sent += other.sent
        self.answered += other.answered
        self.by_deployment += other.by_deployment
        self.failures += other.failures
        self.latencies += other.latencies


class Client:
    """Sends pictures of digits to one scoring address and tallies the answers."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str, bodies: Sequence[str]) -> None:
        self._session = session
        self._url = url
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._bodies = itertools.cycle(bodies)
        self.tally = Tally()

    async def send(self) -> None:
        """One request; never raises for what the network or the server does."""
        tally, started = self.tally, time.monotonic()
        tally.sent += 1
        try:
            request = self._session.post(self._url, data=next(self._bodies), headers=self._headers, timeout=_PATIENCE)
            async with request as response:
                text = await response.text()
                if response.status == 200:
                    tally.answered += 1
                    tally.latencies.append(time.monotonic() - started)
                    tally.by_deployment[response.headers.get("azureml-model-deployment", "?")] += 1
                else:
                    tally.failures[f"{response.status} {text[:200]}"] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            tally.failures[repr(error)[:200]] += 1

    async def steady(self, per_second: float, seconds: float, most: int = 12) -> None:
        """A paced loop: requests leave on time, whether or not earlier ones have come back, while no more than `most` are out.

        Without that bound a machine that is busy otherwise would be sent more than its replicas may queue, and the demo
        would show their limit instead of what it is about.
        """
        count = int(per_second * seconds)
        started, free = time.monotonic(), asyncio.Semaphore(most)

        async def one() -> None:
            async with free:
                await self.send()

        async with asyncio.TaskGroup() as group:
            for index in range(count):
                await asyncio.sleep(max(0.0, started + index / per_second - time.monotonic()))
                group.create_task(one(), name=f"request-{index}")

    async def crowd(self, callers: int, seconds: float) -> None:
        """Closed loop: `callers` people, each sending again as soon as the answer is there."""
        ends = time.monotonic() + seconds

        async def caller() -> None:
            while time.monotonic() < ends:
                await self.send()

        async with asyncio.TaskGroup() as group:
            for index in range(callers):
                group.create_task(caller(), name=f"caller-{index}")
