"""kubectl shows what is so, why, and what to do."""

from __future__ import annotations

import base64
import time
from typing import Any

from router.contract import codec
from router.contract.events import DECISIONS, Decision, Phase
from tests.support.control_plane import until
from tests.support.kubernetes_objects import Objects, condition, deployment, endpoint, says, tells


async def test_get_has_the_columns_people_look_for(objects: Objects) -> None:
    await objects.shop()
    said = await objects.kubectl("get", "oe")
    head, row = said.out.splitlines()
    assert head.split() == ["NAME", "TRAFFIC", "MIRROR", "REVISION", "READY", "REPLICAS", "URL", "AGE"]
    url = (await objects.rest("shop"))["scoring_uri"]
    assert row.split()[:-1] == ["shop", "blue=100", "3", "True", "1/1", url]
    said = await objects.kubectl("get", "od")
    head, row = said.out.splitlines()
    assert head.split() == ["NAME", "ENDPOINT", "WEIGHT", "DESIRED", "READY", "PHASE", "REASON", "AGE"]
    assert row.split()[:-1] == ["shop-blue", "shop", "100", "1", "1", "ready", "Ready"]
    both = (await objects.kubectl("get", "tidegate", "-o", "name")).out
    assert both.split() == ["onlinedeployment.tidegate.dev/shop-blue", "onlineendpoint.tidegate.dev/shop"]


async def test_wait_returns_when_a_deployment_is_ready(objects: Objects) -> None:
    objects.fleet.states["blue"] = {"phase": Phase.STARTING, "replicas": ()}
    await objects.kubectl.applied(endpoint(traffic={"blue": 100}), deployment())
    await objects.kubectl.until("od", "shop-blue", says("Progressing", "True", "Starting"))
    del objects.fleet.states["blue"]
    await objects.fleet.say("shop")
    said = await objects.kubectl("wait", "--for=condition=Ready", "od/shop-blue", "oe/shop", "--timeout=60s")
    assert said.code == 0, said.err
    said = await objects.kubectl("wait", "--for=jsonpath={.status.ready}=1", "od/shop-blue", "--timeout=60s")
    assert said.code == 0, said.err


async def test_a_failure_is_told_with_its_reason_and_message(objects: Objects) -> None:
    message = "pod shop-blue-1: the image x/y:1 cannot be pulled: not found; push it, or name another"
    objects.fleet.states["blue"] = {
        "phase": Phase.FAILED, "reason": "ImagePullLoopBackOff", "message": message, "replicas": (),
    }  # fmt: skip
    await objects.kubectl.applied(endpoint(traffic={"blue": 100}), deployment())
    found = await objects.kubectl.until("od", "shop-blue", says("Ready", "False", "ImagePullLoopBackOff"))
    assert condition(found, "Ready")["message"] == message
    assert condition(found, "Progressing")["status"] == "False"
    found = await objects.kubectl.until("oe", "shop", says("Ready", "False", "ImagePullLoopBackOff"))
    assert message in condition(found, "Ready")["message"]
    event = await objects.kubectl.until_event("shop-blue", "ImagePullLoopBackOff")
    assert (event["type"], event["message"]) == ("Warning", message)
    await objects.kubectl.until_event("shop-blue", "RevisionAccepted")
    described = (await objects.kubectl("describe", "od", "shop-blue")).out
    assert "ImagePullLoopBackOff" in described
    assert "RevisionAccepted" in described


async def test_problems_that_only_the_contract_sees_are_all_told(objects: Objects) -> None:
    await objects.kubectl.applied(endpoint())
    limits = {"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "1"}}
    wrong = deployment(resources=limits, environment_variables={"A": "x"}, model={"path": "./model"})
    await objects.kubectl.applied(wrong)
    found = await objects.kubectl.until("od", "shop-blue", says("Accepted", "False", "BadArgument"))
    assert (
        "spec.resources.limits.cpu: at least what is requested, 2; found '1'" in condition(found, "Accepted")["message"]
    )
    event = await objects.kubectl.until_event("shop-blue", "BadArgument")
    assert event["type"] == "Warning"
    await objects.kubectl.applied(deployment(model={"path": "./model"}))
    found = await objects.kubectl.until("od", "shop-blue", tells("Accepted", "tidegate asset upload"))
    assert "spec.model.path" in condition(found, "Accepted")["message"]
    assert await objects.rest("shop/deployments/blue") is None


async def test_two_objects_about_one_deployment_are_told_apart(objects: Objects) -> None:
    await objects.shop()
    second = deployment(environment={"image": "x/y:2"})
    second["metadata"]["name"] = "another"
    await objects.kubectl.applied(second)
    found = await objects.kubectl.until("od", "another", says("Accepted", "False", "DeploymentAlreadyExists"))
    assert "described by OnlineDeployment shop-blue already" in condition(found, "Accepted")["message"]
    assert (await objects.rest("shop/deployments/blue"))["environment"] == {"image": "x/y:1"}
    await objects.kubectl("delete", "od", "another", "--timeout=60s")
    assert await objects.rest("shop/deployments/blue") is not None


async def test_the_keys_are_in_a_secret_that_goes_with_the_endpoint(objects: Objects) -> None:
    await objects.shop()
    found = await objects.kubectl.until("oe", "shop", lambda one: one["status"].get("keys_secret"))
    secret: Any = await objects.kubectl.get("secret", found["status"]["keys_secret"])
    keys = (await objects.plane.call("POST", "/v1/endpoints/shop/keys/list")).json
    assert base64.b64decode(secret["data"]["primaryKey"]).decode() == keys["primaryKey"]
    address = base64.b64decode(secret["data"]["scoring_uri"]).decode()
    assert address == (await objects.rest("shop"))["scoring_uri"]
    assert secret["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]
    fresh = (await objects.plane.call("POST", "/v1/endpoints/shop/keys/regenerate", {"key_type": "primary"})).json
    encoded = base64.b64encode(fresh["primaryKey"].encode()).decode()
    await objects.kubectl.until("secret", "shop-keys", lambda one: one["data"]["primaryKey"] == encoded)


async def test_a_secret_of_somebody_else_is_left_alone(objects: Objects) -> None:
    await objects.kubectl("create", "secret", "generic", "shop-keys", "--from-literal=a=b")
    await objects.shop()
    event = await objects.kubectl.until_event("shop", "KeysNotWritten")
    assert "not Tidegate's: delete it" in event["message"]
    secret: Any = await objects.kubectl.get("secret", "shop-keys")
    assert list(secret["data"]) == ["a"]


async def test_scaling_decisions_are_events(objects: Objects) -> None:
    await objects.shop()
    decision = Decision("shop", "blue", time.time_ns(), 1, 3, "4 requests wait", 1)
    objects.plane.log.append(DECISIONS, "shop", codec.encode_decision(decision))
    await objects.plane.log.flush()
    event = await objects.kubectl.until_event("shop-blue", "Scaled")
    assert event["message"] == "1 to 3 replicas: 4 requests wait"


async def test_code_can_be_a_config_map(objects: Objects) -> None:
    code = {"code": "configmap:code", "scoring_script": "score.py"}
    await objects.kubectl.applied(endpoint(), deployment(code_configuration=code))
    await objects.kubectl.until("od", "shop-blue", tells("Accepted", "there is no ConfigMap code"))
    script = "def init(): ...\ndef run(data): return data\n"
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"score.py": script}}
    await objects.kubectl.applied(config)
    found = await objects.kubectl.until("od", "shop-blue", says("Ready"))
    shown = await objects.rest("shop/deployments/blue")
    reference = shown["code_configuration"]["code"]
    assert reference.startswith("asset:")
    assert found["status"]["files"] == {"code_configuration.code": reference}
    assert found["spec"]["code_configuration"]["code"] == "configmap:code"
    before = (await objects.rest("shop"))["revision"]
    await objects.kubectl.applied({**config, "data": {"score.py": "# other"}})
    await objects.plane.call("PUT", "/v1/endpoints/shop/deployments/blue", {**_bare(shown), "instance_count": 2})
    found = await objects.kubectl.until("od", "shop-blue", lambda one: one["spec"]["instance_count"] == 2)
    assert found["spec"]["code_configuration"]["code"] == "configmap:code"
    found = await objects.kubectl.until("od", "shop-blue", says("Ready"))
    assert (await objects.rest("shop"))["revision"] == before + 1


async def test_what_the_api_server_is_asked_is_counted(objects: Objects) -> None:
    await objects.shop()
    wanted = {
        'tidegate_control_kubernetes_requests_total{code="200",resource="onlineendpoints",verb="patch"}',
        'tidegate_control_objects{kind="OnlineEndpoint",ready="True"} 1.0',
        'tidegate_control_objects_watched{resource="onlinedeployments"} 1.0',
    }

    async def counted() -> bool:
        text = (await objects.plane.call("GET", "/metrics")).text
        return all(one in text for one in wanted)

    await until("the requests and the objects to be counted", counted)


def _bare(shown: dict[str, Any]) -> dict[str, Any]:
    return {key: shown[key] for key in ("environment", "code_configuration", "type")}
