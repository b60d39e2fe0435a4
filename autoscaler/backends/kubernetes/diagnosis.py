"""What a pod's status does not say about why it does not get ready: how its probe was answered (the cluster's events know)
and more of its server's last words than the 2 KB of a termination message.

Both are asked for, not watched: a cluster has many, and few matter. Each pod is asked about less and less often.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from autoscaler.backends.kubernetes.layout import SERVER
from autoscaler.backends.kubernetes.reading import Pod
from router.runtime.clock import Clock
from router.runtime.kubernetes import EVENTS, Cluster, KubernetesError

FIRST_LOOK_SECONDS = 10.0
"""A server that starts answers its probe with nothing at first: not worth a word before that."""
MOST_SECONDS = 120.0
MOST_LOOKS = 4
"""Per round, so that a fleet of failing pods does not become a flood of questions."""
TAIL_LINES = 50
_EVENTS = 20


@dataclass(slots=True)
class _Look:
    due: float
    pause: float = FIRST_LOOK_SECONDS


@dataclass(slots=True)
class Diagnosis:
    """What was found out, by pod."""

    cluster: Cluster
    namespace: str
    clock: Clock
    probes: dict[str, str] = field(default_factory=dict)
    """Pod → the newest failing probe, in the kubelet's words."""
    tails: dict[str, str] = field(default_factory=dict)
    """Pod → the end of its failed server's output."""
    _looks: dict[str, _Look] = field(default_factory=dict)

    async def look(self, pods: Iterable[Pod]) -> set[str]:
        """Ask about those of `pods` that run without being ready and are due; returns those with news."""
        suspects = {one.name: one for one in pods if one.running and not one.ready and not one.ending}
        for name in self._looks.keys() - suspects.keys():
            del self._looks[name]
            self.probes.pop(name, None)
            self.tails.pop(name, None)
        news: set[str] = set()
        now, looks = self.clock.monotonic(), 0
        for name, one in suspects.items():
            look = self._looks.setdefault(name, _Look(now if one.restarts else now + FIRST_LOOK_SECONDS))
            if look.due > now or looks == MOST_LOOKS:
                continue
            looks += 1
            look.due, look.pause = now + look.pause, min(MOST_SECONDS, look.pause * 2)
            tail = await self._output(one) if one.restarts else ""
            for known, said in ((self.probes, await self._ask(one)), (self.tails, tail)):
                if said and known.get(name) != said:
                    known[name] = said
                    news.add(name)
        return news

    async def _output(self, one: Pod) -> str:
        """Of the run that failed."""
        try:
            return await self.cluster.logs(self.namespace, one.name, container=SERVER, lines=TAIL_LINES, previous=True)
        except KubernetesError:
            return ""

    async def _ask(self, one: Pod) -> str:
        fields = f"involvedObject.uid={one.uid},reason=Unhealthy"
        try:
            page = await anext(self.cluster.pages(EVENTS, self.namespace, fields=fields, limit=_EVENTS))
        except KubernetesError:  # a diagnosis is no duty: the state is told without it
            return ""
        found = sorted(page.get("items") or (), key=lambda event: str(event.get("lastTimestamp") or ""))
        return str(found[-1].get("message") or "").strip() if found else ""
