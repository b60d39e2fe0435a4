"""An installed overlay with callers of its gateway, and ways to be cruel to its pods."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.kubernetes.installation import ENDPOINTS, SYSTEM, Installation
from loadtests.tree import Tidegate
from tests.support.whole import DEADLINE_SECONDS, Whole

PODS = f"/api/v1/namespaces/{SYSTEM}/pods"


def installed(installation: Installation) -> Iterator[Installation]:
    """For a fixture: the installation for as long as it is needed; its namespaces go afterwards."""
    try:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(installation.install())
        yield installation
    finally:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(installation.remove())


@contextlib.asynccontextmanager
async def talking_to(installation: Installation, folder: Path) -> AsyncIterator[Whole]:
    """Callers and an operator of it."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=DEADLINE_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        there = Tidegate(installation.gateway_url, installation.control_url, installation.token)
        yield Whole(there, session, folder)


def kill(cluster: Cluster, pod: str, role: str) -> None:
    """SIGKILL for a container of a pod, as the kernel does when memory is short."""
    (pid,) = (pid for node in cluster.node for pid in node.pids if _is(pid, pod, role))
    os.kill(pid, signal.SIGKILL)


def _is(pid: int, pod: str, role: str) -> bool:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        words = process.cmdline()
        named = [index for index, word in enumerate(words) if os.path.basename(word) == "tidegate"]
        return bool(named) and words[named[0] + 1 :][:1] == [role] and process.environ().get("HOSTNAME") == pod
    return False


async def restarts(cluster: Cluster, pod: str, container: str) -> int:
    """How often a container has been started again; counts once it is ready."""
    status = (await cluster.api.get(f"{PODS}/{pod}"))["status"]
    states: list[dict[str, Any]] = [*status["initContainerStatuses"], *status["containerStatuses"]]
    (one,) = (state for state in states if state["name"] == container)
    return int(one["restartCount"]) if one["ready"] else -1


async def replicas(cluster: Cluster) -> list[str]:
    """Names of the models' pods that are not ending."""
    listed = await cluster.api.get(f"/api/v1/namespaces/{ENDPOINTS}/pods")
    return [one["metadata"]["name"] for one in listed["items"] if "deletionTimestamp" not in one["metadata"]]
