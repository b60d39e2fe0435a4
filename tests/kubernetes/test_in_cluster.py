"""Tidegate in a real cluster, by the overlay that people begin with: it serves, mirrors, and survives the death of its roles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.kubernetes.installation import ENDPOINTS, SYSTEM, Installation
from tests.support.kubernetes_installation import installed, kill, replicas, restarts, talking_to
from tests.support.whole import until

pytestmark = pytest.mark.timeout(900)  # all of Tidegate has to start in pods, on whatever machine
POD = "tidegate-0"


@pytest.fixture(scope="module")
def installation(cluster: Cluster, tidegate_image: str) -> Iterator[Installation]:
    yield from installed(Installation(cluster, "dev"))


async def test_an_endpoint_is_served_from_pods_and_its_mirror_is_compared(
    installation: Installation, tmp_path: Path
) -> None:
    async with talking_to(installation, tmp_path) as whole:
        await whole.create("shop", {"blue": {}, "green": {}}, {"blue": 100})
        await whole.tree.run("online-endpoint", "update", "-n", "shop", "--mirror-traffic", "green=50")
        load = await whole.send("shop", 200)
        assert (load.failures, load.answers) == ([], {"blue": 200})
        assert len(await replicas(installation.cluster)) == 2

        async def compared() -> bool:
            lines = (await whole.tree.run("events", "shadows", "--tail", "10000")).splitlines()
            events = [json.loads(line)["event"] for line in lines]
            return sum(int(not one["dropped"] and one["endpoint"] == "shop") for one in events) == 100

        await until("100 compared shadows", compared)
        logs = await whole.tree.json("online-deployment", "get-logs", "-e", "shop", "-n", "blue")
        assert isinstance(logs, str)
        await whole.tree.run("online-endpoint", "delete", "-n", "shop", "--yes")
        assert await replicas(installation.cluster) == []


async def test_roles_that_are_killed_come_back_and_no_request_is_lost(
    installation: Installation, tmp_path: Path
) -> None:
    cluster = installation.cluster
    async with talking_to(installation, tmp_path) as whole:
        await whole.create("kills", {"blue": {"instance_count": 2}, "green": {}}, {"blue": 100})
        await whole.tree.run("online-endpoint", "update", "-n", "kills", "--mirror-traffic", "green=10")
        async with whole.load("kills") as load:
            for role in ("control", "autoscaler", "mirror"):
                before = await restarts(cluster, POD, role)
                kill(cluster, POD, role)

                async def back(role: str = role, before: int = before) -> bool:
                    return await restarts(cluster, POD, role) > before

                await until(f"{role} to be back", back)
                await whole.more(load, 50)
        assert (load.failures, load.answered) == ([], load.sent)
        await whole.tree.run("online-endpoint", "delete", "-n", "kills", "--yes")


async def test_nobody_was_denied_anything_and_every_rule_is_used(installation: Installation, tmp_path: Path) -> None:
    """What a Role allows and no pod needs should not be there."""
    cluster = installation.cluster
    async with talking_to(installation, tmp_path) as whole:
        await whole.create("rules", {"blue": {"instance_count": 2}}, {"blue": 100})
        await whole.tree.run("online-deployment", "update", "-n", "blue", "-e", "rules", "--set", "instance_count=1")
        await whole.tree.json("online-deployment", "get-logs", "-e", "rules", "-n", "blue")
        await whole.tree.run("online-endpoint", "delete", "-n", "rules", "--yes")

    async def tidy() -> bool:
        found = [
            *(await cluster.api.get(f"/api/v1/namespaces/{ENDPOINTS}/serviceaccounts"))["items"],
            *(await cluster.api.get(f"/apis/policy/v1/namespaces/{ENDPOINTS}/poddisruptionbudgets"))["items"],
        ]
        return [one["metadata"]["name"] for one in found] == ["default"]

    await until("nothing to be left of the endpoint", tidy)
    account = f"system:serviceaccount:{SYSTEM}:tidegate"
    asked = {one for one in cluster.requests() if one.user == account}
    assert [one for one in asked if one.code == 403] == []
    used = {(one.resource, one.verb) for one in asked if 200 <= one.code < 300}
    created = {("deployments", "create"), ("poddisruptionbudgets", "create")}  # what a patch that applies needs too
    rare = {("events", "list"), ("pods", "delete"), ("serviceaccounts", "get")}
    roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{ENDPOINTS}/roles"
    role = await cluster.api.get(f"{roles}/tidegate-autoscaler")
    allowed = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert allowed - used <= created | rare, "a rule that nothing uses"
