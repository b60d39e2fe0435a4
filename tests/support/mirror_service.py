"""The mirror, running over a real embedded log, with what a test needs around it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirror.service import run
from router.contract.codec import decode_demand, decode_shadow, encode_replicas, encode_specs
from router.contract.events import (
    DEMAND,
    REPLICAS,
    SHADOWS,
    SPECS,
    DemandReport,
    DeploymentReplicas,
    EndpointReplicas,
    EndpointRevision,
    Replica,
    ReplicaState,
    ShadowComparison,
)
from router.runtime.log.base import Log
from router.runtime.log.opening import open_log
from router.runtime.settings import DataLayout, MirrorSettings


@dataclass
class Mirror:
    settings: MirrorSettings
    log: Log
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    shadows: list[ShadowComparison] = field(default_factory=list)
    reports: list[DemandReport] = field(default_factory=list)
    version: int = 0
    revision: int = 0
    extras: dict[str, Any] = field(default_factory=dict)
    """The `tidegate:` section of every deployment."""
    task: asyncio.Task[None] | None = None
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def socket(self) -> Path:
        return self.settings.data.mirror_socket

    async def follow(self) -> None:
        reader = await self.log.reader((SHADOWS, DEMAND))
        try:
            while True:
                messages = await reader.next()
                async with self._news:
                    for message in messages:
                        if message.topic == SHADOWS:
                            self.shadows.append(decode_shadow(message.value))
                        else:
                            self.reports.append(decode_demand(message.value))
                    self._news.notify_all()
        finally:
            await reader.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self._news:
            await self._news.wait_for(condition)

    async def wait_shadows(self, count: int) -> list[ShadowComparison]:
        """At least `count` events, as far as they are there."""
        await self.until(lambda: len(self.shadows) >= count)
        return self.shadows

    def specs(
        self, concurrency: Mapping[str, int], endpoint: str = "shop", tidegate: Mapping[str, Any] | None = None
    ) -> None:
        """A revision whose deployments are `blue` (live) and those of `concurrency` (mirrored to); `tidegate` is theirs."""
        self.revision += 1
        document: dict[str, Any] = {
            "name": endpoint,
            "auth_mode": "key",
            "traffic": {"blue": 100},
            "tidegate": {"mirror": [{"deployment": name, "fraction": 0.5} for name in concurrency]},
        }
        deployments: dict[str, Any] = {
            name: {
                "name": name,
                "endpoint_name": endpoint,
                "request_settings": {"max_concurrent_requests_per_instance": limit},
                "tidegate": {**self.extras, **(tidegate or {})},
            }
            for name, limit in {"blue": 1, **concurrency}.items()
        }
        event = EndpointRevision(endpoint, self.revision, time.time_ns(), document, deployments)
        self.log.append(SPECS, endpoint, encode_specs(event))

    def replicas(self, ports: Mapping[str, list[tuple[int, ReplicaState]]], endpoint: str = "shop") -> None:
        """The replicas of each deployment: port and state; the id is made of deployment and port."""
        self.version += 1
        groups = {
            name: DeploymentReplicas(
                len(group),
                self.revision,
                replicas=tuple(Replica(f"{name}-{port}", "127.0.0.1", port, state, "t") for port, state in group),
            )
            for name, group in ports.items()
        }
        event = EndpointReplicas(endpoint, self.version, 1, time.time_ns(), groups)
        self.log.append(REPLICAS, endpoint, encode_replicas(event))

    def serve(self, **ports: int) -> None:
        """One ready replica per named deployment."""
        self.replicas({name: [(port, ReplicaState.READY)] for name, port in ports.items()})

    async def applied(self) -> None:
        """Until the mirror reports that it knows the newest revision and replicas."""
        await self.log.flush()
        await self.until(
            lambda: any((one.revision, one.replicas_version) == (self.revision, self.version) for one in self.reports)
        )

    async def finish(self) -> None:
        """Stop the mirror and read everything it wrote."""
        self.stop.set()
        assert self.task is not None
        await self.task
        await self.log.flush()
        reader = await self.log.reader((SHADOWS,))
        try:
            count = 0
            while not await reader.caught_up():
                count += len(await reader.next(1))
        finally:
            await reader.close()
        await self.wait_shadows(count)


@contextlib.asynccontextmanager
async def mirror(root: Path, concurrency: Mapping[str, int] | None = None, **settings: Any) -> AsyncIterator[Mirror]:
    """A running mirror whose endpoint `shop` mirrors to the deployments of `concurrency`."""
    data = DataLayout(root)
    data.create()
    log = open_log(f"embedded:{data.log}")
    running = Mirror(MirrorSettings(data, **settings), log)
    if concurrency is not None:
        running.specs(concurrency)
        await log.flush()
    running.task = asyncio.create_task(run(running.settings, log, running.stop, running.ready.set))
    following = asyncio.create_task(running.follow())
    try:
        async with asyncio.timeout(60):
            ready = asyncio.create_task(running.ready.wait())
            await asyncio.wait((ready, running.task), return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
        assert running.ready.is_set(), "the mirror ended before it was ready"
        yield running
    finally:
        running.stop.set()
        await asyncio.gather(running.task, return_exceptions=True)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await log.close()
    assert running.task.exception() is None
