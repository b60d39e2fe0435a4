"""A gateway over real sockets and the real log: what control plane and autoscaler would write, by hand."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.waiting import free_port
from router.contract.codec import decode_demand, decode_requests, decode_shadow, encode_replicas, encode_specs
from router.contract.events import (
    DEMAND,
    REPLICAS,
    REQUESTS,
    SHADOWS,
    SPECS,
    DemandReport,
    DeploymentReplicas,
    EndpointReplicas,
    EndpointRevision,
    Phase,
    Replica,
    ReplicaState,
    RequestRecord,
    ShadowComparison,
)
from router.gateway.worker import run
from router.policy.cohorts import Cohorts, deal
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.settings import DataLayout, GatewaySettings

KEY = "key-of-the-endpoint"
PATIENCE = 30.0


async def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for `condition` to be true."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.005)


def deployment(concurrency: int = 100, timeout_ms: int = 20_000, wait_ms: int = 20_000, **extra: Any) -> dict[str, Any]:
    """A deployment's document."""
    settings = {
        "max_concurrent_requests_per_instance": concurrency,
        "request_timeout_ms": timeout_ms,
        "max_queue_wait_ms": wait_ms,
    }
    return {"request_settings": settings, **extra}


def replica(port: int, state: ReplicaState = ReplicaState.READY, replica_id: str = "") -> Replica:
    """A replica on this machine."""
    return Replica(replica_id or f"r{port}", "127.0.0.1", port, state, "template")


class Publisher:
    """Writes endpoints and their replicas."""

    def __init__(self, folder: Path) -> None:
        self.log = EmbeddedLog(folder)
        self._revisions: dict[str, int] = {}
        self.cohorts: dict[str, Cohorts] = {}
        """Endpoint → who has which hundredths of its callers, where they stick."""
        self._versions: dict[str, int] = {}

    def endpoint(
        self,
        name: str,
        deployments: Mapping[str, Mapping[str, Any]],
        traffic: Mapping[str, int],
        keys: Sequence[str] = (KEY, "second"),
        *,
        dealt: bool = True,
        **document: Any,
    ) -> int:
        """Append one revision; returns its number. `dealt`: say which callers stick to which deployment, where they do."""
        revision = self._revisions.get(name, 0) + 1
        self._revisions[name] = revision
        documents = {key: {"name": key, "endpoint_name": name, **value} for key, value in deployments.items()}
        event = EndpointRevision(
            name,
            revision,
            time.time_ns(),
            {"name": name, "auth_mode": "key", "traffic": dict(traffic), **document},
            documents,
            tuple(hashlib.sha256(key.encode()).hexdigest() for key in keys),
            cohorts=self._dealt(name, traffic, document) if dealt else {},
        )
        self.log.append(SPECS, name, encode_specs(event))
        return revision

    def _dealt(self, name: str, traffic: Mapping[str, int], document: Mapping[str, Any]) -> Cohorts:
        sticky = "stickiness" in document.get("tidegate", {})
        self.cohorts[name] = deal(traffic, self.cohorts.get(name, {})) if sticky else {}
        return self.cohorts[name]

    def delete(self, name: str) -> None:
        """Append the endpoint's end."""
        self._revisions[name] += 1
        event = EndpointRevision(name, self._revisions[name], time.time_ns(), deleted=True)
        self.log.append(SPECS, name, encode_specs(event))

    def replicas(self, name: str, sets: Mapping[str, Sequence[Replica] | DeploymentReplicas]) -> int:
        """Append the endpoint's replicas; returns the version."""
        version = self._versions.get(name, 0) + 1
        self._versions[name] = version
        deployments = {
            key: value
            if isinstance(value, DeploymentReplicas)
            else DeploymentReplicas(len(value), 1, Phase.READY, replicas=tuple(value))
            for key, value in sets.items()
        }
        event = EndpointReplicas(name, version, 1, time.time_ns(), deployments)
        self.log.append(REPLICAS, name, encode_replicas(event))
        return version


class Rig:
    """One worker in this process, its log, and everything it wrote."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.port = settings.port
        self.publisher = Publisher(settings.data.log)
        self.log = EmbeddedLog(settings.data.log)
        self.stop = asyncio.Event()
        self.ready = asyncio.Event()
        self.demand: list[DemandReport] = []
        self.records: list[RequestRecord] = []
        self.shadows: list[ShadowComparison] = []
        self.served: asyncio.Task[None] | None = None

    async def applied(self, name: str, *, revision: int | None = None, version: int | None = None) -> None:
        """Wait until the worker routes by this revision or replica set, as its reports say."""
        await until(
            lambda: any(
                one.endpoint == name
                and (revision is None or one.revision >= revision)
                and (version is None or one.replicas_version >= version)
                for one in self.demand
            ),
            f"{name} at revision {revision}, replicas {version}",
        )

    async def publish(
        self,
        name: str,
        deployments: Mapping[str, Mapping[str, Any]],
        traffic: Mapping[str, int],
        sets: Mapping[str, Sequence[Replica] | DeploymentReplicas],
        **document: Any,
    ) -> None:
        """An endpoint with replicas; returns when it is routed so."""
        revision = self.publisher.endpoint(name, deployments, traffic, **document)
        version = self.publisher.replicas(name, sets)
        await self.applied(name, revision=revision, version=version)

    async def _read(self) -> None:
        reader = await self.publisher.log.reader((DEMAND, REQUESTS, SHADOWS))
        try:
            while True:
                for message in await reader.next():
                    if message.topic == DEMAND:
                        self.demand.append(decode_demand(message.value))
                    elif message.topic == REQUESTS:
                        self.records += decode_requests(message.value)
                    else:
                        self.shadows.append(decode_shadow(message.value))
        finally:
            await reader.close()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Rig]:
        """The worker's life."""
        reading = asyncio.create_task(self._read())
        self.served = asyncio.create_task(run(self.settings, self.log, self.stop, self.ready.set))
        try:
            await asyncio.wait((asyncio.create_task(self.ready.wait()), self.served), return_when="FIRST_COMPLETED")
            yield self
        finally:
            self.stop.set()
            try:
                await self.served
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                await self.log.close()
                await self.publisher.log.close()


@contextlib.asynccontextmanager
async def gateway(folder: Path, **settings: Any) -> AsyncIterator[Rig]:
    """A worker that serves on a free port."""
    data = DataLayout(folder)
    data.create()
    options = {
        "port": free_port(),
        "demand_period_seconds": 0.02,
        "record_period_seconds": 0.0,
        "drain_seconds": 5.0,
        **settings,
    }
    async with Rig(GatewaySettings(data=data, **options)).serving() as rig:
        yield rig


@contextlib.asynccontextmanager
async def worker_process(settings: GatewaySettings) -> AsyncIterator[asyncio.subprocess.Process]:
    """The same as a process; killed at the end if it still runs."""
    options = {**dataclasses.asdict(settings), "data": str(settings.data.root)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.gateway_process", json.dumps(options), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
        assert line == b"ready\n", "the worker did not start"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
