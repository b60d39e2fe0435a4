"""A worker in numbers: what it did with requests, and how many replicas it leaves alone. Read when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from router.gateway.standing import Out
from router.runtime.exposition import Family, single

if TYPE_CHECKING:
    from router.gateway.routes import Endpoint
    from router.gateway.state import Counters

_PREFIX = "tidegate_gateway"


def families(counters: Counters, endpoints: Iterable[Endpoint]) -> Iterator[Family]:
    """Of one worker since its start; `endpoints` as it routes them."""
    for name, words, value in (
        ("connections", "Connections of callers", counters.connections),
        ("requests", "Requests", counters.requests),
        ("refused", "Requests answered in the gateway's own name with an error", counters.refused),
        (
            "retried",
            "Requests sent again to another replica after they had been sent to one that died",
            counters.retried,
        ),
        ("client_aborts", "Requests whose caller left before the answer was whole", counters.client_aborts),
        (
            "shortened_records",
            "Request records without path, user agent and the caller's own id: too many different ones at a time",
            counters.shortened,
        ),
    ):
        yield single(f"{_PREFIX}_{name}_total", "counter", words, value)
    words = "Times a replica was left alone: unreachable (it refused a connection, or one died), erring (its answers)"
    counts = {Out.UNREACHABLE: counters.unreachable, Out.ERRING: counters.erring}
    yield Family(f"{_PREFIX}_ejections_total", "counter", words, [({"why": _why(why)}, n) for why, n in counts.items()])
    out = dict.fromkeys(Out, 0.0)
    for endpoint in endpoints:
        for lane in endpoint.lanes.values():
            for target in lane.ready:
                if target.standing.out is not None:
                    out[target.standing.out] += 1
    words = "Replicas that are ready and are left alone now"
    yield Family(f"{_PREFIX}_ejected_replicas", "gauge", words, [({"why": _why(why)}, n) for why, n in out.items()])


def _why(out: Out) -> str:
    return out.name.lower()
