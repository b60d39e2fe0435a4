"""Bad weather between the control plane and the API server: nothing is lost, nothing is asked in a hot loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from loadtests.kubernetes.cluster.cluster import Cluster
from tests.support.kubernetes_objects import (
    DEADLINE_SECONDS,
    Kubectl,
    Objects,
    condition,
    define,
    deployment,
    endpoint,
    following,
    says,
)

ROLES = Path(__file__).parents[2] / "deploy" / "kubernetes" / "objects" / "roles.yaml"


def rules(kind: str) -> Sequence[Mapping[str, Any]]:
    """What the shipped role of this kind allows."""
    return next(one["rules"] for one in yaml.safe_load_all(ROLES.read_text()) if one["kind"] == kind)


async def test_the_shipped_roles_are_enough(api_cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    await define(api_cluster)
    await api_cluster.account(namespace, "kinds", rules("ClusterRole"), cluster_wide=True)
    kubeconfig = await api_cluster.account(namespace, "control", rules("Role"))
    binding = {
        "metadata": {"name": f"{namespace}-control"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"{namespace}-kinds"},
        "subjects": [{"kind": "ServiceAccount", "name": "control", "namespace": namespace}],
    }
    await api_cluster.api.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    code = {"code": "configmap:code", "scoring_script": "score.py"}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"score.py": "x = 1"}}
    async with following(tmp_path, api_cluster, namespace, kubeconfig=kubeconfig) as objects:
        await objects.kubectl.applied(config, endpoint(traffic={"blue": 100}), deployment(code_configuration=code))
        await objects.kubectl.until("oe", "shop", lambda one: says("Ready")(one) and one["status"].get("keys_secret"))
        await objects.kubectl.until_event("shop-blue", "RevisionAccepted")
        answer = await objects.plane.call("PUT", "/v1/endpoints/shop", {"compute": "azureml:kubernetes"})
        assert answer.status == 200, answer.text
        await objects.kubectl.until("oe", "shop", lambda one: "traffic" not in one["spec"])
        await objects.plane.call("DELETE", "/v1/endpoints/shop/deployments/blue")
        await objects.kubectl.until_gone("od", "shop-blue")
        said = await objects.kubectl("delete", "oe", "shop", "--timeout=60s")
        assert said.code == 0, said.err


async def test_what_may_not_be_done_is_told_with_the_rule_to_add(
    api_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    await define(api_cluster)
    kubeconfig = await api_cluster.account(namespace, "control", rules("Role"))
    async with following(tmp_path, api_cluster, namespace, kubeconfig=kubeconfig) as objects:
        await objects.shop()
        await objects.kubectl("delete", "oe", "shop", "--wait=false")
        found = await objects.kubectl.until("oe", "shop", says("Accepted", "False", "AuthorizationFailed"))
        assert '"resources": ["customresourcedefinitions"], "verbs": ["get"]' in condition(found, "Accepted")["message"]
        assert await objects.rest("shop") is not None  # nobody knows whether it is to go
    unbind = {"metadata": {"finalizers": None}}
    for kind, name in (("onlineendpoints", "shop"), ("onlinedeployments", "shop-blue")):
        await api_cluster.api.patch(f"/apis/tidegate.dev/v1alpha1/namespaces/{namespace}/{kind}/{name}", unbind)


async def test_an_api_server_that_was_away_is_caught_up_with(
    rough_objects: Objects, rough_control_plane: Cluster
) -> None:
    objects, control = rough_objects, rough_control_plane.control
    await objects.shop()
    await control.api_server.kill()
    for percent in (90, 80):
        traffic = {"traffic": {"blue": 100}, "tags": {"percent": str(percent)}, "compute": "azureml:kubernetes"}
        answer = await objects.plane.call("PUT", "/v1/endpoints/shop", traffic)
        assert answer.status == 200, answer.text
    await control.api_server.start()
    await objects.kubectl.until("oe", "shop", lambda one: one["spec"].get("tags") == {"percent": "80"})
    await objects.kubectl.applied(endpoint(traffic={"blue": 100}, tags={"percent": "70"}))
    found = await objects.kubectl.until("oe", "shop", says("Ready"))
    assert found["spec"]["tags"] == {"percent": "70"}
    assert (await objects.rest("shop"))["tags"] == {"percent": "70"}


async def test_a_watch_whose_past_is_forgotten_begins_anew(
    rough_objects: Objects, rough_control_plane: Cluster
) -> None:
    objects, control = rough_objects, rough_control_plane.control
    await objects.shop()
    await control.api_server.kill()
    await rough_control_plane.compact()
    await control.api_server.start()
    await objects.kubectl.applied(deployment("green"))
    await objects.kubectl.until("od", "shop-green", says("Ready"))


async def test_once_all_is_said_nothing_is_written(rough_objects: Objects, rough_control_plane: Cluster) -> None:
    """However often the fleet reports the same."""
    objects = rough_objects
    await objects.shop()
    await objects.kubectl.until("oe", "shop", lambda one: one["status"].get("keys_secret"))
    before = await _quiet(rough_control_plane)
    for _ in range(50):
        await objects.fleet.say("shop")
        await asyncio.sleep(0.02)
    await asyncio.sleep(2)
    assert _writes(rough_control_plane) == before


async def test_a_flapping_deployment_costs_a_bounded_number_of_writes(
    rough_objects: Objects, rough_control_plane: Cluster
) -> None:
    objects = rough_objects
    await objects.shop()
    before = _writes(rough_control_plane)
    loop = asyncio.get_running_loop()
    started = loop.time()
    for turn in range(200):
        objects.fleet.states["blue"] = {"message": f"turn {turn}", "desired": turn % 3}
        await objects.fleet.say("shop")
        await asyncio.sleep(0.01)
    seconds = loop.time() - started
    del objects.fleet.states["blue"]
    await objects.fleet.say("shop")
    await objects.kubectl.until("od", "shop-blue", lambda one: one["status"]["desired"] == 1)
    statuses = sum(_writes(rough_control_plane).values()) - sum(before.values())
    assert statuses <= 2 * (seconds / 0.5 + 3) + 5  # two objects, two writes a second each at most, and a few events


async def test_an_invalid_object_is_not_tried_again_and_again(
    rough_objects: Objects, rough_control_plane: Cluster
) -> None:
    objects = rough_objects
    await objects.kubectl.applied(endpoint(), deployment(model={"path": "./here"}))
    await objects.kubectl.until("od", "shop-blue", says("Accepted", "False", "BadArgument"))
    before = await _quiet(rough_control_plane)
    await asyncio.sleep(3)
    assert _writes(rough_control_plane) == before
    assert len(await objects.kubectl.events("shop-blue")) == 1


async def _quiet(cluster: Cluster) -> Mapping[tuple[str, str], int]:
    """The writes so far, once two seconds have passed without any: what was on its way has arrived."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        before = _writes(cluster)
        while True:
            await asyncio.sleep(2)
            if (now := _writes(cluster)) == before:
                return now
            before = now


def _writes(cluster: Cluster) -> Mapping[tuple[str, str], int]:
    """(verb, resource) → how often the control plane has written; kubectl and the cluster's own parts left out."""
    counted: dict[tuple[str, str], int] = {}
    for asked, count in cluster.requests().items():
        if asked.verb in ("create", "update", "patch", "delete") and asked.agent == "Python":  # the client library
            key = (asked.verb, asked.resource)
            counted[key] = counted.get(key, 0) + count
    return counted


async def test_objects_of_other_namespaces_are_none_of_its_business(objects: Objects, api_cluster: Cluster) -> None:
    async with api_cluster.namespace() as other:
        await Kubectl(api_cluster, other).applied(endpoint("elsewhere"))
        await objects.shop()
        found = await Kubectl(api_cluster, other).get("oe", "elsewhere")
        assert found is not None
        assert "status" not in found
    assert await objects.rest("elsewhere") is None
