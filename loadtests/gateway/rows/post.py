"""Small requests over kept-alive connections: CPU of the proxy's processes per answered request."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from loadtests.gateway.ground import OTHER_CORE, OURS, Ground, contenders, models
from loadtests.gateway.peers.roster import AIOHTTP, ENVOY, HAPROXY, MIRRORED_NGINX, NGINX, TRAEFIK
from loadtests.gateway.peers.work import KEY, Contender, Work
from loadtests.gateway.rows.compared import at_most
from loadtests.load import post
from loadtests.measure import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Collection

    from loadtests.scoreboard import Row

CONNECTIONS, BODY_BYTES = 64, 1024
WORK = (
    "1 KB JSON POST, 64 keep-alive connections, key, split 90/10, mirror 10 %, records, metrics: proxy CPU per request"
)
_WITH_MIRROR = "Tidegate and its mirror process"
_TRACED = "; a traceparent of its own in every request"


def rows(ground: Ground, names: Collection[str]) -> list[Row]:
    """Those of `post` and `heads` that are in `names`."""
    everybody = ground.taking_part(MIRRORED_NGINX, NGINX, HAPROXY, ENVOY, TRAEFIK, AIOHTTP)
    folder = ground.room("post")
    made: list[Row] = []
    with models(folder) as ports, contenders(folder, everybody, Work(ports)) as running:
        if "post" in names:
            measures = {name: partial(micros_per_request, one) for name, one in running.items()}
            ours = running[OURS]
            measures[_WITH_MIRROR] = partial(micros_per_request, replace(ours, pids=ours.pids + ours.beside))
            spreads = ground.in_turns("post", "µs", measures)
            made += at_most(WORK, "µs", spreads, MIRRORED_NGINX, 1.0)
            made += at_most("the same beside Envoy", "µs", spreads, ENVOY, 0.4, alone=True)
            made += at_most("the same beside HAProxy, which splits only", "µs", spreads, HAPROXY, None, alone=True)
        if "heads" in names:
            few = {name: one for name, one in running.items() if name not in (TRAEFIK, AIOHTTP)}
            traced = {name: partial(micros_per_request, one, traced=True) for name, one in few.items()}
            spreads = ground.in_turns("heads", "µs", traced)
            made += at_most(WORK + _TRACED, "µs", spreads, MIRRORED_NGINX, None)
    return made


def micros_per_request(
    contender: Contender,
    seconds: int,
    *,
    traced: bool = False,
    connections: int = CONNECTIONS,
    body_bytes: int = BODY_BYTES,
    numbered: tuple[str, int] | None = None,
) -> float:
    """CPU of the proxy's processes per answered request, µs; fails when a single request failed.

    `numbered`: see `loadtests.load.post`.
    """
    before = cpu_seconds(contender.pids)
    result = post(
        contender.url, key=KEY, seconds=seconds, connections=connections, body_bytes=body_bytes, cpu=OTHER_CORE, traced=traced,
        numbered=numbered,
    )  # fmt: skip
    used = cpu_seconds(contender.pids) - before
    if result.broken or result.refused or not result.requests:
        counts = f"{result.broken} broken and {result.refused} refused of {result.requests}"
        raise RuntimeError(f"{contender.name} at {contender.url}: {counts}")
    return used / result.requests * 1e6
