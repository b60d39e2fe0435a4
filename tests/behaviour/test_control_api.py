"""The REST API as its callers see it: documents in, revisions, operations and errors out."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from router.contract import codec
from router.contract.events import DeploymentReplicas, Phase
from router.control.api import ROUTES
from router.control.openapi_schemas import SCHEMAS
from tests.support.control_plane import DEPLOYMENT, Answer, Running, ready, running, until


def check_against_openapi(answer: Answer, document: dict[str, Any]) -> None:
    """The answer's status and body are those that the document promises."""
    path = answer.path.split("?")[0]
    found = [
        operations[answer.method.lower()]
        for template, operations in document["paths"].items()
        if answer.method.lower() in operations and matches(template, path)
    ]
    if not found:
        assert answer.status in (404, 405), answer
    promised = found[0]["responses"] if found else {}
    response = promised.get(str(answer.status))
    if response is None:
        assert answer.status >= 400, f"{answer.method} {path} → {answer.status} is not promised"
        response = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    content = response.get("content", {}).get("application/json")
    if content and answer.method != "HEAD":
        schema = {**content["schema"], "components": {"schemas": document["components"]["schemas"]}}
        jsonschema.Draft202012Validator(schema).validate(answer.json)
    for header in response.get("headers", {}):
        if answer.method != "GET" or header == "ETag":
            assert header in answer.headers, f"{answer.method} {path} lacks {header}"


def matches(template: str, path: str) -> bool:
    ours, theirs = template.split("/"), path.split("/")
    return len(ours) == len(theirs) and all(a == b or a.startswith("{") for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
async def plane(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Running]:
    """Every answer of every test is checked against the OpenAPI document; no log line holds a key."""
    caplog.set_level(logging.DEBUG)
    keys: set[str] = set()
    async with running(tmp_path) as one:
        yield one
        document = (await one.call("GET", "/openapi.json")).json
        for answer in one.call.answers:
            check_against_openapi(answer, document)
            if "/keys/" in answer.path and answer.status == 200:
                keys |= set(answer.json.values())
    for key in keys:
        assert key not in caplog.text
    database = one.settings.data.control_db
    assert database.stat().st_mode & 0o777 == 0o600


async def test_an_endpoint_is_created_shown_listed_and_updated(plane: Running) -> None:
    created = await plane.call("PUT", "/v1/endpoints/Shop", {"auth_mode": "key", "description": "first"})
    assert (created.status, created.revision) == (201, 1)
    assert created.json["provisioning_state"] == "Succeeded"
    assert created.json["scoring_uri"] == "http://127.0.0.1:8080/endpoints/shop/score"
    assert (await plane.call.ended(created))["status"] == "Succeeded"
    shown = await plane.call("GET", "/v1/endpoints/sHOP")
    assert shown.json | {"warnings": []} == created.json
    again = await plane.call("PUT", "/v1/endpoints/shop", shown.json | {"description": "second"})
    assert (again.status, again.revision, again.json["description"]) == (200, 2, "second")
    listed = (await plane.call("GET", "/v1/endpoints")).json["value"]
    assert [(one["name"], one["revision"], one["description"]) for one in listed] == [("Shop", 2, "second")]


async def test_traffic_and_mirror_always_name_every_deployment_and_only_existing_ones(plane: Running) -> None:
    await plane.endpoint("shop", "blue", "Green")
    wrong = await plane.call("PUT", "/v1/endpoints/shop", {"traffic": {"bleu": 100}})
    assert wrong.status == 400
    (detail,) = wrong.json["error"]["details"]
    assert (detail["field"], detail["value"], detail["suggestion"]) == ("traffic.bleu", 100, "blue")
    right = await plane.call(
        "PUT", "/v1/endpoints/shop", {"traffic": {"BLUE": 100, "gone": 0}, "mirror_traffic": {"Green": 10}}
    )
    assert right.json["traffic"] == {"blue": 100, "green": 0}
    assert right.json["mirror_traffic"] == {"green": 10}
    early = await plane.call("PUT", "/v1/endpoints/early", {"traffic": {"blue": 100}})
    assert early.status == 400
    assert "created without" in early.json["error"]["message"]
    assert (await plane.call("GET", "/v1/endpoints/early")).status == 404


async def test_a_lost_update_is_refused_whoever_is_first(plane: Running) -> None:
    await plane.endpoint("shop")

    async def write(number: int) -> int:
        while True:
            read = await plane.call("GET", "/v1/endpoints/shop")
            tags = {**(read.json.get("tags") or {}), f"w{number}": "x"}
            headers = {"If-Match": read.headers["ETag"]}
            wrote = await plane.call("PUT", "/v1/endpoints/shop", read.json | {"tags": tags}, headers)
            if wrote.status == 200:
                return wrote.revision
            assert wrote.status == 412, wrote.text

    revisions = await asyncio.gather(*(write(number) for number in range(8)))
    assert sorted(revisions) == list(range(2, 10))
    final = (await plane.call("GET", "/v1/endpoints/shop")).json
    assert set(final["tags"]) == {f"w{number}" for number in range(8)}


async def test_preconditions(plane: Running) -> None:
    await plane.endpoint("shop")
    path = "/v1/endpoints/shop"
    assert (await plane.call("PUT", path, {}, {"If-None-Match": "*"})).status == 409
    assert (await plane.call("PUT", path, {}, {"If-Match": "7"})).status == 400
    assert (await plane.call("PUT", path, {}, {"If-Match": '"1"', "If-None-Match": "*"})).status == 400
    assert (await plane.call("PUT", path, {}, {"If-None-Match": '"1"'})).status == 400
    assert (await plane.call("DELETE", path, headers={"If-Match": '"9"'})).status == 412
    assert (await plane.call("PUT", "/v1/endpoints/other", {}, {"If-Match": "*"})).status == 412
    assert (await plane.call("PUT", path, {}, {"If-Match": 'W/"1", "3"'})).revision == 2
    assert (await plane.call("PUT", path + "/deployments/blue", DEPLOYMENT, {"If-Match": "*"})).status == 412
    assert (await plane.call("PUT", path + "/deployments/blue", DEPLOYMENT, {"If-None-Match": "*"})).revision == 3
    assert (await plane.call("PUT", path + "/deployments/blue", DEPLOYMENT, {"If-None-Match": "*"})).status == 409


async def test_a_deployment_goes_from_creating_to_succeeded_and_its_operation_tells(plane: Running) -> None:
    await plane.endpoint("shop")
    path = "/v1/endpoints/shop/deployments/blue"
    created = await plane.call("PUT", path, DEPLOYMENT)
    assert (created.status, created.json["provisioning_state"]) == (201, "Creating")
    building = DeploymentReplicas(1, created.revision, Phase.BUILDING, message="pip install", progress=0.5)
    await plane.autoscaler.say("shop", {"blue": building})

    async def half() -> Any:
        operation = (await plane.call("GET", created.operation)).json
        return operation if operation["phase"] == "building" else None

    operation = await until("the build", half)
    assert (operation["status"], operation["progress"], operation["message"]) == ("InProgress", 0.5, "pip install")
    await plane.autoscaler.say("shop", {"blue": ready(created.revision, 2)})
    operation = await plane.call.ended(created)
    assert (operation["status"], operation["kind"], operation["deployment"]) == ("Succeeded", "create", "blue")
    shown = (await plane.call("GET", path)).json
    assert (shown["provisioning_state"], shown["replicas"]) == ("Succeeded", {"observed": 2, "ready": 2, "desired": 2})
    await plane.autoscaler.say("shop", {"blue": ready(created.revision, 2, phase=Phase.SCALING, desired=3)})

    async def scaling() -> Any:
        return (await plane.call("GET", path)).json["provisioning_state"] == "Scaling"

    await until("scaling", scaling)


async def test_a_failed_deployment_says_why_and_stays_until_it_recovers(plane: Running) -> None:
    await plane.endpoint("shop")
    created = await plane.call("PUT", "/v1/endpoints/shop/deployments/blue", DEPLOYMENT)
    failed = DeploymentReplicas(1, created.revision, Phase.FAILED, "UserScriptInitFailed", "init() raised", "Traceback")
    await plane.autoscaler.say("shop", {"blue": failed})
    operation = await plane.call.ended(created)
    assert operation["status"] == "Failed"
    assert operation["error"] == {
        "code": "UserScriptInitFailed",
        "message": "init() raised",
        "log_tail": "Traceback",
    }
    shown = (await plane.call("GET", "/v1/endpoints/shop/deployments/blue")).json
    assert (shown["provisioning_state"], shown["reason"]) == ("Failed", "UserScriptInitFailed")
    assert shown["log_tail"] == "Traceback"


async def test_a_newer_change_supersedes_and_an_older_report_does_not_count(plane: Running) -> None:
    await plane.endpoint("shop")
    path = "/v1/endpoints/shop/deployments/blue"
    first = await plane.call("PUT", path, DEPLOYMENT)
    second = await plane.call("PUT", path, DEPLOYMENT | {"instance_count": 2})
    operation = await plane.call.ended(first)
    assert operation["status"] == "Canceled"
    assert f"revision {second.revision}" in operation["message"]
    await plane.autoscaler.say("shop", {"blue": ready(first.revision)})
    assert (await plane.call("GET", second.operation)).json["status"] == "InProgress"
    await plane.autoscaler.say("shop", {"blue": ready(second.revision)})
    assert (await plane.call.ended(second))["status"] == "Succeeded"


async def test_all_traffic_follows_when_the_deployment_is_ready(plane: Running) -> None:
    await plane.endpoint("shop", "blue", traffic={"blue": 100})
    created = await plane.call("PUT", "/v1/endpoints/shop/deployments/green?all_traffic=true", DEPLOYMENT)
    assert (await plane.call("GET", "/v1/endpoints/shop")).json["traffic"] == {"blue": 100, "green": 0}
    await plane.autoscaler.say("shop", {name: ready(created.revision) for name in ("blue", "green")})
    assert (await plane.call.ended(created))["status"] == "Succeeded"
    shown = await plane.call("GET", "/v1/endpoints/shop")
    assert (shown.json["traffic"], shown.revision) == ({"blue": 0, "green": 100}, created.revision + 1)


async def test_all_traffic_is_not_given_to_a_deployment_that_failed(plane: Running) -> None:
    await plane.endpoint("shop", "blue", traffic={"blue": 100})
    created = await plane.call("PUT", "/v1/endpoints/shop/deployments/green?all_traffic=true", DEPLOYMENT)
    failed = DeploymentReplicas(1, created.revision, Phase.FAILED, "ImageBuildFailure")
    await plane.autoscaler.say("shop", {"blue": ready(created.revision), "green": failed})
    assert (await plane.call.ended(created))["status"] == "Failed"
    assert (await plane.call("GET", "/v1/endpoints/shop")).json["traffic"] == {"blue": 100, "green": 0}


async def test_a_deployment_with_traffic_is_not_deleted_and_the_error_names_the_command(plane: Running) -> None:
    await plane.endpoint("shop", "blue", "green", traffic={"blue": 90, "green": 10})
    path = "/v1/endpoints/shop/deployments/"
    live = await plane.call("DELETE", path + "blue")
    assert live.status == 409
    command = 'tidegate online-endpoint update --name shop --traffic "blue=0 green=100"'
    assert command in live.json["error"]["message"]
    await plane.call("PUT", "/v1/endpoints/shop", {"traffic": {"green": 100}, "mirror_traffic": {"blue": 10}})
    mirrored = await plane.call("DELETE", path + "blue")
    assert mirrored.status == 409
    assert '--mirror-traffic "blue=0"' in mirrored.json["error"]["message"]
    await plane.call("PUT", "/v1/endpoints/shop", {"traffic": {"green": 100, "blue": 0}})
    deleted = await plane.call("DELETE", path + "Blue")
    assert deleted.status == 202
    assert (await plane.call("GET", path + "blue")).json["provisioning_state"] == "Deleting"
    assert len((await plane.call("GET", "/v1/endpoints/shop/deployments")).json["value"]) == 2
    await plane.autoscaler.say("shop", {"green": ready(9)})
    assert (await plane.call.ended(deleted))["status"] == "Succeeded"
    assert (await plane.call("GET", path + "blue")).status == 404
    assert (await plane.call("GET", "/v1/endpoints/shop")).json["traffic"] == {"green": 100}


async def test_a_list_goes_on_without_a_deployment_whose_deletion_ends_meanwhile(plane: Running) -> None:
    names = [f"d{number:02}" for number in range(20)]
    await plane.endpoint("shop", *names)
    path = "/v1/endpoints/shop/deployments"
    for name in reversed(names[1:]):
        deleted = await plane.call("DELETE", f"{path}/{name}")
        lists = [asyncio.create_task(plane.call("GET", path)) for _ in range(8)]
        left = names[: names.index(name)]
        await plane.autoscaler.say("shop", {one: ready(deleted.json["revision"]) for one in left})
        assert {one.status for one in await asyncio.gather(*lists)} == {200}
        assert (await plane.call.ended(deleted))["status"] == "Succeeded"
    assert [one["name"] for one in (await plane.call("GET", path)).json["value"]] == names[:1]


async def test_an_endpoint_is_gone_when_nothing_of_it_runs_and_numbers_go_on(plane: Running) -> None:
    revision = await plane.endpoint("shop", "blue", traffic={"blue": 100})
    keys = (await plane.call("POST", "/v1/endpoints/shop/keys/list")).json
    deleted = await plane.call("DELETE", "/v1/endpoints/shop")
    assert (deleted.status, deleted.json["revision"]) == (202, revision + 1)
    shown = (await plane.call("GET", "/v1/endpoints/shop")).json
    assert (shown["provisioning_state"], shown["traffic"]) == ("Deleting", {})
    assert (await plane.call("GET", "/v1/endpoints")).json["value"] == []
    assert (await plane.call("POST", "/v1/endpoints/shop/keys/list")).status == 404
    await plane.autoscaler.say("shop", {})
    assert (await plane.call.ended(deleted))["status"] == "Succeeded"
    assert (await plane.call("GET", "/v1/endpoints/shop")).status == 404
    assert (await plane.call("DELETE", "/v1/endpoints/shop")).status == 404
    again = await plane.call("PUT", "/v1/endpoints/shop", {})
    assert (again.status, again.revision) == (201, revision + 2)
    assert (await plane.call("POST", "/v1/endpoints/shop/keys/list")).json["primaryKey"] not in keys.values()


async def test_roll_back_restores_the_content_and_keeps_the_keys(plane: Running) -> None:
    split = await plane.endpoint("shop", "blue", "green", traffic={"blue": 100})
    keys = await plane.call("POST", "/v1/endpoints/shop/keys/regenerate", {"key_type": "primary"})
    await plane.call("PUT", "/v1/endpoints/shop", {"traffic": {"green": 100}})
    await plane.call("DELETE", "/v1/endpoints/shop/deployments/blue")
    back = await plane.call("POST", "/v1/endpoints/shop/rollback", {"revision": split})
    assert (back.status, back.json["traffic"]) == (200, {"blue": 100, "green": 0})
    assert (await plane.call("POST", "/v1/endpoints/shop/keys/list")).json == keys.json
    await plane.autoscaler.say("shop", {"blue": ready(back.revision), "green": ready(back.revision)})
    assert (await plane.call.ended(back))["status"] == "Succeeded"
    listed = (await plane.call("GET", "/v1/endpoints/shop/revisions")).json["value"]
    assert [one["revision"] for one in listed] == list(range(back.revision, 0, -1))
    assert listed[0]["change"] == f"roll back to revision {split}"
    old = (await plane.call("GET", f"/v1/endpoints/shop/revisions/{split}")).json
    assert old["document"]["traffic"] == {"blue": 100}
    assert set(old["deployments"]) == {"blue", "green"}
    for wrong, status in (({"revision": 99}, 404), ({"revision": "1"}, 400), ({}, 400), ({"revision": True}, 400)):
        assert (await plane.call("POST", "/v1/endpoints/shop/rollback", wrong)).status == status


async def test_one_key_changes_and_the_other_goes_on(plane: Running) -> None:
    await plane.endpoint("shop")
    before = (await plane.call("POST", "/v1/endpoints/shop/keys/list")).json
    first = (await plane.call("POST", "/v1/endpoints/shop/keys/regenerate", {"key_type": "primary"})).json
    assert first["secondaryKey"] == before["secondaryKey"]
    assert first["primaryKey"] not in before.values()
    second = (await plane.call("POST", "/v1/endpoints/shop/keys/regenerate", {"key_type": "secondary"})).json
    assert second["primaryKey"] == first["primaryKey"]
    assert second["secondaryKey"] != first["secondaryKey"]
    wrong = await plane.call("POST", "/v1/endpoints/shop/keys/regenerate", {"key_type": "both"})
    assert wrong.json["error"]["details"][0]["field"] == "key_type"
    lines = await plane.call("GET", "/v1/events/specs")
    for key in (*before.values(), *second.values()):
        assert key not in lines.text


async def test_restart_counts_and_waits_for_the_replicas(plane: Running) -> None:
    await plane.endpoint("shop", "blue")
    restarted = await plane.call("POST", "/v1/endpoints/shop/deployments/blue/restart", {})
    assert restarted.status == 202
    assert (await plane.call("GET", restarted.operation)).json["status"] == "InProgress"
    await plane.autoscaler.say("shop", {"blue": ready(restarted.json["revision"])})
    assert (await plane.call.ended(restarted))["kind"] == "restart"
    events = (await plane.call("GET", "/v1/events/specs?tail=1")).text
    assert json.loads(events)["event"]["restarts"] == {"blue": 1}


async def test_every_refusal_is_json_that_names_field_value_and_fix(plane: Running) -> None:
    await plane.endpoint("shop", "blue")
    put = "/v1/endpoints/shop/deployments/green"
    for path, body, field in (
        ("/v1/endpoints/1bad", {}, "name"),
        ("/v1/endpoints/shop", {"trafic": {}}, "trafic"),
        ("/v1/endpoints/shop", {"name": "other"}, "name"),
        ("/v1/endpoints/shop", {"compute": "azureml:cluster"}, "compute"),
        ("/v1/endpoints/shop", {"traffic": {"blue": 40}}, "traffic"),
        (put, DEPLOYMENT | {"endpoint_name": "else"}, "endpoint_name"),
        (put, DEPLOYMENT | {"type": "kubernetes"}, "type"),
        (put, DEPLOYMENT | {"instance_count": "many"}, "instance_count"),
        (put + "?all_traffic=maybe", DEPLOYMENT, "all_traffic"),
        (put, DEPLOYMENT | {"model": {"path": "./model"}}, "model.path"),
        (put, DEPLOYMENT | {"model": {"path": "asset:" + "0" * 64}}, "model.path"),
        (put, DEPLOYMENT | {"model": {"path": "asset:" + "0" * 64 + "/../x"}}, "model.path"),
    ):
        refused = await plane.call("PUT", path, body)
        assert refused.status == 400, (path, body, refused.text)
        assert field in [detail["field"] for detail in refused.json["error"]["details"]], refused.text
        assert all(detail["message"] for detail in refused.json["error"]["details"])
    assert (await plane.call("GET", "/v1/endpoints/shop")).revision == 2


async def test_what_is_no_request_is_refused(plane: Running) -> None:
    call, path = plane.call, "/v1/endpoints/shop"
    json_type = {"Content-Type": "application/json"}
    assert (await call("GET", "/nowhere")).status == 404
    wrong_method = await call("PATCH", path)
    assert (wrong_method.status, wrong_method.headers["Allow"]) == (405, "DELETE,GET,PUT")
    assert (await call("PUT", path, data=b"{}", headers={"Content-Type": "text/plain"})).status == 415
    assert (
        await call("PUT", path, data=b"{}", headers={"Content-Type": "application/x-www-form-urlencoded"})
    ).status == 415
    assert (await call("PUT", path, data=b"{" * 100_000, headers=json_type)).status == 400
    assert (await call("PUT", path, data=b"[" * 100_000, headers=json_type)).status == 400
    assert (await call("PUT", path, data=b"[]", headers=json_type)).status == 400
    assert (await call("PUT", path, data=b'{"tags": NaN}', headers=json_type)).status == 400
    assert (await call("PUT", path, data=b"", headers=json_type)).status == 400
    assert (await call("PUT", path, data=io.BytesIO(b"x" * (2 << 20)), headers=json_type)).status == 413
    for missing in ("/v1/endpoints/no", "/v1/operations/no", "/v1/events/no", "/v1/endpoints/no/deployments/no"):
        assert (await call("GET", missing)).json["error"]["code"] == "ResourceNotFound"
    for bad in ("tail=x", "tail=-1", "tail=99999", "follow=perhaps"):
        assert (await call("GET", "/v1/events/specs?" + bad)).status == 400


async def test_no_other_site_can_make_a_browser_write(plane: Running) -> None:
    own = plane.call.base
    port = plane.settings.port
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": f"http://evil.example:{port}", "Host": f"evil.example:{port}"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        refused = await plane.call("PUT", "/v1/endpoints/shop", {}, headers)
        assert (refused.status, refused.json["error"]["code"]) == (403, "CrossSite"), headers
    assert (await plane.call("PUT", "/v1/endpoints/shop", {}, {"Origin": own})).status == 201


async def test_the_openapi_document_is_valid_and_whole(plane: Running) -> None:
    document = (await plane.call("GET", "/openapi.json")).json
    OpenAPIV31SpecValidator(document).validate()
    described = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert len(described) == len(ROUTES)
    ids = [operation["operationId"] for operations in document["paths"].values() for operation in operations.values()]
    assert len(set(ids)) == len(ids)
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


async def test_a_published_revision_is_whole(plane: Running) -> None:
    await plane.endpoint("shop", "Blue", traffic={"blue": 100})
    reader = await plane.log.reader(("specs",))
    try:
        newest = codec.decode_specs((await reader.next(5))[-1].value)
        while not await reader.caught_up():
            newest = codec.decode_specs((await reader.next(5))[-1].value)
    finally:
        await reader.close()
    shown = await plane.call("GET", "/v1/endpoints/shop")
    assert (newest.endpoint, newest.revision, newest.deleted) == ("shop", shown.revision, False)
    assert dict(newest.document["traffic"]) == {"blue": 100}
    assert newest.deployments["blue"]["endpoint_name"] == "shop"
    assert len(newest.key_hashes) == 2


async def test_a_kubernetes_endpoint_takes_kubernetes_deployments_and_says_what_has_no_effect(plane: Running) -> None:
    created = await plane.call("PUT", "/v1/endpoints/kube", {"compute": "azureml:cluster"})
    assert created.json["kind"] == "kubernetes"
    assert "compute" in [warning["field"] for warning in created.json["warnings"]]
    body = {"environment": {"image": "x/y:1"}, "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
    deployed = await plane.call("PUT", "/v1/endpoints/kube/deployments/blue", body)
    assert (deployed.status, deployed.json["type"]) == (201, "kubernetes")
    fixed = await plane.call("PUT", "/v1/endpoints/kube", {"compute": "azureml:other"})
    assert fixed.json["error"]["details"][0]["field"] == "compute"
