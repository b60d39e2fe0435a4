"""10,000 endpoints with three deployments each in the snapshot: CPU per request, and how long the loop pauses for a change of one."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from loadtests.gateway import subject
from loadtests.gateway.ground import OTHER_CORE, OURS, PROXY_CORE, Ground, models
from loadtests.gateway.load.descriptors import raise_limit
from loadtests.gateway.load.paced import paced
from loadtests.gateway.peers.work import DEPLOYMENTS, ENDPOINT, KEY, LIVE_PERCENT, MIRROR_PERCENT, PATH, Contender
from loadtests.gateway.rows.compared import at_most
from loadtests.gateway.rows.post import micros_per_request
from loadtests.measure import Spread
from loadtests.scoreboard import Row
from loadtests.waiting import HOST, free_port
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_NUMBERED = f"/endpoints/{ENDPOINT}-%d/score"
_ONE = "one endpoint"
_UNTOUCHED = "no change"
_CPU_LIMIT, _PAUSE_LIMIT_MS = 1.05, 50
_PROBES_PER_SECOND, _CHANGES_PER_SECOND = 500.0, 4.0
_NEW_KEY = "f" * 32
_DEADLINE_SECONDS = 30.0
_START_SECONDS = 180.0
_DESCRIPTORS = 6
"""For each endpoint: a connection to a replica of each of the two deployments that have traffic, twice that for callers, and rest."""
_WARM_PER_SECOND = 1_000
"""Endpoints to which connections are opened before anything is measured."""
_LOOKS = 20
"""Endpoints that are asked before anything is measured: whether they are there."""


class Unserved(RuntimeError):
    """The gateway does not route to all endpoints; the message says to which not, or why."""


def rows(ground: Ground) -> list[Row]:
    """Two rows on CPU, one on pauses; missed and without figures where the gateway cannot carry so many."""
    folder, count = ground.room("many"), ground.sizes.endpoints
    work = f"{count:,} endpoints × 3 deployments in the snapshot: CPU per request"
    raise_limit(_DESCRIPTORS * count)
    with models(folder) as ports, contextlib.ExitStack() as running:
        try:
            ours, data = running.enter_context(_gateway(ground, folder, ports, count))
        except RuntimeError as error:
            reason = f"not available: {_reason(error)}"
            limits = ((work, "µs", f"≤ {_CPU_LIMIT:g} × {_ONE}"), (_pause_work(count), "ms", f"≤ {_PAUSE_LIMIT_MS} ms"))
            return [Row(f"{text}; {reason}", unit, None, {}, None, goal, met=False) for text, unit, goal in limits]
        one, _ = running.enter_context(_gateway(ground, folder, ports, 1))
        alike = {name: partial(micros_per_request, who) for name, who in ((OURS, ours), (_ONE, one))}
        spread = {
            OURS: partial(micros_per_request, ours, traced=True, numbered=(_NUMBERED, count - 1)),
            _ONE: partial(micros_per_request, one, traced=True),
        }
        made = at_most(f"{work} to one of them", "µs", ground.in_turns("many", "µs", alike), _ONE, _CPU_LIMIT)
        spread[OURS](-(-count // _WARM_PER_SECOND))
        spreads = ground.in_turns("many, spread", "µs", spread)
        made += at_most(f"{work}, spread over all, all heads differ", "µs", spreads, _ONE, None)
        return [*made, _pauses(ground, data, ours.port, ports)]


@contextlib.contextmanager
def _gateway(
    ground: Ground, folder: Path, ports: Mapping[str, int], count: int
) -> Iterator[tuple[Contender, DataLayout]]:
    """A worker with `count` endpoints. Raises RuntimeError when it does not start, Unserved when one is not served."""
    data, port = DataLayout(folder / f"data-{count}"), free_port()
    data.create()
    asyncio.run(subject.publish_all(data, _endpoints(ports, count)))
    began = time.monotonic()
    mirror = subject.on_core(OTHER_CORE)
    with subject.workers(data, port, [PROXY_CORE], mirror=mirror, ready_seconds=_START_SECONDS) as pids:
        ground.say(f"many: a worker with {count:,} endpoints is ready after {time.monotonic() - began:.1f} s")
        for number in range(0, count, max(1, count // _LOOKS)):
            path = _NUMBERED % number if number else PATH
            if (status := _status(port, path, KEY)) != http.HTTPStatus.OK:
                said = (data.root / "gateway.log").read_text(errors="replace")
                raise Unserved(f"{path} is answered with {status}. {said[-1000:]}")
        yield Contender(str(count), port, tuple(pids[:1])), data


def _reason(error: Exception) -> str:
    """In a sentence: what the gateway gave as the problem, else the beginning of the message."""
    found = re.search(r'problem="([^"]+)"', str(error))
    return found[1] if found else str(error).partition("\n")[0]


def _status(port: int, path: str, key: str) -> int:
    with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=30)) as connection:
        connection.request("POST", path, b"{}", {"authorization": f"Bearer {key}"})
        return connection.getresponse().status


def _endpoint(name: str, ports: Mapping[str, int], revision: int = 1, key: str = KEY) -> subject.Published:
    traffic = LIVE_PERCENT if revision % 2 else {"blue": 50, "green": 50}
    return subject.published(
        name, {one: [ports[one]] for one in DEPLOYMENTS}, traffic=traffic,
        mirror_traffic={"candidate": MIRROR_PERCENT}, revision=revision, key=key,
    )  # fmt: skip


def _endpoints(ports: Mapping[str, int], count: int) -> Iterator[subject.Published]:
    yield _endpoint(ENDPOINT, ports)
    for number in range(1, count):
        yield _endpoint(f"{ENDPOINT}-{number}", ports)


def _pauses(ground: Ground, data: DataLayout, port: int, ports: Mapping[str, int]) -> Row:
    """The longest wait of a probe while one endpoint changes again and again, and while nothing does."""
    found: dict[str, list[float]] = {OURS: [], _UNTOUCHED: []}
    probe = partial(paced, port, PATH, rate=_PROBES_PER_SECOND, seconds=float(ground.sizes.seconds), cpu=OTHER_CORE)
    revision = 1
    for turn in range(1, ground.sizes.repetitions + 1):
        found[_UNTOUCHED].append(float(probe().latencies.max()) / 1000)
        with _changing(data, ports, revision) as changes:
            found[OURS].append(float(probe().latencies.max()) / 1000)
        revision += len(changes)
        ground.say(f"many: round {turn}: the longest wait was {found[OURS][-1]:.1f} ms with {len(changes)} changes, "
                   f"{found[_UNTOUCHED][-1]:.1f} ms without")  # fmt: skip
    _see_the_last(data, port, ports, revision + 1)
    spreads = {name: Spread.of(values) for name, values in found.items()}
    ours, calm = spreads[OURS], spreads[_UNTOUCHED]
    work = _pause_work(ground.sizes.endpoints)
    ranges = {name: (one.values[0], one.values[-1]) for name, one in spreads.items()}
    met: bool | None = ours.median <= _PAUSE_LIMIT_MS
    if not met and calm.median > _PAUSE_LIMIT_MS:
        met, work = None, f"{work}; not judged: the machine is busy, they wait as long when nothing changes"
    return Row(work, "ms", ours.median, {_UNTOUCHED: calm.median}, None, f"≤ {_PAUSE_LIMIT_MS} ms", met, ranges)


def _pause_work(count: int) -> str:
    changes = f"revisions of one among {count:,} endpoints, {_CHANGES_PER_SECOND:g}/s"
    return f"{changes}: longest wait of {_PROBES_PER_SECOND:g} probes/s"


@contextlib.contextmanager
def _changing(data: DataLayout, ports: Mapping[str, int], revision: int) -> Iterator[list[int]]:
    """Publish revisions after `revision` meanwhile; yields the list that they are added to."""
    made: list[int] = []
    over = threading.Event()

    def change() -> None:
        while not over.wait(1 / _CHANGES_PER_SECOND):
            made.append(revision + len(made) + 1)
            asyncio.run(subject.publish_all(data, [_endpoint(ENDPOINT, ports, made[-1])]))

    thread = threading.Thread(target=change, name="changes")
    thread.start()
    try:
        yield made
    finally:
        over.set()
        thread.join()


def _see_the_last(data: DataLayout, port: int, ports: Mapping[str, int], revision: int) -> None:
    """What is published does arrive: a revision with another key is answered to that key."""
    asyncio.run(subject.publish_all(data, [_endpoint(ENDPOINT, ports, revision, _NEW_KEY)]))
    ends = time.monotonic() + _DEADLINE_SECONDS
    while time.monotonic() < ends:
        if _status(port, PATH, _NEW_KEY) == http.HTTPStatus.OK:
            return
        time.sleep(0.05)
    raise TimeoutError(f"revision {revision} was not routed by after {_DEADLINE_SECONDS:g} s")
