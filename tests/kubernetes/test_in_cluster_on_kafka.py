"""The production overlay on a real cluster and a real Kafka: a pod of each role may go, and no request is lost that could be served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests.broker import Broker, missing
from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.kubernetes.installation import SYSTEM, Installation
from tests.support.kubernetes_broker import broker_for_pods
from tests.support.kubernetes_installation import PODS, installed, kill, replicas, restarts, talking_to
from tests.support.kubernetes_pods import is_ready
from tests.support.whole import Whole, until

pytestmark = pytest.mark.timeout(900)  # all of Tidegate has to start in pods, on whatever machine
SMALL = {"op": "replace", "path": "/spec/replicas", "value": 2}
"""Two gateways show all that three would, on a machine with little memory."""


@pytest.fixture(scope="module")
def broker(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, str]]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    made, servers = broker_for_pods(cluster, tmp_path_factory.mktemp("broker"))
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(made.start())
    try:
        yield made, servers
    finally:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(made.stop())


@pytest.fixture(scope="module")
def installation(cluster: Cluster, tidegate_image: str, broker: tuple[Broker, str]) -> Iterator[Installation]:
    log = {"TIDEGATE_LOG": f"kafka://{broker[1]}/tidegate?replication=1"}
    fewer = {"target": {"kind": "Deployment", "name": "tidegate-gateway"}, "patch": json.dumps([SMALL])}
    yield from installed(Installation(cluster, "production", settings=log, patches=[fewer]))


async def test_a_pod_of_each_role_may_be_deleted_and_no_request_is_lost(
    installation: Installation, tmp_path: Path
) -> None:
    async with talking_to(installation, tmp_path) as whole:
        await whole.create("shop", {"blue": {"instance_count": 2}, "green": {}}, {"blue": 100})
        await whole.tree.run("online-endpoint", "update", "-n", "shop", "--mirror-traffic", "green=10")
        await known_everywhere(installation, whole, "shop")
        async with whole.load("shop") as load:
            for component in ("control", "autoscaler", "gateway"):
                await replaced(installation, component)
                await whole.more(load, 50)
        assert (load.failures, load.answered) == ([], load.sent)
        await compared(whole, "shop", at_least=load.sent // 10 - 50)
        # Whoever acts now acts with what the one before knew.
        await whole.tree.run("online-deployment", "update", "-n", "blue", "-e", "shop", "--set", "instance_count=3")
        assert len(await replicas(installation.cluster)) == 4
        logs = await whole.tree.json("online-deployment", "get-logs", "-e", "shop", "-n", "blue")
        assert isinstance(logs, str)
        await whole.tree.run("online-endpoint", "delete", "-n", "shop", "--yes")


async def known_everywhere(installation: Installation, whole: Whole, endpoint: str) -> None:
    """Wait until every gateway routes by what the control plane has accepted: Kafka takes it to the other pods."""

    async def look() -> bool:
        pods = await installation.pods("gateway")
        return all([await whole.answers(endpoint, f"http://{pod['status']['podIP']}:8080") for pod in pods])

    await until("every gateway to know the endpoint", look)


async def replaced(installation: Installation, component: str) -> None:
    """Delete one pod of a kind, as whoever empties a node does, and wait until there are as many ready ones as before."""
    before = await installation.pods(component)
    victim = before[0]["metadata"]
    await installation.cluster.api.delete(f"{PODS}/{victim['name']}")

    async def back() -> bool:
        now = await installation.pods(component)
        fresh = [pod for pod in now if pod["metadata"]["uid"] != victim["uid"]]
        return len(fresh) == len(before) and all(is_ready(pod) for pod in fresh)

    await until(f"the {component} to be replaced", back, seconds=180)


async def compared(whole: Whole, endpoint: str, at_least: int) -> None:
    """Wait until that many shadows of an endpoint were compared."""

    async def look() -> bool:
        lines = (await whole.tree.run("events", "shadows", "--tail", "10000")).splitlines()
        events = [json.loads(line)["event"] for line in lines]
        return sum(int(not one["dropped"] and one["endpoint"] == endpoint) for one in events) >= at_least

    await until(f"{at_least} compared shadows", look)


async def test_a_gateway_that_is_killed_loses_only_what_was_inside_it(
    installation: Installation, tmp_path: Path
) -> None:
    async with talking_to(installation, tmp_path) as whole:
        await whole.create("kills", {"blue": {}}, {"blue": 100})
        await known_everywhere(installation, whole, "kills")
        async with whole.load("kills") as load:
            await whole.more(load, 100)
            for role in ("mirror", "shipper"):
                pod = (await installation.pods("gateway"))[0]["metadata"]["name"]
                kill(installation.cluster, pod, role)
                await whole.more(load, 100)
            assert load.failures == []
            pod = (await installation.pods("gateway"))[0]["metadata"]["name"]
            before = await restarts(installation.cluster, pod, "gateway")
            kill(installation.cluster, pod, "gateway")

            async def back() -> bool:
                return await restarts(installation.cluster, pod, "gateway") > before

            await until("the gateway to be back", back)
            await whole.more(load, 100)
        # Connections that kube-proxy leads to a gateway nobody listens at any more are refused until it is unready.
        assert set(map(kind_of, load.failures)) <= {"disconnected", "refused"}
        await whole.tree.run("online-endpoint", "delete", "-n", "kills", "--yes")


def kind_of(failure: str) -> str:
    if any(word in failure for word in ("Disconnected", "reset by peer", "Can not write request body")):
        return "disconnected"
    return "refused" if "ConnectorError" in failure else failure


async def test_requests_and_scaling_go_on_while_kafka_is_away(
    installation: Installation, broker: tuple[Broker, str], tmp_path: Path
) -> None:
    async with talking_to(installation, tmp_path) as whole:
        await whole.create("outage", {"blue": {"scale_settings": SCALES, "request_settings": FEW}}, {"blue": 100})
        await known_everywhere(installation, whole, "outage")
        await broker[0].stop()
        try:
            async with whole.load("outage", 6, {"delay": 0.3}) as load:

                async def out() -> bool:
                    return len(await replicas(installation.cluster)) >= 2

                await until("a second replica, by demand handed over directly", out)
                await whole.more(load, 20)
            assert load.failures == []
        finally:
            await broker[0].start()
        await whole.tree.run("online-endpoint", "delete", "-n", "outage", "--yes")


SCALES: dict[str, Any] = {
    "type": "target_utilization",
    "min_instances": 1,
    "max_instances": 3,
    "target_utilization_percentage": 70,
    "polling_interval": 1,
}


FEW = {"max_concurrent_requests_per_instance": 4, "request_timeout_ms": 60000, "max_queue_wait_ms": 60000}
"""Six callers are more than one replica should have, and no more than may wait for one."""


async def test_each_accounts_requests_are_allowed(installation: Installation) -> None:
    gateway, *others = (
        f"system:serviceaccount:{SYSTEM}:tidegate-{one}" for one in ("gateway", "autoscaler", "control")
    )
    asked = [one for one in installation.cluster.requests() if one.user in (gateway, *others)]
    assert {one.user for one in asked} == set(others)
    assert [one for one in asked if one.code == 403] == []
