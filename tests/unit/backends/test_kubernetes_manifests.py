"""A deployment's document becomes objects of a cluster: what stands in them, and what never does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.backends.base import DeploymentPlan
from autoscaler.backends.kubernetes import accounts, manifests, names
from autoscaler.backends.kubernetes.instance_types import DEFAULT, InstanceType
from autoscaler.backends.kubernetes.manifests import Manifest
from autoscaler.backends.kubernetes.pods import pod_template
from autoscaler.backends.kubernetes.settings import PodRules
from autoscaler.backends.local.launch import Unlaunchable

A, B = "a" * 64, "b" * 64
CODE: dict[str, Any] = {
    "code_configuration": {"code": f"asset:{A}", "scoring_script": "score.py"},
    "environment": {"conda_file": f"asset:{B}/conda.yml"},
    "model": {"path": f"asset:{B}/model.pkl", "name": "tides", "version": "4"},
    "environment_variables": {"WORD": "$(HOME)"},
    "tidegate": {"drain_seconds": 40},
}
BYOC: dict[str, Any] = {
    "environment": {
        "image": "tensorflow/serving:latest",
        "inference_config": {
            "liveness_route": {"port": 8501, "path": "/v1/models/half"},
            "readiness_route": {"port": 8502, "path": "/ready"},
            "scoring_route": {"port": 8503, "path": "/v1/models/half:predict"},
        },
    },
    "environment_variables": {"PRICE": "5$", "MODEL_NAME": "half"},
}
GPU = InstanceType("gpu", {"pool": "gpu"}, {"cpu": "1", "memory": "1Gi"}, {"memory": "2Gi", "nvidia.com/gpu": "1"})


def made(document: dict[str, Any], kind: InstanceType = DEFAULT, **rules: Any) -> Manifest:
    return pod_template(DeploymentPlan("Shop", "blue", document, "t1", 1), kind, PodRules(**rules))


def server(template: Manifest) -> dict[str, Any]:
    (found,) = template["spec"]["containers"]
    return dict(found)


def env(container: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container["env"]}


def test_a_scoring_script_runs_in_our_image_with_nothing_to_write_to() -> None:
    template = made(CODE, image="tidegate:9", control_url="http://c:1")
    found, spec = server(template), template["spec"]
    assert found["image"] == "tidegate:9"
    assert found["command"] == ["python", "-m", "autoscaler.backends.kubernetes.serving"]
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not spec["automountServiceAccountToken"]
    assert spec["serviceAccountName"] == names.account_name("Shop")
    (first,) = spec["initContainers"]
    assert env(first)["TIDEGATE_CONTROL_URL"] == "http://c:1"
    document = json.loads(env(first)["TIDEGATE_DOCUMENT"])
    assert document["model"] == CODE["model"]
    assert document["environment_variables"] == {"WORD": "$$(HOME)"}  # once more, because Kubernetes takes one off
    assert {one["name"] for one in spec["volumes"]} == {"app", "tmp"}


def test_a_users_image_runs_as_it_is_on_its_own_ports() -> None:
    template = made(BYOC)
    found = server(template)
    assert found["image"] == "tensorflow/serving:latest"
    assert "command" not in found
    assert "imagePullPolicy" not in found
    assert env(found) == {"PRICE": "5$$", "MODEL_NAME": "half"}
    assert found["ports"] == [{"name": "http", "containerPort": 8503}]
    assert template["metadata"]["annotations"][names.PORT] == "8503"
    assert found["readinessProbe"]["httpGet"] == {"path": "/ready", "port": 8502}
    assert found["startupProbe"]["httpGet"] == {"path": "/ready", "port": 8502}
    assert found["livenessProbe"]["httpGet"] == {"path": "/v1/models/half", "port": 8501}
    assert "initContainers" not in template["spec"]
    assert template["spec"]["securityContext"]["runAsNonRoot"]
    assert "runAsNonRoot" not in made(BYOC, allow_root=True)["spec"]["securityContext"]


def test_a_server_of_http_2_is_asked_where_it_speaks_http_1_and_else_for_a_connection() -> None:
    found = server(made({**BYOC, "tidegate": {"protocol": "http2"}}))
    assert found["readinessProbe"]["httpGet"] == {"path": "/ready", "port": 8502}
    config = {**BYOC["environment"]["inference_config"], "readiness_route": {"path": "/ready", "port": 8503}}
    environment = {**BYOC["environment"], "inference_config": config}
    found = server(made({**BYOC, "environment": environment, "tidegate": {"protocol": "http2"}}))
    assert found["readinessProbe"]["tcpSocket"] == {"port": 8503}
    assert "httpGet" not in found["readinessProbe"]


def test_a_command_gets_its_port_and_keeps_its_dollars() -> None:
    document = {"environment": {"image": "x"}, "tidegate": {"command": ["serve", "$(A)", "--port={port}"]}}
    assert server(made(document))["command"] == ["serve", "$$(A)", "--port=5001"]


def test_files_of_a_users_image_are_fetched_by_ours_and_mounted_where_azure_has_them() -> None:
    document = {**BYOC, "model": CODE["model"], "model_mount_path": "/models"}
    template = made(document)
    (first,) = template["spec"]["initContainers"]
    assert env(first)["TIDEGATE_TASK"] == "files"
    assert first["securityContext"]["runAsUser"] == 10001
    mounts = server(template)["volumeMounts"]
    assert [(one["mountPath"], one["readOnly"]) for one in mounts] == [("/var/azureml-app", True), ("/models", True)]
    assert env(server(template))["AZUREML_MODEL_DIR"] == "/models/azureml-models/tides/4"


def test_which_image_runs() -> None:
    script = {"code_configuration": CODE["code_configuration"]}
    ready_made = {**script, "environment": {"image": "mcr.microsoft.com/azureml/sklearn"}}
    assert server(made(ready_made))["image"] == "mcr.microsoft.com/azureml/sklearn"
    assert env(server(made(ready_made)))["AZUREML_ENTRY_SCRIPT"] == "score.py"
    on_a_base = {**script, "environment": {"image": "base", "conda_file": f"asset:{B}/conda.yml"}}
    assert server(made(on_a_base))["image"] == PodRules().image
    with pytest.raises(Unlaunchable, match=r"name it under environment\.image"):
        made({**script, "environment": {"build": {"path": "."}}})
    with pytest.raises(Unlaunchable, match="nothing says what to run"):
        made({})
    with pytest.raises(Unlaunchable, match="nothing is registered here"):
        made({**BYOC, "model": "azureml:m:1"})


def test_gpus_stand_in_the_limits_only_and_their_nodes_taint_is_tolerated() -> None:
    template = made(CODE, GPU)
    assert server(template)["resources"] == {
        "requests": {"cpu": "1", "memory": "1Gi"},
        "limits": {"memory": "2Gi", "nvidia.com/gpu": "1"},
    }
    assert "nvidia.com/gpu" not in template["spec"]["initContainers"][0]["resources"]["limits"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in template["spec"]["tolerations"]
    assert template["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert {"name": "shm", "mountPath": "/dev/shm"} in server(template)["volumeMounts"]
    assert not any(one["key"] == "nvidia.com/gpu" for one in made(CODE)["spec"]["tolerations"])


def test_replicas_spread_over_zones_and_nodes_but_start_in_any_case() -> None:
    spread = made(CODE)["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert {one["whenUnsatisfiable"] for one in spread} == {"ScheduleAnyway"}


@pytest.mark.parametrize(
    ("document", "seconds"),
    [
        ({}, 305),
        ({"tidegate": {"drain_seconds": 2}}, 10),
        ({"tidegate": {"drain_seconds": 2}, "request_settings": {"request_timeout_ms": 90_500}}, 96),
    ],
)
def test_the_longest_request_may_still_end(document: dict[str, Any], seconds: int) -> None:
    template = made({**BYOC, **document})
    assert template["spec"]["terminationGracePeriodSeconds"] == seconds
    assert server(template)["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}


def test_a_start_is_looked_at_every_second_and_given_the_documents_patience() -> None:
    probe = {"initial_delay": 20, "period": 7, "timeout": 0.3, "failure_threshold": 3, "success_threshold": 2}
    found = server(made({**BYOC, "readiness_probe": probe}))
    assert found["startupProbe"]["periodSeconds"] == 1
    assert found["startupProbe"]["failureThreshold"] == 41
    assert found["readinessProbe"] == {
        "httpGet": {"path": "/ready", "port": 8502},
        "periodSeconds": 7,
        "timeoutSeconds": 1,
        "failureThreshold": 3,
        "successThreshold": 2,
    }


def test_an_own_startup_probe_asks_the_liveness_route() -> None:
    found = server(made({**BYOC, "startup_probe": {"initial_delay": 5, "period": 10, "failure_threshold": 60}}))
    assert found["startupProbe"]["httpGet"] == {"path": "/v1/models/half", "port": 8501}
    assert found["startupProbe"]["failureThreshold"] == 605


def test_a_document_that_is_too_large_for_a_pod_says_so() -> None:
    with pytest.raises(Unlaunchable, match="a pod takes 100000"):
        made({**CODE, "environment_variables": {"X": "x" * 100_000}})


def test_a_shared_cache_is_mounted_where_environments_are_built() -> None:
    template = made(CODE, cache_claim="wheels")
    volume = {"name": "cache", "persistentVolumeClaim": {"claimName": "wheels"}}
    assert volume in template["spec"]["volumes"]
    (first,) = template["spec"]["initContainers"]
    assert env(first)["TIDEGATE_ENVIRONMENTS"] == "/var/cache/tidegate"
    for one in (first, server(template)):
        assert {"name": "cache", "mountPath": "/var/cache/tidegate"} in one["volumeMounts"]
    assert env(made(CODE)["spec"]["initContainers"][0])["TIDEGATE_ENVIRONMENTS"] == "/var/azureml-app"


def test_what_does_not_concern_pods_does_not_change_them() -> None:
    plan = DeploymentPlan("Shop", "blue", {**CODE, "instance_count": 4, "scale_settings": {}}, "t1", 1)
    assert manifests.fingerprint(pod_template(plan, DEFAULT, PodRules())) == manifests.fingerprint(made(CODE))
    assert manifests.fingerprint(made(CODE)) != manifests.fingerprint(made(CODE, image="tidegate:2"))


def test_a_deployment_selects_its_own_template_only() -> None:
    plan = DeploymentPlan("Shop", "blue", CODE, "t1", 3)
    found = manifests.deployment(plan, made(CODE), 3, 7, "models")
    name = names.deployment_name("Shop", "blue", "t1")
    assert found["metadata"]["annotations"][names.GENERATION] == "7"
    assert found["spec"]["selector"] == {"matchLabels": {names.WORKLOAD: name}}
    labels = found["spec"]["template"]["metadata"]["labels"]
    assert labels[names.WORKLOAD] == name
    assert (labels[names.ENDPOINT], labels[names.DEPLOYMENT], labels[names.TEMPLATE]) == ("Shop", "blue", "t1")
    assert labels["app.kubernetes.io/managed-by"] == "tidegate"
    assert found["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


ACCOUNT = {
    "serviceaccount.azure.workload.identity/client-id": "0-1-2",
    "serviceaccount.eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/r",
    "serviceaccount-token.audience": "vault",
}


def test_an_endpoint_says_who_its_pods_are() -> None:
    found = accounts.service_account("Shop", ACCOUNT, 4, "models")
    about = found["metadata"]["annotations"]
    assert about["azure.workload.identity/client-id"] == "0-1-2"
    assert about["eks.amazonaws.com/role-arn"] == "arn:aws:iam::1:role/r"
    assert about[names.GENERATION] == "4"
    assert not found["automountServiceAccountToken"]
    template = pod_template(DeploymentPlan("Shop", "blue", BYOC, "t1", 1, account=ACCOUNT), DEFAULT, PodRules())
    assert template["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    (volume,) = template["spec"]["volumes"]
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"] == {"audience": "vault", "expirationSeconds": 3600, "path": "token"}
    (mount,) = server(template)["volumeMounts"]
    assert mount["readOnly"]


def test_without_a_word_about_it_pods_have_no_token_and_no_label() -> None:
    template = made(BYOC)
    assert "azure.workload.identity/use" not in template["metadata"]["labels"]
    assert "volumes" not in template["spec"]
    assert accounts.fingerprint({}) != accounts.fingerprint(ACCOUNT)


@given(st.text(alphabet="$()aB_ ", max_size=30))
def test_kubernetes_gives_every_value_back_as_it_was(text: str) -> None:
    (found,) = [one["value"] for one in server(made({**BYOC, "environment_variables": {"X": text}}))["env"]]
    assert expanded(found) == text


def expanded(text: str) -> str:
    """As Kubernetes expands a value in a pod without other variables."""
    out, at = "", 0
    while at < len(text):
        if text[at] == "$" and text[at + 1 : at + 2] == "$":
            out, at = out + "$", at + 2
        else:
            assert text[at : at + 2] != "$("
            out, at = out + text[at], at + 1
    return out
