"""The newest lines of many pods in the order of their times, each behind its replica's id."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence

from autoscaler.backends.kubernetes.layout import INITIALIZER, SERVER
from autoscaler.backends.kubernetes.reading import Pod
from router.runtime.kubernetes import Cluster, KubernetesError

MOST_PODS = 50
"""Of a large deployment the newest are asked."""
_PARALLEL = 8


async def newest_lines(cluster: Cluster, namespace: str, pods: Sequence[Pod], lines: int) -> str:
    """At most `lines` lines over all `pods`, oldest first."""
    if lines <= 0:
        return ""
    gate = asyncio.Semaphore(_PARALLEL)

    async def of(one: Pod) -> list[tuple[str, str, str]]:
        async with gate:
            text = await _log(cluster, namespace, one, lines)
        split = (line.partition(" ") for line in text.splitlines())
        return [(at, one.name, said) for at, _, said in split]

    asked = sorted(pods, key=lambda one: -one.created_ns)[:MOST_PODS]
    found = await asyncio.gather(*(of(one) for one in asked))
    merged = list(heapq.merge(*found))[-lines:]
    return "".join(f"{name} {said}\n" for _, name, said in merged)


async def _log(cluster: Cluster, namespace: str, one: Pod, lines: int) -> str:
    """Of the server; of its last run when it just waits for the next; of the preparation while there was none."""
    for container, previous in ((SERVER, False), (SERVER, True), (INITIALIZER, False)):
        if previous and not one.restarts:
            continue
        try:
            text = await cluster.logs(
                namespace, one.name, container=container, lines=lines, timestamps=True, previous=previous
            )
        except KubernetesError:  # not started yet, or gone meanwhile
            continue
        if text:
            return text
    return ""
