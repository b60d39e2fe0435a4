"""The API server takes what the contract takes, and refuses the rest with a sentence that helps."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given

from loadtests.kubernetes.cluster.api import ApiFailed
from loadtests.kubernetes.cluster.cluster import Cluster
from router.contract.azure import (
    deployment_from_document,
    deployment_to_document,
    endpoint_from_document,
    endpoint_to_document,
)
from router.contract.documents import read_document
from router.contract.errors import InvalidSpec
from router.control.resources.kinds import API_VERSION
from tests.support import contract_documents as texts
from tests.support.contract_strategies import RELAXED, broken, deployment_documents, endpoint_documents
from tests.support.kubernetes_objects import Kubectl, define, deployment, endpoint

COLLECTION = f"/apis/{API_VERSION}/namespaces/default"


class Server:
    """Tries objects out; nothing is kept."""

    def __init__(self, cluster: Cluster, runner: asyncio.Runner) -> None:
        self._cluster = cluster
        self._runner = runner

    def refusal(self, kind: str, name: str, spec: Any) -> str:
        """What it says against an object; empty when it takes it."""
        manifest = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        path = f"{COLLECTION}/{kind.lower()}s"
        try:
            self._runner.run(self._cluster.api.post(path, manifest, dryRun="All", fieldValidation="Strict"))
        except ApiFailed as error:
            if error.status not in (400, 422):
                raise
            return str(error)
        return ""


@pytest.fixture(scope="module")
def server(api_cluster: Cluster) -> Iterator[Server]:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(define(api_cluster))
        yield Server(api_cluster, runner)


def endpoint_spec(document: dict[str, Any]) -> dict[str, Any]:
    """As documented: spelling that is only tolerated put right, numbers that only YAML has as text."""
    spec = endpoint_from_document(document)
    return endpoint_to_document(type(spec)(**{f: getattr(spec, f) for f in spec.__slots__ if f != "written"}))


def deployment_spec(document: dict[str, Any]) -> dict[str, Any]:
    spec = deployment_from_document(document)
    return deployment_to_document(type(spec)(**{f: getattr(spec, f) for f in spec.__slots__ if f != "written"}))


@pytest.mark.parametrize("text", texts.ENDPOINTS)
def test_sample_endpoints_are_taken(server: Server, text: str) -> None:
    spec = endpoint_spec(read_document(text).document)
    assert server.refusal("OnlineEndpoint", spec["name"].lower(), spec) == ""


@pytest.mark.parametrize("text", texts.DEPLOYMENTS)
def test_sample_deployments_are_taken(server: Server, text: str) -> None:
    spec = deployment_spec(read_document(text).document)
    assert server.refusal("OnlineDeployment", "any-name", spec) == ""


def test_what_the_contract_takes_the_api_server_takes(server: Server) -> None:
    @RELAXED
    @given(endpoint_documents(), deployment_documents())
    def holds(one: dict[str, Any], other: dict[str, Any]) -> None:
        spec = endpoint_spec(one)
        assert server.refusal("OnlineEndpoint", spec["name"].lower(), spec) == ""
        assert server.refusal("OnlineDeployment", "any-name", deployment_spec(other)) == ""

    holds()


LEFT_TO_THE_CONTROLLER = (
    "named twice",  # names that differ by case alone
    "3 to 32 letters",  # keys of traffic
    "at least what is requested",  # limits below requests
    "Kubernetes quantity",
    "a host name without",
    "a value without NUL",
    "a name without = and NUL",
    "the largest number of instances",  # over the kind's own default of scale_settings
    "GPUs are asked for",
    "this deployment is mirrored to already",  # differs by case
    "a deployment gets live or mirrored traffic",  # differs by case
    "only for managed",  # the kind is the endpoint's
    "only for Kubernetes",
    "together with the endpoint's name",
    "azureml:<name>:<version> or",
    "inline conda specifications",
    "the program to run",
)
"""Rules that need more than a schema, a policy and a bounded amount of CEL."""


def test_what_the_api_server_takes_the_contract_takes(server: Server) -> None:
    @RELAXED
    @given(broken(endpoint_documents()), broken(deployment_documents()))
    def holds(one: Any, other: Any) -> None:
        if isinstance(one, dict) and isinstance(one.get("name"), str) and not _json_differs(one):
            taken = server.refusal("OnlineEndpoint", one["name"].lower() or "x", one) == ""
            assert not taken or _contract_takes(endpoint_from_document, one)
        if isinstance(other, dict) and not _json_differs(other):
            taken = server.refusal("OnlineDeployment", "any-name", other) == ""
            assert not taken or _contract_takes(deployment_from_document, other)

    holds()


def _contract_takes(read: Any, document: dict[str, Any]) -> bool:
    document = copy.deepcopy(document)
    document.setdefault("name", "any-name")
    try:
        read(document)
    except InvalidSpec as error:
        return all(any(words in one.message for words in LEFT_TO_THE_CONTROLLER) for one in error.problems)
    return True


def _json_differs(tree: Any) -> bool:
    """Whether JSON cannot say it: numbers that are none, and keys with a null, which an API server drops."""
    if isinstance(tree, dict):
        return any(value is None or _json_differs(value) for value in tree.values())
    if isinstance(tree, list):
        return any(value is None or _json_differs(value) for value in tree)
    return isinstance(tree, float) and not (abs(tree) < 1e300)


REFUSED = [
    (endpoint(traffic={"blue": 90, "green": 5}), ["spec.traffic", "add up to 0 or 100; they add up to 95"]),
    (endpoint(mirror_traffic={"blue": 60}), ["spec.mirror_traffic.blue", "60", "less than or equal to 50"]),
    (endpoint(mirror_traffic={"blue": 10, "green": 10}), ["at most one deployment; tidegate.mirror takes several"]),
    (endpoint(trafic={"blue": 100}), ['unknown field "spec.trafic"']),
    (endpoint(auth_mode="aad_token"), ["tokens are not available yet"]),
    (endpoint(auth_mode="none"), ["spec.auth_mode", '"none"', '"key"']),
    (endpoint(name="Shop"), ["metadata.name"]),
    ({**endpoint(), "spec": {"name": "desk"}}, ["must be the object's own name"]),
    (endpoint(identity={"type": "user_assigned"}), ["needed for type user_assigned"]),
    (endpoint(tidegate={"stickiness": {"by": "header"}}), ["the header's or cookie's name"]),
    (
        endpoint(tidegate={"priorities": {"header": "x", "classes": ["a", "b"], "default": "c"}}),
        ["spec.tidegate.priorities.default", "one of the classes"],
    ),
    (endpoint(tidegate={"priorities": {"header": "x", "classes": ["a"]}}), ["2 to 8 names"]),
    (endpoint(tidegate={"limits": {"burst": 2}}), ["only with requests_per_second"]),
    (deployment(instance_count=-1), ["spec.instance_count", "-1", "greater than or equal to 0"]),
    (deployment(environment={"imge": "x"}), ["unknown key imge; known here: name, version, image"]),
    (deployment(environment={"image": "x", "build": {"path": "."}}), ["either build or image, not both"]),
    (deployment(environment=7), ["spec.environment: azureml:<name>:<version>, or a map"]),
    (deployment(model={"name": "m"}), ["spec.model: path is required"]),
    (deployment(request_settings={"request_timeout_ms": 10**6}), ["request_timeout_ms", "1000000", "300000"]),
    (deployment(scale_settings={"type": "default", "min_instances": 2}), ["with `type: default`"]),
    (deployment(scale_settings={"type": "target_utilization", "min_instances": 2}), ["at least min_instances"]),
    (deployment(liveness_probe={"success_threshold": 2}), ["one success is enough"]),
    (deployment(resources={"limits": {"cpu": "1"}}), ["cpu and memory are required"]),
    (deployment(environment_variables={"A=B": "1"}), ["have no ="]),
    (deployment(code_configuration={"code": "asset:x", "scoring_script": "../x.py"}), ["a file inside the code folder"]),
    (deployment(tidegate={"backend": "lokal"}), ["spec.tidegate.backend", '"lokal"', '"kubernetes"']),
    (deployment(tidegate={"server_name": "a.example"}), ["only with `scheme: https`"]),
    (deployment(tidegate={"hedging": {"after_ms": 5, "percentile": 95}}), ["exactly one of them"]),
    (deployment(tidegate={"affinity": {"by": "header"}}), ["the header's or cookie's name"]),
    (deployment(tidegate={"affinity": {"by": "client", "prefix_bytes": 9}}), ["only with `by: body`"]),
    (deployment(tidegate={"min_instances": 3}), ["tidegate.min_instances must be at most instance_count"]),
    (deployment(type="kubernetes", egress_public_network_access="enabled"), ["only for managed"]),
]  # fmt: skip


@pytest.mark.parametrize(("manifest", "words"), REFUSED, ids=[str(index) for index in range(len(REFUSED))])
def test_a_refusal_names_the_field_the_value_and_the_fix(server: Server, manifest: Any, words: list[str]) -> None:
    name = manifest["metadata"]["name"]
    said = server.refusal(manifest["kind"], name, manifest["spec"])
    assert said
    for word in words:
        assert word in said


def test_the_deployment_of_an_object_stays_the_same(server: Server, api_cluster: Cluster) -> None:
    kubectl = Kubectl(api_cluster, "default")

    async def change() -> str:
        await kubectl.applied(deployment("fixed"))
        try:
            said = await kubectl.apply(deployment("fixed", environment={"image": "x/y:2"}))
            assert said.code == 0, said.err
            changed = deployment("fixed")
            changed["spec"]["endpoint_name"] = "other"
            return (await kubectl.apply(changed)).err
        finally:
            await kubectl("delete", "od", "shop-fixed")

    assert "cannot be changed, because it would be another deployment" in server._runner.run(change())


def test_defaults_are_filled_in_and_explained(server: Server, api_cluster: Cluster) -> None:
    kubectl = Kubectl(api_cluster, "default")

    async def ask() -> tuple[Any, str]:
        await kubectl.applied(deployment("fresh"))
        try:
            found = await kubectl.get("od", "shop-fresh")
            return found, (await kubectl("explain", "od.spec.request_settings")).out
        finally:
            await kubectl("delete", "od", "shop-fresh")

    found, explained = server._runner.run(ask())
    spec = found["spec"]
    assert spec["instance_count"] == 1
    assert spec["request_settings"]["request_timeout_ms"] == 5000
    assert spec["readiness_probe"]["failure_threshold"] == 30
    assert "scale_settings" not in spec
    assert "request_timeout_ms" in explained
    assert "Milliseconds until the response must have begun." in explained
