"""Replicas near by: how a gateway deals its requests over the zones of the replicas.

It keeps all of them in its own zone as long as that has its share of the replicas, one in three where there are three zones.
Where it has less, it keeps as many as its replicas carry when all carry alike, and the rest goes to zones that have more than
their share, in proportion to what they have more. So, with the same traffic in every zone, each replica gets the same,
and nothing crosses zones that need not: Envoy's zone-aware rule, with the callers taken for evenly spread. What is in flight
cannot decide it: a gateway knows of its own machine's requests only, and those that it keeps near by make the near
replicas look the busier the better the rule works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def deal(mine: str, zones: Iterable[str]) -> dict[str, float]:
    """Zone → its share of the requests of a gateway in zone `mine`; `zones` are those of the replicas, one for each.

    The shares add up to 1. None where zones say nothing: the gateway's has no replica, or has them all. Replicas whose
    zone nobody knows (empty) are a zone of their own.
    """
    found = Counter(zones)
    if not mine or not found[mine] or len(found) < 2:
        return {}
    even, total = 1 / len(found), found.total()
    kept = min(1.0, found[mine] / total / even)
    more = {zone: count / total - even for zone, count in found.items() if count / total > even}
    if kept > 1 - 1e-9 or not more:
        return {mine: 1.0}
    rest = (1 - kept) / sum(more.values())
    return {mine: kept, **{zone: rest * surplus for zone, surplus in sorted(more.items())}}
