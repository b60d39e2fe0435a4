"""What leaves drains first; what only seems to leave goes on serving."""

from __future__ import annotations

from loadtests.kubernetes.cluster.cluster import Cluster
from tests.support.kubernetes_objects import Objects, condition, define, deployment, endpoint, says


async def test_a_deployment_drains_before_its_object_is_gone(objects: Objects) -> None:
    await objects.shop()
    await objects.kubectl.applied(deployment("green"))
    await objects.kubectl.until("od", "shop-green", says("Ready"))
    objects.fleet.draining.add("green")
    said = await objects.kubectl("delete", "od", "shop-green", "--wait=false")
    assert said.code == 0, said.err
    await objects.kubectl.until("od", "shop-green", says("Accepted", "False", "Draining"))
    assert await objects.rest("shop/deployments/green") is not None  # still being deleted
    assert "green" not in (await objects.rest("shop"))["traffic"]
    await objects.fleet.drained("shop", "green")
    await objects.kubectl.until_gone("od", "shop-green")
    assert await objects.rest("shop/deployments/green") is None


async def test_a_deployment_with_traffic_stays_until_another_has_it(objects: Objects) -> None:
    await objects.shop()
    await objects.kubectl("delete", "od", "shop-blue", "--wait=false")
    found = await objects.kubectl.until("od", "shop-blue", says("Accepted", "False", "HasTraffic"))
    assert "gets 100 % of the live traffic" in condition(found, "Accepted")["message"]
    await objects.kubectl.until_event("shop-blue", "HasTraffic")
    await objects.kubectl.applied(endpoint(traffic={"green": 100}), deployment("green"))
    await objects.kubectl.until_gone("od", "shop-blue")
    await objects.kubectl.until("oe", "shop", says("Ready"))
    assert (await objects.rest("shop"))["traffic"] == {"green": 100}


async def test_deleting_an_endpoint_deletes_its_deployments_too(objects: Objects) -> None:
    await objects.shop()
    await objects.kubectl.until("secret", "shop-keys", lambda _: True)
    said = await objects.kubectl("delete", "oe", "shop", "--timeout=60s")
    assert said.code == 0, said.err
    await objects.kubectl.until_gone("od", "shop-blue")
    await objects.kubectl.until_gone("secret", "shop-keys")
    assert await objects.rest("shop") is None


async def test_what_rest_deletes_has_no_object_any_more(objects: Objects) -> None:
    await objects.shop()
    await objects.kubectl.applied(deployment("green"))
    await objects.kubectl.until("od", "shop-green", says("Ready"))
    answer = await objects.plane.call("DELETE", "/v1/endpoints/shop/deployments/green")
    assert answer.status == 202, answer.text
    await objects.kubectl.until_gone("od", "shop-green")
    assert await objects.kubectl.get("od", "shop-blue") is not None
    answer = await objects.plane.call("DELETE", "/v1/endpoints/shop")
    assert answer.status == 202, answer.text
    await objects.kubectl.until_gone("oe", "shop")
    await objects.kubectl.until_gone("od", "shop-blue")


async def test_an_object_that_never_was_accepted_takes_nothing_with_it(objects: Objects) -> None:
    answer = await objects.plane.call("PUT", "/v1/endpoints/desk", {"compute": "azureml:mine"})
    assert answer.status == 201, answer.text
    await objects.kubectl.applied(endpoint("desk", compute="azureml:other"))
    await objects.kubectl.until("oe", "desk", says("Accepted", "False", "BadArgument"))
    said = await objects.kubectl("delete", "oe", "desk", "--timeout=60s")
    assert said.code == 0, said.err
    assert await objects.rest("desk") is not None


async def test_the_fleet_outlives_the_kinds_of_its_objects(own_objects: Objects, own_control_plane: Cluster) -> None:
    objects = own_objects
    await objects.shop()
    await objects.kubectl.applied(deployment("green"))
    await objects.kubectl.until("od", "shop-green", says("Ready"))
    revision = (await objects.rest("shop"))["revision"]
    said = await objects.kubectl("delete", "crd", "--all", "--timeout=60s")
    assert said.code == 0, said.err
    shown = await objects.rest("shop")
    assert (shown["revision"], shown["traffic"]) == (revision, {"blue": 100, "green": 0})
    await define(own_control_plane)
    await objects.kubectl.applied(endpoint(traffic={"blue": 100}), deployment())
    await objects.kubectl.until("oe", "shop", says("Ready"))
    await objects.kubectl.until("od", "shop-blue", says("Ready"))
    assert (await objects.rest("shop"))["revision"] == revision


async def test_a_deployment_outlives_the_kind_of_its_owner(own_objects: Objects, own_control_plane: Cluster) -> None:
    objects = own_objects
    await objects.shop()
    await objects.kubectl.applied(deployment("green"))
    await objects.kubectl.until("od", "shop-green", says("Ready"))
    said = await objects.kubectl("delete", "crd", "onlineendpoints.tidegate.dev", "--timeout=60s")
    assert said.code == 0, said.err
    await define(own_control_plane)
    # The cluster's garbage collector takes what belonged to the endpoint's object; the deployments themselves stay.
    await objects.kubectl.until_gone("od", "shop-green")
    shown = await objects.rest("shop")
    assert shown["traffic"] == {"blue": 100, "green": 0}
