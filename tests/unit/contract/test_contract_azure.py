"""Azure's documents become specs, and specs become the same documents again."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from router.contract import dialect, specs
from router.contract.azure import (
    deployment_from_document,
    deployment_to_document,
    endpoint_from_document,
    endpoint_to_document,
    parse_traffic,
    without_read_only,
)
from router.contract.documents import read_document
from router.contract.errors import InvalidSpec
from tests.support import contract_documents as texts


def deployment(text: Any = texts.MANAGED_DEPLOYMENT, **told: Any) -> Any:
    return deployment_from_document(read_document(text).document, **told)


def endpoint(text: Any = texts.MANAGED_ENDPOINT) -> Any:
    return endpoint_from_document(read_document(text).document)


def problems_of(read: Any, document: Any, **told: Any) -> Any:
    with pytest.raises(InvalidSpec) as caught:
        read(document, **told)
    return {problem.field: problem for problem in caught.value.problems}


@pytest.mark.parametrize("text", texts.ENDPOINTS)
def test_an_endpoint_is_written_back_as_it_was_written(text: Any) -> None:
    document = read_document(text).document
    assert endpoint_to_document(endpoint_from_document(document)) == document
    assert list(endpoint_to_document(endpoint_from_document(document))) == list(document)


@pytest.mark.parametrize("text", texts.DEPLOYMENTS)
def test_a_deployment_is_written_back_as_it_was_written(text: Any) -> None:
    document = read_document(text).document
    assert deployment_to_document(deployment_from_document(document)) == document


def test_the_sample_documents_hold_every_key_there_is() -> None:
    endpoints = [read_document(text).document for text in texts.ENDPOINTS]
    deployments = [read_document(text).document for text in texts.DEPLOYMENTS]
    assert set().union(*endpoints) == set(dialect.ENDPOINT_KEYS)
    assert set().union(*deployments) == set(dialect.DEPLOYMENT_KEYS)
    plain = specs.DeploymentSpec("any", "any")
    read = [deployment_from_document(document) for document in deployments]
    for field in dataclasses.fields(plain):
        assert any(getattr(one, field.name) != getattr(plain, field.name) for one in read), field.name


def test_a_managed_endpoint_is_read() -> None:
    spec = endpoint()
    assert (spec.name, spec.kind, spec.auth_mode) == ("fraud-scoring", specs.Kind.MANAGED, specs.AuthMode.KEY)
    assert spec.traffic == {"blue": 90, "green": 10}
    assert spec.mirrors() == (specs.MirrorTarget("violet", 0.1),)
    assert spec.tags == {"team": "payments", "cost-center": "4711", "audited": "True"}
    assert spec.identity is not None
    assert len(spec.identity.user_assigned_identities) == 2
    assert spec.extras.hosts == ("fraud.example.com", "fraud.internal")
    assert spec.extras.server_timing is True
    assert spec.extras.stickiness == specs.Stickiness("header", "x-customer")
    assert spec.extras.websocket == specs.WebSocket(idle_seconds=0, max_message_bytes=1024)


def test_a_kubernetes_endpoint_may_mirror_to_several_deployments() -> None:
    spec = endpoint(texts.KUBERNETES_ENDPOINT)
    assert spec.kind is specs.Kind.KUBERNETES
    assert [(one.deployment, one.fraction) for one in spec.mirrors()] == [("violet", 0.005), ("indigo", 1)]


def test_a_managed_deployment_is_read() -> None:
    spec = deployment()
    assert spec.model is not None
    assert (spec.model.version, spec.model.path) == ("3", "../../model-1/model/")
    assert spec.environment_variables["WORKER_COUNT"] == "2"
    assert spec.environment_variables["DEBUG"] == "False"
    assert spec.request_settings == specs.RequestSettings(90_000, 4, 1000)
    assert spec.readiness_probe == specs.Probe(1, 0.5, 1, 2, 3)
    assert spec.scoring_path() == "/v1/models/half_plus_two:predict"
    assert spec.instance_bounds() == (0, 8)
    assert spec.extras.slo == specs.Slo(200, 99.9)
    assert spec.extras.command[-1] == "{port}"
    assert spec.extras.slow_start_seconds == 45
    assert (spec.extras.scheme, spec.extras.server_name) == ("https", "blue.models.example")
    assert spec.extras.hedging == specs.Hedging(percentile=95, budget_percent=10)
    assert spec.extras.affinity == specs.Affinity("body", json_field="prompt", prefix_bytes=512, bound=1.5)


def test_a_kubernetes_deployment_is_read() -> None:
    spec = deployment(texts.KUBERNETES_DEPLOYMENT)
    assert spec.model == specs.Model(reference="azureml:fraud:4")
    assert spec.environment == specs.Environment(reference="azureml:fraud-env@latest")
    assert spec.scale_settings == specs.TargetUtilization(1, 3, 60, 10)
    assert spec.resources.limits == {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"}


def test_azures_defaults_hold_where_nothing_is_written() -> None:
    spec = deployment("{name: blue, endpoint_name: fraud}")
    assert spec.request_settings == specs.RequestSettings(5000, 1, 500)
    assert spec.liveness_probe == spec.readiness_probe == specs.Probe(10, 10, 2, 1, 30)
    assert spec.startup_probe is None
    assert (spec.scale_settings, spec.instance_count) == (specs.DefaultScale(), 1)
    assert spec.scoring_path() == "/score"
    target = deployment("{name: blue, endpoint_name: fraud, scale_settings: {type: target_utilization}}").scale_settings
    assert target == specs.TargetUtilization(1, 1, 70, 1)


@pytest.mark.parametrize(
    ("said", "told", "kind"),
    [
        ("", None, specs.Kind.MANAGED),
        ("", specs.Kind.KUBERNETES, specs.Kind.KUBERNETES),
        ("type: kubernetes", None, specs.Kind.KUBERNETES),
        ("type: managed", specs.Kind.KUBERNETES, specs.Kind.MANAGED),
        ("$schema: https://x/kubernetesOnlineDeployment.schema.json", None, specs.Kind.KUBERNETES),
        ("$schema: https://x/managedOnlineDeployment.schema.json", specs.Kind.KUBERNETES, specs.Kind.MANAGED),
        ("{type: kubernetes, $schema: https://x/managedOnlineDeployment.schema.json}", None, specs.Kind.KUBERNETES),
    ],
)
def test_type_goes_before_schema_goes_before_the_endpoints_kind(said: Any, told: Any, kind: Any) -> None:
    extra = read_document(said).document if said else {}
    document = {"name": "blue", "endpoint_name": "fraud", **extra}
    spec = deployment_from_document(document, kind=told)
    assert spec.kind is kind
    assert deployment_to_document(spec) == document


def test_kubernetes_follows_the_load_unless_it_is_given_a_count() -> None:
    small = {"name": "blue", "endpoint_name": "fraud", "type": "kubernetes"}
    assert deployment_from_document(small).scale_settings == specs.TargetUtilization()
    assert deployment_from_document({**small, "scale_settings": {"max_instances": 5}}).instance_bounds() == (1, 5)
    fixed = deployment_from_document({**small, "instance_count": 3})
    assert (fixed.scale_settings, fixed.instance_bounds()) == (specs.DefaultScale(), (3, 3))


def test_the_endpoint_named_by_the_caller_goes_before_the_documents() -> None:
    spec = deployment(endpoint_name="other")
    assert spec.endpoint_name == "other"
    assert deployment_to_document(spec)["endpoint_name"] == "other"
    assert deployment_from_document({"name": "blue"}, endpoint_name="other").endpoint_name == "other"
    assert deployment_to_document(deployment_from_document({"name": "blue"}, endpoint_name="other")) == {"name": "blue"}


def test_a_changed_field_changes_its_key_and_leaves_the_rest_as_written() -> None:
    document = read_document(texts.MANAGED_ENDPOINT).document
    changed = endpoint_to_document(dataclasses.replace(endpoint(), traffic={"green": 100}))
    assert changed == {**document, "traffic": {"green": 100}}
    gone = endpoint_to_document(dataclasses.replace(endpoint(), identity=None, description=""))
    assert gone == {key: value for key, value in document.items() if key not in ("identity", "description")}


def test_a_changed_count_survives_on_kubernetes() -> None:
    spec = deployment_from_document({"name": "blue", "endpoint_name": "fraud", "type": "kubernetes"})
    for changed in (
        dataclasses.replace(spec, instance_count=4),
        dataclasses.replace(spec, kind=specs.Kind.MANAGED),
        dataclasses.replace(spec, scale_settings=specs.DefaultScale()),
    ):
        assert deployment_from_document(deployment_to_document(changed)) == changed


def test_keys_of_one_kind_do_not_stay_when_the_kind_changes() -> None:
    managed = endpoint_from_document({"name": "fraud", "public_network_access": "enabled"})
    moved = dataclasses.replace(managed, compute="azureml:cluster")
    assert endpoint_to_document(moved) == {"name": "fraud", "compute": "azureml:cluster"}
    assert endpoint_from_document(endpoint_to_document(moved)) == moved
    closed = {"name": "blue", "endpoint_name": "fraud", "egress_public_network_access": "disabled"}
    deployed = dataclasses.replace(
        deployment_from_document(closed), kind=specs.Kind.KUBERNETES, egress_public_network_access="enabled"
    )
    written = deployment_to_document(deployed)
    assert "egress_public_network_access" not in written
    assert deployment_from_document(written, kind=specs.Kind.KUBERNETES) == deployed


def test_what_is_returned_is_nobody_elses() -> None:
    spec = endpoint()
    endpoint_to_document(spec)["traffic"]["Blue"] = 1
    assert endpoint_to_document(spec)["traffic"]["Blue"] == 90


def test_shown_resources_can_be_applied_again() -> None:
    shown = {"name": "fraud", "traffic": {}, "revision": 3, "scoring_uri": "http://x", "kind": "managed"}
    assert problems_of(endpoint_from_document, shown).keys() == {"revision", "scoring_uri", "kind"}
    assert endpoint_from_document(without_read_only(shown)).name == "fraud"


@pytest.mark.parametrize("mode", ["aml_token", "aad_token", "AADToken"])
def test_an_endpoint_whose_tokens_nobody_checks_does_not_open(mode: Any) -> None:
    problems = problems_of(endpoint_from_document, {"name": "fraud", "auth_mode": mode})
    assert "not available yet" in problems["auth_mode"].message


@pytest.mark.parametrize(
    ("words", "shares"),
    [
        ("blue=90 green=10", {"blue": 90, "green": 10}),
        ("Blue=90%,green=10%", {"blue": 90, "green": 10}),
        (" blue=100,  green=0 ", {"blue": 100, "green": 0}),
        ("green=0", {"green": 0}),
        ("", {}),
    ],
)
def test_traffic_words(words: Any, shares: Any) -> None:
    assert parse_traffic(words) == shares


@pytest.mark.parametrize(
    "item", ["blue", "blue=", "=9", "blue=9.5", "blue=-1", "blue=101", "b$ue=1", "blue=٣", "blue=1e1"]
)
def test_a_wrong_traffic_word_is_named(item: Any) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_traffic(f"green=10 {item}", "mirror_traffic")
    assert [(one.field, one.value) for one in caught.value.problems] == [("mirror_traffic", item)]


def test_a_deployment_named_twice_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="every deployment once"):
        parse_traffic("blue=1 BLUE=2")
