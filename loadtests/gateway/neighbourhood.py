"""A worker with an endpoint that is measured and others whose load goes on beside it, each with models of its own.

Neighbours, their generators and models take what the measured ones leave of their core.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtests.gateway import subject
from loadtests.gateway.ground import OTHER_CORE, PROXY_CORE, Ground, models
from loadtests.gateway.load.neighbours import Kind, Neighbour, neighbour
from loadtests.gateway.load.priority import put_first
from loadtests.gateway.peers.process import pinned
from loadtests.gateway.peers.work import ENDPOINT, LIVE_PERCENT
from loadtests.measure import cpu_seconds, descendants
from loadtests.waiting import free_port
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ORDINARY = "an ordinary neighbour"
KINDS = {
    ORDINARY: Kind("ordinary"),
    "an overloaded one": Kind("overloaded", until=429),
    "one with a slow model and a full queue": Kind("slow", until=429, connections=512),
    "one with heads of 60 KB": Kind("large", head_bytes=60_000),
    "one with refused heads of 70 KB": Kind("large", until=431, head_bytes=70_000),
    "one with bodies of 5 MB": Kind("large", connections=8, body_bytes=5_000_000, probe_rate=20.0),
}
_PROBE_SECONDS = 1.0
_SETTLE_SECONDS = 0.1
_PLACES = 100
"""In flight at the slow model, and as many that wait."""
_SLOW_SECONDS, _OVERLOADED_SECONDS = 2.0, 0.02


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one request of a neighbour, µs of CPU."""

    worker: float
    others: float
    """The generator and the models."""


class Neighbourhood:
    """What runs."""

    def __init__(self, port: int, worker: int) -> None:
        self.port, self._worker = port, worker

    def cost(self, kind: Kind) -> Cost:
        """What one request takes, at a low rate and with nothing beside it. Raises RuntimeError when it is not answered as meant."""
        with neighbour(self.port, kind, kind.probe_rate, OTHER_CORE) as one:
            one.begin()
            others = [pid for pid in descendants(os.getpid()) if pid not in (self._worker, os.getpid())]
            before = cpu_seconds([self._worker]), cpu_seconds(others)
            time.sleep(_PROBE_SECONDS)
            worker, rest = cpu_seconds([self._worker]) - before[0], cpu_seconds(others) - before[1]
            account = one.stop()
        if account.statuses.get(str(kind.until), 0) < account.sent / 2:
            raise RuntimeError(f"{kind.endpoint}: most answers should have been {kind.until}: {account}")
        requests = kind.probe_rate * _PROBE_SECONDS
        return Cost(worker / requests * 1e6, rest / requests * 1e6)

    def busy(self) -> Share:
        """Begin to measure the worker's share of its core."""
        return Share(self._worker)


class Share:
    """Of its core, that the worker takes from now on."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._since, self._before = time.monotonic(), cpu_seconds([worker])

    def __call__(self) -> float:
        """Until now."""
        return (cpu_seconds([self._worker]) - self._before) / (time.monotonic() - self._since)


@contextlib.contextmanager
def neighbourhood(ground: Ground) -> Iterator[Neighbourhood]:
    """The worker, all models, and an endpoint for each kind of neighbour beside the measured one."""
    folder, port = ground.room("isolation"), free_port()
    data = DataLayout(folder / "data")
    data.create()
    with contextlib.ExitStack() as running:
        live = running.enter_context(models(folder))
        put_first(one for one in descendants(os.getpid()) if one != os.getpid())
        ports = _harmful(running, folder)
        ordinary = running.enter_context(models(folder / "ordinary"))
        endpoints = [
            subject.published(
                name, {one: [served[one]] for one in LIVE_PERCENT}, traffic=LIVE_PERCENT, mirror_traffic={}
            )
            for name, served in ((ENDPOINT, live), ("ordinary", ordinary))
        ]
        endpoints += [_one("large", ports["large"]), _one("overloaded", ports["overloaded"], concurrency=1)]
        endpoints.append(_one("slow", ports["slow"], concurrency=_PLACES, wait_ms=60_000))
        asyncio.run(subject.publish_all(data, endpoints))
        (worker,) = running.enter_context(subject.workers(data, port, [PROXY_CORE], mirror=None))
        put_first([worker])
        yield Neighbourhood(port, worker)


def _one(name: str, port: int, *, concurrency: int = 1_000, wait_ms: int = 500) -> subject.Published:
    return subject.published(
        name, {"blue": [port]}, traffic={"blue": 100}, mirror_traffic={}, concurrency=concurrency, wait_ms=wait_ms
    )


def _harmful(running: contextlib.ExitStack, folder: Path) -> dict[str, int]:
    """Start the models of the neighbours that are not well."""
    ports = {name: free_port() for name in ("large", "slow", "overloaded")}
    words = [sys.executable, "-m", "loadtests.gateway.load.body_model", "--port", str(ports["large"])]
    running.enter_context(pinned(words, folder / "large", ports["large"], OTHER_CORE))
    for name, seconds in (("slow", _SLOW_SECONDS), ("overloaded", _OVERLOADED_SECONDS)):
        words = [sys.executable, "-m", "loadtests.gateway.load.hostile_shadows", "--slow", str(ports[name])]
        running.enter_context(pinned([*words, "--slow-seconds", str(seconds)], folder / name, ports[name], OTHER_CORE))
    return ports


@contextlib.contextmanager
def beside(one: Neighbour, kind: Kind, rate: float) -> Iterator[list[float]]:
    """While `one` puts its load on; what part of `rate` was answered as it is meant is in the list behind it."""
    answered: list[float] = []
    one.begin()
    began = time.monotonic()
    time.sleep(_SETTLE_SECONDS)
    try:
        yield answered
    finally:
        took = time.monotonic() - began
        answered.append(one.stop().statuses.get(str(kind.until), 0) / (rate * took))


@contextlib.contextmanager
def neighbours(port: int, rates: Mapping[str, float]) -> Iterator[dict[str, Neighbour]]:
    """One process for each of these kinds, at their rates, that waits until it is told to begin."""
    with contextlib.ExitStack() as running:
        yield {
            name: running.enter_context(neighbour(port, KINDS[name], rate, OTHER_CORE)) for name, rate in rates.items()
        }
