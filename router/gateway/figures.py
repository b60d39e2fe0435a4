"""A worker in numbers: what it did with requests, and how many replicas it leaves alone. Read when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from router.gateway.standing import Out
from router.runtime.exposition import Family, single

if TYPE_CHECKING:
    from router.gateway.refusals import Refusals
    from router.gateway.routes import Endpoint
    from router.gateway.state import Counters

_PREFIX = "tidegate_gateway"


def families(counters: Counters, refusals: Refusals, endpoints: Iterable[Endpoint]) -> Iterator[Family]:
    """Of one worker since its start; `endpoints` as it routes them, each once."""
    for name, words, value in (
        ("connections", "Connections of callers", counters.connections),
        ("tls_handshakes", "TLS handshakes of callers that came about", counters.handshakes),
        ("tls_handshakes_failed", "TLS handshakes of callers that did not", counters.handshakes_failed),
        ("requests", "Requests", counters.requests),
        (
            "refused",
            "Requests answered in the gateway's own name with an error",
            sum(refusals.counts.values()),
        ),
        (
            "retried",
            "Requests sent again to another replica after they had been sent to one that died",
            counters.retried,
        ),
        ("hedged", "Requests sent to a second replica too because the first was slow to answer", counters.hedged),
        ("hedges_won", "Requests whose second replica answered first", counters.hedges_won),
        ("client_aborts", "Requests whose caller left before the answer was whole", counters.client_aborts),
        (
            "shortened_records",
            "Request records without path, user agent and the caller's own id: too many different ones at a time",
            counters.shortened,
        ),
    ):
        yield single(f"{_PREFIX}_{name}_total", "counter", words, value)
    yield from _refusals(refusals, endpoints)
    words = (
        "Times a replica was left alone: unreachable (it refused a connection, or one died), erring (errors in a row), "
    )
    words += "lagging (more errors than others)"
    counts = {Out.UNREACHABLE: counters.unreachable, Out.ERRING: counters.erring, Out.LAGGING: counters.lagging}
    yield Family(f"{_PREFIX}_ejections_total", "counter", words, [({"why": _why(why)}, n) for why, n in counts.items()])
    out = dict.fromkeys(Out, 0.0)
    for endpoint in endpoints:
        for lane in endpoint.lanes.values():
            for target in lane.replicas.ready:
                if target.standing.out is not None:
                    out[target.standing.out] += 1
    words = "Replicas that are ready and are left alone now"
    yield Family(f"{_PREFIX}_ejected_replicas", "gauge", words, [({"why": _why(why)}, n) for why, n in out.items()])


def _why(out: Out) -> str:
    return out.name.lower()


def _refusals(refusals: Refusals, endpoints: Iterable[Endpoint]) -> Iterator[Family]:
    """Codes are a fixed set, and of endpoints only those that exist and have refused something have series."""
    words = "Requests answered in the gateway's own name with an error, by the answer's code"
    by_code = [({"code": one.code}, float(n)) for one, n in refusals.counts.items()]
    yield Family(f"{_PREFIX}_refusals_total", "counter", words, by_code)
    of_each = {endpoint.name: endpoint.refusals for endpoint in endpoints}
    both = [({"endpoint": name, "code": one.code}, float(n)) for name, of in of_each.items() for one, n in of.items()]
    yield Family(f"{_PREFIX}_endpoint_refusals_total", "counter", f"{words}, of each endpoint", both)
    words = "Connections of callers that were ended without an answer"
    cuts = [({"why": why}, float(n)) for why, n in refusals.cuts.items()]
    yield Family(f"{_PREFIX}_connections_cut_total", "counter", words, cuts)
