"""10,000 endpoints with three deployments each in the snapshot: CPU per request, and how long the loop pauses for a change of one."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from loadtests.gateway import subject
from loadtests.gateway.ground import OTHER_CORE, OURS, PROXY_CORE, Ground, models
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

_NUMBERED = f"/endpoints/{ENDPOINT}-%d/score"
_ONE = "one endpoint"
_UNTOUCHED = "no change"
_CPU_LIMIT, _PAUSE_LIMIT_MS = 1.05, 50
_PROBES_PER_SECOND, _CHANGES_PER_SECOND = 500.0, 4.0
_NEW_KEY = "f" * 32
_DEADLINE_SECONDS = 30.0


def rows(ground: Ground) -> list[Row]:
    """Two rows on CPU, one on pauses."""
    folder, count = ground.room("many"), ground.sizes.endpoints
    with models(folder) as ports, contextlib.ExitStack() as running:
        alike, spread = {}, {}
        for name, number in ((OURS, count), (_ONE, 1)):
            data, port = DataLayout(folder / f"data-{number}"), free_port()
            data.create()
            asyncio.run(subject.publish_all(data, _endpoints(ports, number)))
            ground.say(f"many: {number:,} endpoints are published")
            pids = running.enter_context(subject.workers(data, port, [PROXY_CORE], mirror=None))
            one = Contender(name, port, tuple(pids))
            alike[name] = partial(micros_per_request, one)
            spread[name] = partial(
                micros_per_request, one, traced=True, numbered=(_NUMBERED, number - 1) if number > 1 else None
            )
        work = f"{count:,} endpoints × 3 deployments in the snapshot: CPU per request"
        made = at_most(f"{work} to one of them", "µs", ground.in_turns("many", "µs", alike), _ONE, _CPU_LIMIT)
        spreads = ground.in_turns("many, spread", "µs", spread)
        made += at_most(f"{work}, spread over all, all heads differ", "µs", spreads, _ONE, None)
        big = DataLayout(folder / f"data-{count}")
        port = alike[OURS].args[0].port
        return [*made, _pauses(ground, big, port, ports)]


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
    work = f"revisions of one among {ground.sizes.endpoints:,} endpoints, {_CHANGES_PER_SECOND:g}/s: longest wait of "
    work += f"{_PROBES_PER_SECOND:g} probes/s"
    ranges = {name: (one.values[0], one.values[-1]) for name, one in spreads.items()}
    met: bool | None = ours.median <= _PAUSE_LIMIT_MS
    if not met and calm.median > _PAUSE_LIMIT_MS:
        met, work = None, f"{work}; not judged: the machine is busy, they wait as long when nothing changes"
    return Row(work, "ms", ours.median, {_UNTOUCHED: calm.median}, None, f"≤ {_PAUSE_LIMIT_MS} ms", met, ranges)


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
        with contextlib.closing(http.client.HTTPConnection(HOST, port, timeout=10)) as connection:
            connection.request("POST", PATH, b"{}", {"authorization": f"Bearer {_NEW_KEY}"})
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        time.sleep(0.05)
    raise TimeoutError(f"revision {revision} was not routed by after {_DEADLINE_SECONDS:g} s")
