"""Tidegate on a cluster that comes to harm, callers whose every request is counted, and the hands that do the harm."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from loadtests.kubernetes import image
from loadtests.kubernetes.cluster.cluster import Cluster
from tests.support.kubernetes_cluster import running_cluster
from tests.support.kubernetes_pods import is_ready
from tests.support.kubernetes_rig import SMALL, TYPES
from tests.support.whole import Whole, until, whole

SERVER = Path(__file__).with_name("kubernetes_faults_server.py")
ENDPOINT, DEPLOYMENT = "shop", "blue"
DELAYS = (0.01, 0.02, 0.05, 0.2)
"""Seconds of work that callers ask for, in turn."""
LOST_NODE_SECONDS = 8
"""A node that was silent for so long is not ready; Kubernetes' default is 50."""
Pod = dict[str, Any]
image_name = functools.cache(image.name)
"""Of Tidegate's image as it was when the run began."""


@pytest.fixture(scope="session")
def faulty_cluster(node_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two nodes that every test of faults may do anything to, and leaves whole; nodes have Tidegate's image."""
    if (reason := image.missing()) is not None:
        pytest.skip(reason)
    grace = f"--node-monitor-grace-period={LOST_NODE_SECONDS}s"
    for made in running_cluster(Cluster(tmp_path_factory.mktemp("faulty"), nodes=2, controller_flags=[grace])):
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(image.image(made))
        yield made


def document(count: int) -> dict[str, Any]:
    """A deployment of `count` replicas of a server that ends as servers should, in a user's own image."""
    probe = {"period": 1, "timeout": 5, "failure_threshold": 3}
    return {
        "environment": {"image": image_name()},
        "instance_type": SMALL,
        "instance_count": count,
        "tidegate": {"command": ["python", "-I", "-S", "-c", SERVER.read_text(), "{port}"], "drain_seconds": 60},
        "readiness_probe": {**probe, "initial_delay": 1},
        "liveness_probe": {**probe, "failure_threshold": 30},
        "request_settings": {
            "max_concurrent_requests_per_instance": 20,
            "request_timeout_ms": 60_000,
            "max_queue_wait_ms": 60_000,
        },
    }


@dataclass(slots=True)
class Traffic:
    """Requests that were sent, and what became of each."""

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    """Pod → answers with 200."""
    lost: list[str] = field(default_factory=list)
    """Whatever else a request came to, with the seconds since the first one and those that it took."""
    slowest_seconds: float = 0.0

    @property
    def answered(self) -> int:
        """Requests with a 200."""
        return self.answers.total()

    def nothing_lost(self) -> None:
        """The one figure: of all requests none was lost, and each has an answer."""
        told = f"{self.answered} of {self.sent} answered, {len(self.lost)} lost, slowest {self.slowest_seconds:.1f} s"
        print(told)  # noqa: T201 -- shown where a test fails, and with `pytest -rP`
        assert (self.lost, self.answered) == ([], self.sent)


@dataclass(slots=True)
class Shop:
    """An endpoint `shop` with a deployment `blue`, on `cluster`."""

    whole: Whole
    cluster: Cluster
    namespace: str

    async def open(self, count: int) -> None:
        """Make the endpoint, and wait until `count` replicas of its deployment are ready."""
        about = {"auth_mode": "key", "compute": "azureml:kubernetes"}
        await self.whole.api("PUT", f"/v1/endpoints/{ENDPOINT}", about)
        await self.deploy(document(count))
        await self.whole.api("PUT", f"/v1/endpoints/{ENDPOINT}", {**about, "traffic": {DEPLOYMENT: 100}})
        keys = await self.whole.api("POST", f"/v1/endpoints/{ENDPOINT}/keys/list", {})
        self.whole.keys[ENDPOINT] = keys["primaryKey"]
        await self.until_ready(count)

    async def at(self, count: int) -> list[str]:
        """Have exactly `count` replicas, whatever there was before; the names of their pods."""
        await self.deploy(document(count))
        await self.until_ready(count)
        return await self.until_pods(count)

    async def deploy(self, wanted: dict[str, Any]) -> None:
        """Give the deployment this document; returns when it is accepted."""
        await self.whole.api("PUT", f"/v1/endpoints/{ENDPOINT}/deployments/{DEPLOYMENT}", wanted)

    async def until_ready(self, count: int, seconds: float = 120) -> None:
        """Wait until exactly `count` replicas exist for the control plane, and all are ready."""
        wanted = {"observed": count, "ready": count, "desired": count}

        async def look() -> bool:
            return await self.whole.counts(ENDPOINT, DEPLOYMENT) == wanted

        await until(f"{count} ready replicas", look, seconds)

    async def until_counts(self, seconds: float = 120, **counts: int) -> None:
        """Wait until the control plane counts so: observed, ready or desired replicas."""

        async def look() -> bool:
            return counts.items() <= (await self.whole.counts(ENDPOINT, DEPLOYMENT)).items()

        await until(f"replicas to be {counts}", look, seconds)

    async def until_draining(self) -> str:
        """The one replica that drains, as soon as one does."""

        async def look() -> list[str]:
            url, login = f"{self.whole.tree.control_url}/v1/events/replicas", self.whole.tree.login
            async with self.whole.session.get(url, params={"tail": "1"}, headers=login) as response:
                told = json.loads(await response.text())["event"]["deployments"][DEPLOYMENT]["replicas"]
            return [one["id"] for one in told if one["state"] == "draining"]

        (victim,) = await until("a replica to drain", look)
        return str(victim)

    # ── what the cluster says ──

    @property
    def path(self) -> str:
        """Address of the namespace's pods."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    async def pods(self) -> list[Pod]:
        """Those that nobody has deleted, oldest first."""
        found: list[Pod] = (await self.cluster.api.get(self.path))["items"]
        kept = [one for one in found if "deletionTimestamp" not in one["metadata"]]
        return sorted(kept, key=lambda one: (one["metadata"]["creationTimestamp"], one["metadata"]["name"]))

    async def names(self) -> list[str]:
        """Their names."""
        return [one["metadata"]["name"] for one in await self.pods()]

    async def delete(self, *names: str) -> None:
        """Delete pods by hand, all at once, with their normal grace."""
        await asyncio.gather(*(self.cluster.api.delete(f"{self.path}/{name}") for name in names))

    async def until_pods(self, count: int, seconds: float = 120) -> list[str]:
        """The names of exactly `count` pods, all of them ready."""

        async def look() -> list[str]:
            found = await self.pods()
            so = len(found) == count and all(is_ready(one) for one in found)
            return [one["metadata"]["name"] for one in found] if so else []

        names: list[str] = await until(f"{count} ready pods", look, seconds)
        return names

    async def until_gone(self, *names: str) -> None:
        """Wait until these pods have ended, and nothing is left of them."""

        async def look() -> bool:
            found = (await self.cluster.api.get(self.path))["items"]
            return not {one["metadata"]["name"] for one in found} & set(names)

        await until(f"{names} to be gone", look)

    async def restarts(self) -> int:
        """How often servers of all pods together have been started again."""
        states = [state for pod in await self.pods() for state in pod["status"].get("containerStatuses", ())]
        return sum(int(state["restartCount"]) for state in states)

    async def until_restarts(self, times: int) -> None:
        """Wait until servers of all pods together have been started again that often."""

        async def look() -> bool:
            return await self.restarts() >= times

        await until(f"{times} restarts", look)

    # ── callers ──

    async def _call(self, session: aiohttp.ClientSession, traffic: Traffic, began: float, delay: float) -> None:
        url = f"{self.whole.tree.gateway_url}/endpoints/{ENDPOINT}/score"
        headers = {"authorization": f"Bearer {self.whole.keys[ENDPOINT]}"}
        traffic.sent += 1
        sent = time.monotonic()
        try:
            async with session.post(url, json={"delay": delay}, headers=headers) as response:
                text, status = await response.text(), response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            text, status = repr(error), 0
        took = time.monotonic() - sent
        traffic.slowest_seconds = max(traffic.slowest_seconds, took)
        if status == 200:
            traffic.answers[json.loads(text)["pod"]] += 1
        else:
            traffic.lost.append(f"at {sent - began:.1f} s, after {took:.1f} s: {status} {text}")

    @contextlib.asynccontextmanager
    async def traffic(self, callers: int = 8, *, long: int = 0, long_seconds: float = 2.0) -> AsyncIterator[Traffic]:
        """Callers with one request at a time each, while the body runs; every request has ended when it ends.

        `long` more of them ask for work of `long_seconds`, so that some requests are always under way.
        """
        traffic, stop, began = Traffic(), asyncio.Event(), time.monotonic()

        async def caller(session: aiohttp.ClientSession, delays: Iterable[float]) -> None:
            for delay in itertools.cycle(delays):
                if stop.is_set():
                    return
                await self._call(session, traffic, began, delay)

        timeout = aiohttp.ClientTimeout(total=240)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
            for index in range(callers + long):
                delays = DELAYS if index < callers else (long_seconds,)
                group.create_task(caller(session, delays), name=f"caller {index}")
            try:
                yield traffic
            finally:
                stop.set()

    async def more(self, traffic: Traffic, count: int = 200) -> None:
        """Wait until that many further requests have been answered."""
        target = traffic.answered + count

        async def look() -> bool:
            return traffic.answered >= target

        await until(f"{count} more answers", look)

    async def only_from(self, traffic: Traffic, pods: set[str], count: int = 200) -> None:
        """Wait until that many answers in a row have come from `pods`, and none from others."""

        async def look() -> bool:
            before = traffic.answers.copy()
            await self.more(traffic, count)
            return set(traffic.answers - before) <= pods

        await until(f"answers from {sorted(pods)} alone", look)

    async def from_all(self, traffic: Traffic, pods: set[str]) -> None:
        """Wait until each of `pods` has answered once more."""
        before = traffic.answers.copy()

        async def look() -> bool:
            return pods <= set(traffic.answers - before)

        await until(f"answers from each of {sorted(pods)}", look)


def created(cluster: Cluster) -> int:
    """Pods that were ever made for replicas, in all namespaces."""
    asked = cluster.requests().items()
    return sum(count for one, count in asked if (one.verb, one.resource, one.code) == ("create", "pods", 201))


@contextlib.asynccontextmanager
async def opened(cluster: Cluster, folder: Path, *flags: str, kubeconfig: Path | None = None) -> AsyncIterator[Shop]:
    """`tidegate up` over a namespace of its own; nothing is open there yet."""
    (folder / "types.yaml").write_text(TYPES)
    async with cluster.namespace() as namespace:
        words = backend_flags(cluster, folder, namespace, kubeconfig)
        async with whole(folder, *words, *flags) as made:
            yield Shop(made, cluster, namespace)


def backend_flags(cluster: Cluster, folder: Path, namespace: str, kubeconfig: Path | None = None) -> tuple[str, ...]:
    """What an autoscaler, or all of Tidegate, is told of the cluster."""
    return (
        "--backend=kubernetes",
        f"--kubeconfig={kubeconfig or cluster.kubeconfig}",
        f"--kubernetes-namespace={namespace}",
        f"--kubernetes-image={image_name()}",
        "--kubernetes-pull-policy=Never",
        f"--kubernetes-instance-types={folder / 'types.yaml'}",
    )
