"""Objects and revisions say the same, whoever changed them last and in whichever order they came."""

from __future__ import annotations

import shutil
from pathlib import Path

from loadtests.kubernetes.cluster.cluster import Cluster
from router.contract.events import Phase
from tests.support.control_plane import until
from tests.support.kubernetes_objects import Objects, condition, define, deployment, endpoint, following, says, tells


async def test_what_is_applied_is_one_revision_that_rest_shows(objects: Objects) -> None:
    await objects.shop(description="Sells things.")
    shown = await objects.rest("shop")
    assert shown["traffic"] == {"blue": 100}
    assert shown["description"] == "Sells things."
    found = await objects.kubectl.until("oe", "shop", says("Accepted"))
    assert found["status"]["revision"] == shown["revision"]
    assert found["status"]["scoring_uri"] == shown["scoring_uri"]


async def test_the_same_again_is_no_new_revision(objects: Objects) -> None:
    await objects.shop()
    before = (await objects.rest("shop"))["revision"]
    await objects.kubectl.applied(endpoint(traffic={"blue": 100}), deployment())
    await objects.kubectl.applied(endpoint(traffic={"blue": 100}, description="x"), deployment())
    await objects.kubectl.until("oe", "shop", says("Accepted"))
    assert (await objects.rest("shop"))["revision"] == before + 1


async def test_a_deployment_may_come_before_its_endpoint(objects: Objects) -> None:
    await objects.kubectl.applied(deployment())
    found = await objects.kubectl.until("od", "shop-blue", says("Accepted", "False", "WaitingForEndpoint"))
    assert "no endpoint shop yet" in condition(found, "Accepted")["message"]
    await objects.kubectl.applied(endpoint(traffic={"blue": 100}))
    await objects.kubectl.until("od", "shop-blue", says("Ready"))
    await objects.kubectl.until("oe", "shop", says("Ready"))


async def test_traffic_waits_for_a_deployment_that_is_not_there_yet(objects: Objects) -> None:
    await objects.kubectl.applied(endpoint(traffic={"blue": 100}))
    found = await objects.kubectl.until("oe", "shop", says("Accepted", "False", "WaitingForDeployment"))
    assert "traffic names blue" in condition(found, "Accepted")["message"]
    await objects.kubectl.applied(deployment())
    await objects.kubectl.until("oe", "shop", says("Ready"))


async def test_what_rest_changes_is_written_back_and_a_later_apply_wins(objects: Objects) -> None:
    await objects.shop(tags={"a": "1"})
    await objects.kubectl.applied(deployment("green"))
    await objects.kubectl.until("od", "shop-green", says("Ready"))
    body = {"traffic": {"blue": 90, "green": 10}}
    answer = await objects.plane.call("PUT", "/v1/endpoints/shop", {**body, "compute": "azureml:kubernetes"})
    assert answer.status == 200, answer.text
    found = await objects.kubectl.until(
        "oe", "shop", lambda one: one["spec"].get("traffic") == {"blue": 90, "green": 10}
    )
    assert "tags" not in found["spec"]
    assert (await objects.rest("shop"))["revision"] == answer.revision
    await objects.kubectl.until_event("shop", "WrittenBack")
    await objects.kubectl.applied(endpoint(traffic={"blue": 100, "green": 0}, tags={"a": "1"}))
    found = await objects.kubectl.until("oe", "shop", says("Ready"))
    assert found["spec"]["traffic"] == {"blue": 100, "green": 0}
    assert (await objects.rest("shop"))["traffic"] == {"blue": 100, "green": 0}


async def test_an_endpoint_made_by_rest_has_no_object_and_can_get_one(objects: Objects) -> None:
    answer = await objects.plane.call("PUT", "/v1/endpoints/desk", {"compute": "azureml:mine", "tags": {"a": "1"}})
    assert answer.status == 201, answer.text
    await objects.shop()
    assert await objects.kubectl.get("oe", "desk") is None
    await objects.kubectl.applied(endpoint("desk", tags={"a": "1"}))
    found = await objects.kubectl.until("oe", "desk", says("Ready"))
    assert found["status"]["revision"] == answer.revision  # it says the same, so nothing was changed


async def test_a_new_deployment_takes_over_only_once_it_is_ready(objects: Objects) -> None:
    await objects.shop()
    objects.fleet.states["green"] = {"phase": Phase.STARTING, "replicas": ()}
    await objects.kubectl.applied(endpoint(traffic={"green": 100}), deployment("green"))
    await objects.kubectl.until("oe", "shop", tells("Accepted", "blue keeps it until then"))
    assert (await objects.rest("shop"))["traffic"] == {"blue": 100, "green": 0}
    del objects.fleet.states["green"]
    await objects.fleet.say("shop")
    await objects.kubectl.until("oe", "shop", says("Ready"))
    assert (await objects.rest("shop"))["traffic"] == {"blue": 0, "green": 100}


async def test_rest_changes_a_deployment_and_kubectl_scales_it(objects: Objects) -> None:
    await objects.shop()
    document = {"environment": {"image": "x/y:2"}, "instance_count": 2, "tidegate": {"drain_seconds": 5}}
    answer = await objects.plane.call("PUT", "/v1/endpoints/shop/deployments/blue", document)
    assert answer.status == 200, answer.text
    found = await objects.kubectl.until("od", "shop-blue", lambda one: one["spec"]["instance_count"] == 2)
    assert found["spec"]["environment"] == {"image": "x/y:2"}
    assert found["spec"]["tidegate"]["drain_seconds"] == 5
    said = await objects.kubectl("scale", "od", "shop-blue", "--replicas=3")
    assert said.code == 0, said.err
    await objects.kubectl.until("od", "shop-blue", lambda one: one["status"].get("replicas") == 3)
    shown = await objects.rest("shop/deployments/blue")
    assert shown["instance_count"] == 3
    assert shown["tidegate"] == {"drain_seconds": 5}
    said = await objects.kubectl("get", "od", "shop-blue", "--subresource=scale", "-o", "jsonpath={.status.selector}")
    assert said.out == "tidegate.dev/endpoint=shop,tidegate.dev/deployment=blue"


async def test_a_deployment_that_scales_with_the_load_stays_one_when_it_is_written_back(objects: Objects) -> None:
    await objects.shop()
    scale = {"type": "target_utilization", "min_instances": 1, "max_instances": 4}
    document = {"environment": {"image": "x/y:1"}, "scale_settings": scale}
    answer = await objects.plane.call("PUT", "/v1/endpoints/shop/deployments/blue", document)
    assert answer.status == 200, answer.text
    found = await objects.kubectl.until("od", "shop-blue", lambda one: "scale_settings" in one["spec"])
    assert found["spec"]["scale_settings"]["max_instances"] == 4
    found = await objects.kubectl.until("od", "shop-blue", says("Ready"))
    assert found["status"]["revision"] == answer.revision
    assert (await objects.rest("shop"))["revision"] == answer.revision


async def test_under_target_utilization_the_count_is_not_the_users(objects: Objects) -> None:
    scale = {"type": "target_utilization", "max_instances": 4}
    await objects.kubectl.applied(endpoint(), deployment(scale_settings=scale))
    found = await objects.kubectl.until("od", "shop-blue", says("Ready"))
    assert "instance_count" not in condition(found, "Accepted")["message"]
    assert "instance_count" not in await objects.rest("shop/deployments/blue")
    await objects.kubectl("scale", "od", "shop-blue", "--replicas=3")
    words = "under target_utilization the number follows the load"
    await objects.kubectl.until("od", "shop-blue", tells("Accepted", words))


async def test_what_cannot_stand_in_an_object_is_told_and_stays_in_force(objects: Objects) -> None:
    await objects.shop()
    many = {f"V{number}": "x" for number in range(1500)}
    document = {"environment": {"image": "x/y:1"}, "environment_variables": many, "instance_count": 1}
    answer = await objects.plane.call("PUT", "/v1/endpoints/shop/deployments/blue", document)
    assert answer.status == 200, answer.text
    event = await objects.kubectl.until_event("shop-blue", "OutOfStep")
    assert f"revision {answer.revision} came from elsewhere and is in force" in event["message"]
    assert "environment_variables" in event["message"]
    await objects.kubectl.applied(endpoint(traffic={"blue": 100}, description="x"))
    await objects.kubectl.until("oe", "shop", says("Ready"))
    assert len((await objects.rest("shop/deployments/blue"))["environment_variables"]) == 1500


async def test_a_control_plane_that_was_away_takes_up_both_sides(
    api_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    await define(api_cluster)
    async with following(tmp_path, api_cluster, namespace) as objects:
        await objects.shop()
        revision = (await objects.rest("shop"))["revision"]
    await objects.kubectl.applied(endpoint(traffic={"blue": 100}, description="while it was away"))
    async with following(tmp_path, api_cluster, namespace) as objects:
        await objects.kubectl.until("oe", "shop", says("Ready"))
        shown = await objects.rest("shop")
        assert (shown["description"], shown["revision"]) == ("while it was away", revision + 1)


async def test_a_control_plane_that_lost_its_store_builds_it_anew_from_the_objects(
    api_cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    await define(api_cluster)
    async with following(tmp_path, api_cluster, namespace) as objects:
        await objects.shop(tags={"a": "1"})
        await objects.plane.call(
            "PUT", "/v1/endpoints/shop", {"traffic": {"blue": 100}, "compute": "azureml:kubernetes"}
        )
        await objects.kubectl.until("oe", "shop", lambda one: "tags" not in one["spec"])
        await objects.kubectl.until("oe", "shop", says("Ready"))
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    async with following(tmp_path, api_cluster, namespace) as objects:
        await objects.plane.endpoint("other")

        async def whole() -> bool:
            shown = await objects.rest("shop")
            return shown is not None and shown["traffic"] == {"blue": 100}

        await until("the endpoint is back", whole)
        await objects.kubectl.until("oe", "shop", says("Ready"))
        assert await objects.kubectl.get("od", "shop-blue") is not None
