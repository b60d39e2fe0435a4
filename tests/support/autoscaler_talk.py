"""A gateway as autoscalers see it: it reports by the log and directly, and routes by what either way brings."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from router.contract.codec import decode_replicas, encode_demand
from router.contract.errors import Unavailable
from router.contract.events import DEMAND, REPLICAS, DemandReport, DemandRow, EndpointReplicas, ReplicaState
from router.contract.handover import Handed
from router.runtime.log.embedded import EmbeddedLog
from tests.support.autoscaler_fleet import SECOND
from tests.support.autoscaler_shared_log import Scaler


class Gateway:
    """Reports about its endpoints by the log, and past it to whom it is told; routes by the newest word."""

    def __init__(self, folder: Path, *endpoints: str) -> None:
        self.endpoints = endpoints
        self.log = EmbeddedLog(folder)
        self.rows: dict[str, tuple[DemandRow, ...]] = {}
        self.direct_to: list[Scaler] = []
        self.words: list[EndpointReplicas] = []
        """Everything that came, either way."""
        self._routed: dict[str, EndpointReplicas] = {}

    def version(self, endpoint: str) -> int:
        """Of the word that is routed by; 0 before there is one."""
        word = self.word(endpoint)
        return word.version if word else 0

    def word(self, endpoint: str) -> EndpointReplicas | None:
        """The word that is routed by."""
        return self._routed.get(endpoint)

    def take(self, word: EndpointReplicas) -> None:
        """As a real gateway does: what is not newer by (generation, version) is ignored."""
        self.words.append(word)
        known = self._routed.get(word.endpoint)
        if known is None or (word.generation, word.version) > (known.generation, known.version):
            self._routed[word.endpoint] = word

    def ready(self, endpoint: str) -> set[str]:
        """Ids of replicas that get requests."""
        word = self.word(endpoint)
        told = word.deployments.get("blue") if word else None
        return {one.id for one in told.replicas if one.state is ReplicaState.READY} if told else set()

    async def watch(self) -> None:
        """Read `replicas` for ever."""
        reader = await self.log.reader((REPLICAS,))
        try:
            while True:
                for one in await reader.next(None):
                    self.take(decode_replicas(one.value))
        finally:
            await reader.close()

    async def talk(self) -> None:
        """Report about every endpoint for ever."""
        while True:
            for endpoint in self.endpoints:
                self.say(endpoint)
            await asyncio.sleep(0.05)

    def say(self, endpoint: str) -> None:
        """One report, now."""
        now = time.time_ns()
        rows = self.rows.get(endpoint, ())
        report = DemandReport(endpoint, now - SECOND // 20, now, 1, self.version(endpoint), rows=rows)
        value = encode_demand(report)
        sequence = self.log.append(DEMAND, endpoint, value)
        for one in self.direct_to:
            with contextlib.suppress(Unavailable):
                told = one.autoscaler._taken([Handed(self.log.writer, sequence, now, endpoint, value)])
                for _, body in told:
                    self.take(decode_replicas(body))


@contextlib.asynccontextmanager
async def talking(folder: Path, *endpoints: str) -> AsyncIterator[Gateway]:
    """A gateway on the log in `folder` that reports and listens while inside."""
    made = Gateway(folder, *endpoints)
    tasks = [asyncio.create_task(made.watch()), asyncio.create_task(made.talk())]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await made.log.close()
