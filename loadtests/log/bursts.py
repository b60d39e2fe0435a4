"""Burst → decision, by way of the log alone: from the first request's departure to the `decisions` message's own time.

Every burst goes to an endpoint of its own, at a moment drawn at random, while the background load keeps the same
gateway busy. Half of the endpoints have no replica; the others have one and get twice what it can take.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadtests.log.pace import Pace, paced
from loadtests.log.scaler import SLOW
from loadtests.log.scene import KEY, RATE, Scene, endpoint, request, scene
from loadtests.scoreboard import Row
from router.contract.codec import decode_decision
from router.contract.events import DECISIONS
from router.runtime.log.opening import open_log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from router.contract.events import EndpointRevision
    from router.runtime.log.base import Reader

PLACES = 10
"""Requests that one replica serves at once."""
BURST = 2 * PLACES
"""Requests of one burst: as many as may be in flight and queued on one replica."""
SERVICE_SECONDS = 1.0
"""Long enough that a burst outlives the longest interval between two decisions."""
PAUSE_SECONDS = (0.1, 0.2)
"""Between two bursts: drawn evenly, so that no phase of anybody's clock is met more often than another."""
PATIENCE_SECONDS = 20.0
PROMPT, DEFAULT = 0.05, 1.0
"""`polling_interval`, seconds: the shortest that may be asked for, and Azure's own."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of burst."""

    name: str
    replicas: int
    """At the start."""
    polling_seconds: float
    samples: int

    def endpoints(self) -> list[EndpointRevision]:
        """One for each sample."""
        scale = {"min_instances": self.replicas, "max_instances": 8, "polling_interval": self.polling_seconds}
        return [endpoint(name, SLOW, scale, PLACES) for name in self.names()]

    def names(self) -> list[str]:
        """Of the endpoints."""
        return [f"{self.name}-{number}" for number in range(self.samples)]


@dataclass(slots=True)
class Story:
    """What became of the bursts; times in Unix nanoseconds by endpoint."""

    left: dict[str, int]
    decided: dict[str, int]
    """The decision message's own time."""
    read: dict[str, int]
    """When a reader of Kafka in another process had it."""
    refused: int = 0
    """Requests of bursts that got anything but a 200."""

    def milliseconds(self, names: Sequence[str], until: dict[str, int]) -> tuple[float, float]:
        """(p50, p99) of those endpoints."""
        p50, p99 = np.percentile([(until[name] - self.left[name]) / 1e6 for name in names], (50, 99))
        return float(p50), float(p99)


async def rows(folder: Path, servers: str, say: Callable[[str], None], *, quick: bool) -> list[Row]:
    """From zero, growth, and growth at the default interval."""
    zero = Kind("zero", 0, PROMPT, 20 if quick else 110)
    growth = Kind("growth", 1, PROMPT, 20 if quick else 110)
    default = Kind("slower", 1, DEFAULT, 5 if quick else 30)
    kinds = (zero, growth, default)
    async with slow_model() as port:
        endpoints = [one for kind in kinds for one in kind.endpoints()]
        async with scene(folder, f"kafka://{servers}/bursts", endpoints, slow_port=port, courier=False) as here:
            story, pace = await _tell(here, kinds, say)
    if story.refused or pace.failed:
        raise RuntimeError(f"{story.refused} requests of bursts and {pace.failed} of the background were not answered")
    return [
        _row(zero, "from zero", story, pace, goal=True),
        _row(growth, f"growth, polling {PROMPT:g} s", story, pace, goal=True),
        _row(default, f"growth, polling {DEFAULT:g} s (default)", story, pace, goal=False),
    ]


def _row(kind: Kind, what: str, story: Story, pace: Pace, *, goal: bool) -> Row:
    p50, p99 = story.milliseconds(kind.names(), story.decided)
    read50, read99 = story.milliseconds(kind.names(), story.read)
    beside = {"p50": p50, "read p50": read50, "read p99": read99, "requests/s": pace.rate}
    work = f"burst → decision, {what}: p99 of {kind.samples}"
    if not goal:
        return Row(work, "ms", p99, beside, None, "watched", None)
    return Row(work, "ms", p99, beside, None, "p50 ≤ 150\np99 ≤ 250", p99 <= 250 and p50 <= 150)


async def _tell(here: Scene, kinds: Sequence[Kind], say: Callable[[str], None]) -> tuple[Story, Pace]:
    story = Story({}, {}, {})
    names = [name for kind in kinds for name in kind.names()]
    random.shuffle(names)
    log = open_log(here.log, spool=here.data.spool, role="bench")
    try:
        reader = await log.reader((DECISIONS,), "latest")
        seconds = len(names) * sum(PAUSE_SECONDS) / 2 + 5
        load = asyncio.create_task(paced(here.url(), key=KEY, rate=RATE, seconds=seconds), name="background")
        listening = asyncio.create_task(_listen(reader, story, set(names)), name="decisions")
        try:
            await asyncio.sleep(2)
            began, before = time.monotonic(), here.cpu()
            async with asyncio.TaskGroup() as bursts:
                for count, name in enumerate(names, 1):
                    await asyncio.sleep(random.uniform(*PAUSE_SECONDS))
                    bursts.create_task(_burst(here, name, story), name=name)
                    if count % 50 == 0 or count == len(names):
                        say(f"{count}/{len(names)} bursts, {len(story.decided)} decided about")
            took = time.monotonic() - began
            used = {name: (after - before[name]) / took for name, after in here.cpu().items()}
            say("of one core: " + ", ".join(f"{name} {share:.0%}" for name, share in used.items()))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await listening
            return story, await load
        except TimeoutError:
            missing = sorted(set(names) - story.decided.keys())
            raise RuntimeError(f"no decision was seen about {', '.join(missing)}") from None
        finally:
            for task in (listening, load):
                task.cancel()
            await asyncio.wait({listening, load})
    finally:
        await log.close()


async def _listen(reader: Reader, story: Story, missing: set[str]) -> None:
    """Note the first growth of every endpoint after its burst."""
    while missing:
        for message in await reader.next(None):
            now = time.time_ns()
            decision = decode_decision(message.value)
            name = decision.endpoint
            if name in missing and name in story.left and decision.desired > decision.previous:
                story.decided[name], story.read[name] = message.time_ns, now
                missing.discard(name)


async def _burst(here: Scene, name: str, story: Story) -> None:
    """All requests at once, each on a connection of its own that is there already."""
    opened = [asyncio.open_connection("127.0.0.1", here.gateway_port) for _ in range(BURST)]
    streams = await asyncio.gather(*opened)
    packet = request(name)
    story.left[name] = time.time_ns()
    for _, writer in streams:
        writer.write(packet)
    for reader, writer in streams:
        if b" 200 " not in await reader.readline():
            story.refused += 1
        writer.close()
    for _, writer in streams:
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def slow_model() -> AsyncIterator[int]:
    """A model that takes its time; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), b":0"
                )
                await reader.readexactly(int(length.partition(b":")[2]))
                await asyncio.sleep(SERVICE_SECONDS)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
