"""A real control plane on a free port over a real log, a caller for it, and an autoscaler that says what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from loadtests.waiting import free_port
from router.contract import codec
from router.contract.events import REPLICAS, DeploymentReplicas, EndpointReplicas, Phase, Replica, ReplicaState
from router.control import service
from router.runtime.log.base import Log
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.settings import ControlSettings, DataLayout

DEADLINE_SECONDS = 40.0


async def until(what: str, condition: Callable[[], Awaitable[Any]]) -> Any:
    """The first true result of `condition`."""
    ends = time.monotonic() + DEADLINE_SECONDS
    while True:
        found = await condition()
        if found:
            return found
        assert time.monotonic() < ends, f"{what} did not happen"
        await asyncio.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the API."""

    method: str
    path: str
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.text)

    @property
    def revision(self) -> int:
        """From the ETag."""
        return int(self.headers["ETag"].strip('"'))

    @property
    def operation(self) -> str:
        """Path of the operation that the answer names."""
        return "/v1/" + self.headers["Azure-AsyncOperation"].split("/v1/")[1]


@dataclass(slots=True)
class Caller:
    """Calls one control plane and keeps every answer."""

    session: aiohttp.ClientSession
    base: str
    answers: list[Answer] = field(default_factory=list)

    async def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, data: Any = None
    ) -> Answer:
        """One call, whatever its status."""
        async with self.session.request(method, self.base + path, json=body, data=data, headers=headers) as response:
            text = await response.text()
            answer = Answer(method, path, response.status, response.headers, text)
        self.answers.append(answer)
        return answer

    async def ended(self, answer: Answer) -> Any:
        """The operation that `answer` names, once it is over."""

        async def over() -> Any:
            operation = (await self("GET", answer.operation)).json
            return operation if operation["status"] != "InProgress" else None

        return await until("the end of the operation", over)


@dataclass(slots=True)
class FakeAutoscaler:
    """Writes what a test says the autoscaler runs."""

    log: Log
    version: int = 0

    async def say(self, endpoint: str, deployments: Mapping[str, DeploymentReplicas]) -> None:
        """One message on `replicas`, committed."""
        self.version += 1
        event = EndpointReplicas(endpoint, self.version, 1, time.time_ns(), deployments)
        self.log.append(REPLICAS, endpoint, codec.encode_replicas(event))
        await self.log.flush()


def ready(revision: int, count: int = 1, **more: Any) -> DeploymentReplicas:
    """A deployment with `count` ready replicas; `more` replaces fields."""
    replicas = tuple(Replica(f"r{n}", "127.0.0.1", 9000 + n, ReplicaState.READY, "t") for n in range(count))
    return dataclasses.replace(DeploymentReplicas(count, revision, Phase.READY, replicas=replicas), **more)


@dataclass(slots=True)
class Running:
    """A control plane in this process."""

    call: Caller
    log: EmbeddedLog
    autoscaler: FakeAutoscaler
    settings: ControlSettings

    async def endpoint(self, name: str = "shop", *deployments: str, traffic: dict[str, int] | None = None) -> int:
        """An endpoint with ready deployments; returns its newest revision."""
        answer = await self.call("PUT", f"/v1/endpoints/{name}", {})
        assert answer.status == 201, answer.text
        for deployment in deployments:
            answer = await self.call("PUT", f"/v1/endpoints/{name}/deployments/{deployment}", DEPLOYMENT)
            assert answer.status == 201, answer.text
        if deployments:
            await self.autoscaler.say(name, {one.lower(): ready(answer.revision) for one in deployments})
            await self.call.ended(answer)
        if traffic:
            answer = await self.call("PUT", f"/v1/endpoints/{name}", {"traffic": traffic})
            assert answer.status == 200, answer.text
        return answer.revision


DEPLOYMENT: dict[str, Any] = {"instance_count": 1, "environment": {"image": "x/y:1"}, "instance_type": "small"}


@contextlib.asynccontextmanager
async def running(
    folder: Path, make_log: Callable[[Path], EmbeddedLog] | None = None, **more: Any
) -> AsyncIterator[Running]:
    """A control plane over `folder`; it ends in good order."""
    data = DataLayout(folder)
    data.create()
    settings = ControlSettings(data, **{"port": free_port(), **more})
    log, stop, ready_now = (make_log or EmbeddedLog)(data.log), asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(service.run(settings, log, stop, ready_now.set))
    waiting = asyncio.create_task(ready_now.wait())
    try:
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not ready_now.is_set():
            await serving
        async with aiohttp.ClientSession() as session:
            caller = Caller(session, f"http://127.0.0.1:{settings.port}")
            yield Running(caller, log, FakeAutoscaler(log), settings)
    finally:
        waiting.cancel()
        stop.set()
        try:
            await serving
        finally:
            await log.close()


def tar_of(members: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    """A tar file in memory; a `TarInfo` is added as it is."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()
