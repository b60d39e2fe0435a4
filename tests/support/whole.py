"""All of Tidegate as real processes, with a tiny model server, for tests that look at it from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil
import yaml

from loadtests.tree import CommandFailed, Tidegate, Tree, tidegate_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ECHO = Path(__file__).parent / "echo"
DEADLINE_SECONDS = 90.0


async def until(what: str, condition: Callable[[], Awaitable[Any]], seconds: float = DEADLINE_SECONDS) -> Any:
    """The first true result of `condition`; AssertionError naming `what` after `seconds`."""
    ends = time.monotonic() + seconds
    while True:
        with contextlib.suppress(aiohttp.ClientError, OSError, CommandFailed):
            found = await condition()
            if found:
                return found
        assert time.monotonic() < ends, f"{what} did not happen within {seconds:g} s"
        await asyncio.sleep(0.05)


@dataclass(slots=True)
class Load:
    """Callers that keep sending until told to stop, and the fate of every request."""

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    """Deployment that answered 200 → how often."""
    failures: list[str] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def answered(self) -> int:
        """Requests with a 200."""
        return sum(self.answers.values())


@dataclass(slots=True)
class Whole:
    """A running tree, its HTTP session and the shortest ways to use both."""

    tree: Tidegate
    session: aiohttp.ClientSession
    folder: Path
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def up(self) -> Tree:
        """The processes, where they are children of this one."""
        assert isinstance(self.tree, Tree)
        return self.tree

    async def api(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """One call of the control plane; raises on an error status."""
        sent = {**self.tree.login, **(headers or {})}
        async with self.session.request(method, self.tree.control_url + path, json=body, headers=sent) as response:
            text = await response.text()
            assert response.status < 400, f"{method} {path}: {response.status} {text}"
            return json.loads(text)

    async def create(self, endpoint: str, deployments: dict[str, dict[str, Any]], traffic: dict[str, int]) -> None:
        """An endpoint with echo deployments (name → fields to add), provisioned, with `traffic` set."""
        file = self.folder / f"{endpoint}.yml"
        file.write_text(yaml.safe_dump({"name": endpoint, "auth_mode": "key"}))
        await self.tree.run("online-endpoint", "create", "-f", str(file))
        for name, extra in deployments.items():
            await self.deploy(endpoint, name, extra)
        if traffic:
            words = " ".join(f"{name}={weight}" for name, weight in traffic.items())
            await self.tree.run("online-endpoint", "update", "-n", endpoint, "--traffic", words)
        self.keys[endpoint] = (await self.api("POST", f"/v1/endpoints/{endpoint}/keys/list", {}))["primaryKey"]

    async def deploy(self, endpoint: str, name: str, extra: dict[str, Any]) -> None:
        """Create one echo deployment and wait until it is provisioned."""
        file = self.folder / f"{endpoint}-{name}.yml"
        file.write_text(yaml.safe_dump(echo_deployment(endpoint, name, extra)))
        await self.tree.run("online-deployment", "create", "-f", str(file))

    async def ask(self, endpoint: str, body: dict[str, Any] | None = None, **headers: str) -> tuple[int, str, str]:
        """(status, deployment that answered, body) of one scoring request."""
        url = f"{self.tree.gateway_url}/endpoints/{endpoint}/score"
        sent = {"authorization": f"Bearer {self.keys[endpoint]}", **headers}
        async with self.session.post(url, json=body or {}, headers=sent) as response:
            return response.status, response.headers.get("azureml-model-deployment", ""), await response.text()

    async def answers(self, endpoint: str, gateway_url: str) -> bool:
        """Whether the gateway at this address has a scoring request answered."""
        sent = {"authorization": f"Bearer {self.keys[endpoint]}"}
        async with self.session.post(f"{gateway_url}/endpoints/{endpoint}/score", json={}, headers=sent) as response:
            return response.status == 200

    async def _call(self, load: Load, endpoint: str, body: dict[str, Any]) -> None:
        load.sent += 1
        load.started.append(time.monotonic())
        try:
            status, deployment, text = await self.ask(endpoint, body)
        except (aiohttp.ClientError, TimeoutError) as error:
            load.failures.append(repr(error))
            return
        if status == 200:
            load.answers[deployment] += 1
        else:
            load.failures.append(f"{status} {text}")

    @contextlib.asynccontextmanager
    async def load(self, endpoint: str, callers: int = 6, body: dict[str, Any] | None = None) -> AsyncIterator[Load]:
        """`callers` closed-loop callers while the body runs; all answers are in when it ends."""
        load = Load()

        async def caller() -> None:
            while not load.stop.is_set():
                await self._call(load, endpoint, body or {})

        async with asyncio.TaskGroup() as group:
            for index in range(callers):
                group.create_task(caller(), name=f"caller-{index}")
            try:
                yield load
            finally:
                load.stop.set()

    async def burst(self, endpoint: str, count: int, body: dict[str, Any] | None = None) -> Load:
        """`count` requests at once."""
        load = Load()
        await asyncio.gather(*(self._call(load, endpoint, body or {}) for _ in range(count)))
        return load

    async def send(self, endpoint: str, count: int, callers: int = 10) -> Load:
        """Exactly `count` requests from `callers` closed-loop callers."""
        load = Load()

        async def caller(share: int) -> None:
            for _ in range(share):
                await self._call(load, endpoint, {})

        await asyncio.gather(*(caller(count // callers + (index < count % callers)) for index in range(callers)))
        return load

    async def routed_by(self, endpoint: str, revision: int, workers: int) -> None:
        """Wait until that many gateway workers report that they route by `revision`."""

        async def look() -> bool:
            url = f"{self.tree.control_url}/v1/events/demand"
            async with self.session.get(url, params={"tail": "50"}, headers=self.tree.login) as response:
                reports = [json.loads(line) for line in (await response.text()).splitlines()]
            newest: dict[str, int] = {
                one["writer"]: one["event"]["revision"] for one in reports if not one["event"]["shadow"]
            }
            return sum(int(found >= revision) for found in newest.values()) >= workers

        await until(f"revision {revision} in {workers} workers", look)

    async def more(self, load: Load, answers: int) -> None:
        """Wait until `load` has got that many further answers."""
        target = load.answered + answers
        await until(f"{answers} more answers", _later(lambda: load.answered >= target))

    async def counts(self, endpoint: str, deployment: str) -> dict[str, int]:
        """observed, ready and desired replicas."""
        found = await self.api("GET", f"/v1/endpoints/{endpoint}/deployments/{deployment}")
        counts: dict[str, int] = found["replicas"]
        return counts

    def pids(self, role: str) -> list[int]:
        """Process ids of one role's processes that are ready, in the order of their names."""
        told = json.loads((self.up.data / "run" / "up.json").read_text())
        roles = {name: state for name, state in told["roles"].items() if name.partition(" ")[0] == role}
        return [roles[name]["pid"] for name in sorted(roles) if roles[name]["ready"]]


def _later(check: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return check()

    return look


def echo_deployment(endpoint: str, name: str, extra: dict[str, Any]) -> dict[str, Any]:
    """A deployment document of the echo server."""
    route = {"path": "/score", "port": 8000}
    document: dict[str, Any] = {
        "name": name,
        "endpoint_name": endpoint,
        "code_configuration": {"code": str(ECHO), "scoring_script": "serve.py"},
        "environment": {
            "inference_config": {"liveness_route": route, "readiness_route": route, "scoring_route": route}
        },
        "environment_variables": {"MODEL_NAME": name},
        "instance_type": "Standard_F2s_v2",
        "instance_count": 1,
        "request_settings": {
            "max_concurrent_requests_per_instance": 20,
            "request_timeout_ms": 60000,
            "max_queue_wait_ms": 60000,
        },
        "tidegate": {"command": ["python", "serve.py", "--host", "{host}", "--port", "{port}"]},
    }
    tidegate = {**document["tidegate"], **extra.get("tidegate", {})}
    return {**document, **extra, "tidegate": tidegate}


@contextlib.asynccontextmanager
async def whole(folder: Path, *flags: str, workers: int = 2) -> AsyncIterator[Whole]:
    """Everything up on free ports, `flags` added; SIGTERM at the end, and nothing may be left running."""
    data = folder / "data"
    try:
        async with tidegate_up(
            data, "--workers", str(workers), *flags, log=folder / "up.log", deadline_seconds=120
        ) as tree:
            connector = aiohttp.TCPConnector(limit=0)
            timeout = aiohttp.ClientTimeout(total=DEADLINE_SECONDS)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
                yield Whole(tree, session, folder)
    finally:
        left = processes_of(data)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    assert not left, f"left running: {left}"


def processes_of(data: Path) -> list[psutil.Process]:
    """Every process that names the data folder on its command line or works in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            if any(str(data) in word for word in process.cmdline()) or process.cwd().startswith(str(data)):
                found.append(process)
    return found
