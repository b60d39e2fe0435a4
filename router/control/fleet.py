"""What runs and how it does, folded from the log: `replicas`, `demand`, `requests`, `shadows` and `decisions`.

Demand comes past the log too, and counts once.

A view, never a source of truth: it is rebuilt at every start, and nothing but operations' ends is decided from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from router.contract import codec
from router.contract.events import (
    DECISIONS,
    DEMAND,
    REPLICAS,
    REQUESTS,
    SHADOWS,
    Decision,
    DemandReport,
    DeploymentReplicas,
    EndpointReplicas,
    ReplicaState,
    ShadowComparison,
)
from router.contract.handover import Handed
from router.control.counting import CountedOnce
from router.control.rates import Demand, View
from router.control.traffic import OVERFLOW, TrafficCounts
from router.runtime.log.base import Log, Message, Reader, ReaderStats

_log = logging.getLogger(__name__)
Target = tuple[str, str]
"""(endpoint, deployment), both canonical."""
MAX_TARGETS = 20_000
"""Deployments with counts in memory; what the log says of more is counted together, as `OVERFLOW`."""


@dataclass(slots=True)
class ShadowCounts:
    """Shadows of one candidate since this process started to read."""

    compared: int = 0
    equal: int = 0
    dropped: int = 0

    def to_json(self) -> dict[str, int]:
        """`{"compared", "equal", "dropped"}`."""
        return {"compared": self.compared, "equal": self.equal, "dropped": self.dropped}


def replica_counts(now: DeploymentReplicas | None) -> dict[str, int]:
    """`{"observed", "ready", "desired"}`; a draining replica is observed, but no longer ready."""
    if now is None:
        return {"observed": 0, "ready": 0, "desired": 0}
    ready = sum(replica.state is ReplicaState.READY for replica in now.replicas)
    return {"observed": len(now.replicas), "ready": ready, "desired": now.desired}


class Fleet:
    """The folded view."""

    def __init__(self, on_replicas: Callable[[], None]) -> None:
        self.caught_up = False
        """Whether everything that the log held of `replicas` at the start has been read."""
        self.traffic = TrafficCounts(MAX_TARGETS)
        self.live: dict[Target, Demand] = {}
        self.demand_once = CountedOnce()
        self.shadows: dict[Target, ShadowCounts] = {}
        self.decisions: dict[Target, int] = {}
        self._replicas: dict[str, EndpointReplicas] = {}
        self._on_replicas = on_replicas
        self._unreadable = 0
        self._noticed: dict[tuple[str, ...], ReaderStats] = {}
        self._noticed_before = ReaderStats()

    @property
    def skipped(self) -> int:
        """Messages that could not be read."""
        self.traffic.settle()
        return self._unreadable + self.traffic.skipped + self.noticed().skipped

    def noticed(self) -> ReaderStats:
        """What all readers of this view, also those that have ended, noticed of the log."""
        whole = ReaderStats()
        for stats in (self._noticed_before, *self._noticed.values()):
            whole.add(stats)
        return whole

    def replicas(self, endpoint: str) -> Mapping[str, DeploymentReplicas]:
        """Deployment → what the autoscaler last said of it."""
        known = self._replicas.get(endpoint)
        return {} if known is None else known.deployments

    def demand(self, target: Target, now_ns: int) -> View | None:
        """Live demand of one deployment; None as long as no gateway has reported any."""
        known = self.live.get(target)
        return None if known is None else known.view(now_ns)

    def shadow_counts(self, target: Target) -> ShadowCounts:
        """Shadows that the deployment got."""
        return self.shadows.get(target, ShadowCounts())

    def forget(self, existing: set[Target]) -> None:
        """Drop the counts of deployments that are no longer there."""
        for counts in (self.live, self.shadows, self.decisions):
            for gone in counts.keys() - existing - {OVERFLOW}:
                del counts[gone]
        self.traffic.forget(existing | {(endpoint, "") for endpoint, _ in existing})

    async def follow_replicas(self, log: Log) -> None:
        """Fold the `replicas` topic from its beginning until cancelled."""
        async with self._reading(log, (REPLICAS,), "earliest") as reader:
            while not await reader.caught_up():
                await self._next(reader, 0.1)
            self.caught_up = True
            self._on_replicas()
            while True:
                if await self._next(reader, None):
                    self._on_replicas()

    async def follow_streams(self, log: Log) -> None:
        """Fold what is appended to the stream topics from now on until cancelled."""
        async with self._reading(log, (DEMAND, REQUESTS, SHADOWS, DECISIONS), "latest") as reader:
            while True:
                await self._next(reader, None)

    @contextlib.asynccontextmanager
    async def _reading(self, log: Log, topics: tuple[str, ...], start: str) -> AsyncIterator[Reader]:
        reader = await log.reader(topics, start)
        self._noticed[topics] = reader.stats
        try:
            yield reader
        finally:
            self._noticed_before.add(self._noticed.pop(topics))
            await reader.close()

    async def _next(self, reader: Reader, timeout_seconds: float | None) -> int:
        messages = await reader.next(timeout_seconds)
        self.take(messages)
        await asyncio.sleep(0)  # a long backlog must not keep the API waiting
        return len(messages)

    def take(self, messages: Sequence[Message]) -> None:
        """Fold messages; those that cannot be read are skipped and counted."""
        for message in messages:
            try:
                self.fold(message)
            except (codec.UnknownSchema, codec.Malformed) as error:
                self._unreadable += 1
                _log.warning("%s %d: skipped: %s", message.topic, message.offset, error)

    def take_handed(self, messages: Sequence[Handed]) -> None:
        """Fold demand that came past the log; what cannot be read is skipped and counted."""
        for one in messages:
            if not self.demand_once.direct(one.key, one.writer, one.sequence):
                continue
            try:
                self._fold_demand(one.writer, codec.decode_demand(one.value))
            except (codec.UnknownSchema, codec.Malformed) as error:
                self._unreadable += 1
                _log.warning("demand handed directly was skipped: %s", error)

    def fold(self, message: Message) -> None:
        """Add one message; raises `codec.Malformed` or `codec.UnknownSchema`."""
        match message.topic:
            case "replicas":
                self._fold_replicas(codec.decode_replicas(message.value))
            case "demand":
                if self.demand_once.logged(message.key, message.writer, message.sequence):
                    self._fold_demand(message.writer, codec.decode_demand(message.value))
            case "requests":
                self.traffic.note(message.key, message.value)
            case "shadows":
                self._fold_shadow(codec.decode_shadow(message.value))
            case "decisions":
                self._fold_decision(codec.decode_decision(message.value))

    def _fold_replicas(self, event: EndpointReplicas) -> None:
        known = self._replicas.get(event.endpoint)
        if known is None or (event.generation, event.version) >= (known.generation, known.version):
            self._replicas[event.endpoint] = event

    def _fold_demand(self, writer: str, report: DemandReport) -> None:
        for row in report.rows:
            if row.shadow or report.shadow:
                continue
            target = _place((report.endpoint, row.deployment), self.live)
            if target is OVERFLOW:  # gauges of many reporters' deployments cannot be told apart there
                row = dataclasses.replace(row, in_flight=0, queued=0)  # noqa: PLW2901
            self.live.setdefault(target, Demand()).fold(writer, report.start_ns, report.end_ns, row)

    def _fold_shadow(self, event: ShadowComparison) -> None:
        target = _place((event.endpoint, event.candidate), self.shadows)
        counts = self.shadows.setdefault(target, ShadowCounts())
        counts.dropped += event.count if event.dropped else 0
        counts.compared += 0 if event.dropped else event.count
        counts.equal += event.count if event.equal and not event.dropped else 0

    def _fold_decision(self, event: Decision) -> None:
        target = _place((event.endpoint, event.deployment), self.decisions)
        self.decisions[target] = self.decisions.get(target, 0) + 1


def _place(target: Target, counts: Mapping[Target, object]) -> Target:
    """Under which target it is counted."""
    return target if target in counts or len(counts) < MAX_TARGETS else OVERFLOW
