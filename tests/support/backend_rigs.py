"""Rigs for the backend contract: a backend, and hands that reach into what it runs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoscaler.backends.base import Backend, Condition, DeploymentPlan, Observation, ObservedReplica, Plan
from autoscaler.backends.local import LocalBackend, Rules
from autoscaler.backends.memory import MemoryBackend, MemoryWorld
from router.contract.events import Phase, ReplicaState
from router.runtime.settings import DataLayout

DEADLINE_SECONDS = 120.0
SERVER = Path(__file__).with_name("backend_server.py")
RULES = Rules(grace_seconds=5, healthy_seconds=0.5, backoff_first_seconds=0.2, backoff_most_seconds=1.0)
TARGET = ("shop", "blue")


async def until(
    backend: Backend, wanted: Callable[[Observation], bool], seconds: float = DEADLINE_SECONDS
) -> Observation:
    """The first observation that is as wanted."""
    last = None
    try:
        async with asyncio.timeout(seconds), contextlib.aclosing(backend.observe()) as stream:  # type: ignore[type-var]
            async for last in stream:
                if wanted(last):
                    return last
    except TimeoutError:
        raise AssertionError(f"did not come true in {seconds} s; last seen: {last}") from None
    raise AssertionError(f"the observation ended; last seen: {last}")


def ready(count: int, template: str = "t1") -> Callable[[Observation], bool]:
    """Whether exactly `count` replicas of `template` exist and all are ready."""

    def wanted(seen: Observation) -> bool:
        states = [one.state for one in seen.replicas if one.template == template]
        return states == [ReplicaState.READY] * count

    return wanted


def ids(seen: Observation) -> set[str]:
    """Ids of all replicas."""
    return {one.id for one in seen.replicas}


def wish(
    document: Mapping[str, Any],
    count: int,
    *,
    template: str = "t1",
    remove: frozenset[str] = frozenset(),
    target: tuple[str, str] = TARGET,
    gone: bool = False,
) -> DeploymentPlan:
    """One deployment's plan."""
    return DeploymentPlan(*target, document, template, count, remove, gone=gone)


def plan(*wishes: DeploymentPlan, generation: int = 1) -> Plan:
    """A plan of several deployments."""
    return Plan(generation, {(one.endpoint, one.deployment): one for one in wishes})


def command_document(*arguments: str, **more: Any) -> dict[str, Any]:
    """A custom deployment that runs the small test server."""
    probe = {"period": 0.1, "timeout": 5, "failure_threshold": 3}
    return {
        "tidegate": {"command": [sys.executable, "-I", "-S", str(SERVER), "{port}", *arguments]},
        "readiness_probe": {**probe, "initial_delay": 60},
        "liveness_probe": probe,
        **more,
    }


def add_asset(data: DataLayout, files: Mapping[str, str]) -> str:
    """Put files into the assets and return their `asset:<sha256>` reference."""
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
    folder = data.assets / digest
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return f"asset:{digest}"


class MemoryRig:
    """The fake."""

    def __init__(self) -> None:
        self.world = MemoryWorld()
        self.document: Mapping[str, Any] = {}
        self.broken: Mapping[str, Any] = {}

    def may_be(self, host: str) -> bool:
        """Whether a replica may have this address."""
        return host == "127.0.0.1"

    def backend(self) -> MemoryBackend:
        """A backend over the same world."""
        return MemoryBackend(world=self.world)

    async def clean(self) -> None:
        """Nothing runs."""

    async def crash(self, backend: Backend, replica: ObservedReplica) -> None:
        """The replica's server dies."""
        assert isinstance(backend, MemoryBackend)
        await backend.crash(replica.id)

    async def break_template(self, backend: Backend, template: str) -> None:
        """Replicas of `template` fail at their start."""
        assert isinstance(backend, MemoryBackend)
        await backend.fail(template, Condition(Phase.FAILED, template, "ResourceNotReady", "broken", "no weights"))


class LocalRig:
    """Processes of this machine."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.data = DataLayout(root)
        self.data.create()
        self.cache = cache
        self.document: Mapping[str, Any] = command_document()
        self.broken: Mapping[str, Any] = command_document("--fail")
        self._made: list[LocalBackend] = []

    def may_be(self, host: str) -> bool:
        """Whether a replica may have this address."""
        return host == "127.0.0.1"

    def backend(self, rules: Rules = RULES) -> LocalBackend:
        """A backend over the same data folder."""
        made = LocalBackend(self.data, self.cache, rules=rules, takeover_seconds=0.2)
        self._made.append(made)
        return made

    async def clean(self) -> None:
        """End whatever a test, passed or failed, left running."""
        for made in self._made:
            await made.close(end_replicas=False)
        last = self.backend()
        await last.start()
        await last.close(end_replicas=True)

    async def crash(self, backend: Backend, replica: ObservedReplica) -> None:
        """The replica's server dies."""
        assert isinstance(backend, LocalBackend)
        os.kill(int(await fetch(replica, "/pid")), signal.SIGKILL)

    async def break_template(self, backend: Backend, template: str) -> None:
        """The document is broken already."""


async def fetch(replica: ObservedReplica, path: str) -> str:
    """The body of a GET on a replica; raises OSError when it cannot be had."""
    reader, writer = await asyncio.open_connection(replica.host, replica.port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(30):
            answer = await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if not answer:
        raise ConnectionResetError("no answer")
    return answer.partition(b"\r\n\r\n")[2].decode()


def marked(root: Path) -> list[int]:
    """Every live process that belongs to a replica under `root`, known by its environment."""
    prefix = f"TIDEGATE_REPLICA={root.absolute()}/".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if prefix in Path(f"/proc/{name}/environ").read_bytes():
                    found.append(int(name))
    return found


async def eventually(true: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until `true()`; for things that nothing announces."""
    try:
        async with asyncio.timeout(seconds):
            while not await asyncio.to_thread(true):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None
