"""Every mistake in a document is one problem with file, line, field, value, what is allowed and a right spelling."""

from __future__ import annotations

from typing import Any

import pytest

from router.contract.azure import deployment_from_document, endpoint_from_document
from router.contract.documents import read_document
from router.contract.errors import InvalidSpec

ENDPOINT = "name: fraud\n"
DEPLOYMENT = "name: blue\nendpoint_name: fraud\n"


def problems(read: Any, text: Any, **told: Any) -> Any:
    located = read_document(text, file="spec.yml")
    with pytest.raises(InvalidSpec) as caught:
        read(located.document, lines=located.lines, file=located.file, **told)
    found = [(one.line, one.field, one.suggestion) for one in caught.value.problems]
    assert len({field for _, field, _ in found}) == len(found), "one problem per field"
    assert all(one.file == "spec.yml" and one.message for one in caught.value.problems)
    return found


@pytest.mark.parametrize(
    ("text", "line", "field", "suggestion"),
    [
        ("nam: fraud\nname: fraud", 1, "nam", "name"),
        ("traffic: {}", 1, "name", None),
        ("name: 12", 1, "name", '"12"'),
        ("name: ab", 1, "name", None),
        ("name: 1abc", 1, "name", None),
        ("name: a--b", 1, "name", None),
        ("name: abc-", 1, "name", None),
        (f"name: {'a' * 33}", 1, "name", None),
        (ENDPOINT + "auth_mode: keys", 2, "auth_mode", "key"),
        (ENDPOINT + "auth_mode:", 2, "auth_mode", None),
        (ENDPOINT + "tags: [a]", 2, "tags", None),
        (ENDPOINT + "tags:\n  a:\n    b: 1", 3, "tags.a", None),
        (ENDPOINT + "compute: ''", 2, "compute", None),
        (ENDPOINT + "traffic: {blue: 40}", 2, "traffic", None),
        (ENDPOINT + "traffic: {blue: 60, green: 60}", 2, "traffic", None),
        (ENDPOINT + "traffic:\n  blue: '100'", 3, "traffic.blue", "100"),
        (ENDPOINT + "traffic:\n  blue: 100.0", 3, "traffic.blue", "100"),
        (ENDPOINT + "traffic:\n  blue: true", 3, "traffic.blue", None),
        (ENDPOINT + "traffic:\n  blue: 130\n  green: -30", 3, "traffic.blue", None),
        (ENDPOINT + "traffic:\n  Blue: 50\n  blue: 50", 4, "traffic.blue", None),
        (ENDPOINT + "traffic: {bl_ue: 100}", 2, "traffic.bl_ue", None),
        (ENDPOINT + "mirror_traffic: {green: 51}", 2, "mirror_traffic.green", None),
        (ENDPOINT + "mirror_traffic: {green: 10, violet: 10}", 2, "mirror_traffic", None),
        (ENDPOINT + "traffic: {green: 100}\nmirror_traffic:\n  Green: 10", 4, "mirror_traffic.green", None),
        (ENDPOINT + "public_network_access: enable", 2, "public_network_access", "enabled"),
        (ENDPOINT + "compute: azureml:c\npublic_network_access: enabled", 3, "public_network_access", None),
        (ENDPOINT + "identity: {type: user_assigned}", 2, "identity.user_assigned_identities", None),
        (ENDPOINT + "identity: {type: user_asigned}", 2, "identity.type", "user_assigned"),
        (ENDPOINT + "tidegate: {mirrors: []}", 2, "tidegate.mirrors", "mirror"),
        (ENDPOINT + "tidegate:\n  mirror:\n  - {fraction: 0.1}", 4, "tidegate.mirror.0.deployment", None),
        (ENDPOINT + "tidegate:\n  mirror:\n  - {deployment: green, fraction: 0}", 4, "tidegate.mirror.0.fraction", None),
        (
            ENDPOINT + "tidegate:\n  mirror:\n  - {deployment: green, fraction: .1}\n"
            "  - {deployment: Green, fraction: .1}",
            5, "tidegate.mirror.1.deployment", None,
        ),
        (
            ENDPOINT + "traffic: {green: 100}\ntidegate:\n  mirror:\n  - {deployment: green, fraction: .1}",
            5, "tidegate.mirror.0.deployment", None,
        ),
        (
            ENDPOINT + "mirror_traffic: {green: 1}\ntidegate:\n  mirror: [{deployment: blue, fraction: .1}]",
            4, "tidegate.mirror", None,
        ),
        (ENDPOINT + "tidegate:\n  stickiness: {by: headers, name: x}", 3, "tidegate.stickiness.by", "header"),
        (ENDPOINT + "tidegate:\n  stickiness: {by: header}", 3, "tidegate.stickiness.name", None),
        (
            ENDPOINT + "tidegate:\n  priorities: {header: x, classes: [a, b], default: c}",
            3, "tidegate.priorities.default", None,
        ),
        (ENDPOINT + "tidegate:\n  priorities: {classes: [a, b]}", 3, "tidegate.priorities.header", None),
        (ENDPOINT + "tidegate:\n  limits: {burst: 2}", 3, "tidegate.limits.burst", None),
        (ENDPOINT + "tidegate:\n  limits: {requests_per_second: 0}", 3, "tidegate.limits.requests_per_second", None),
        (ENDPOINT + "tidegate:\n  limits: {requests_per_seconds: 5}", 3, "tidegate.limits.requests_per_seconds", "requests_per_second"),
        (ENDPOINT + "tidegate:\n  websocket: {ping_secs: 3}", 3, "tidegate.websocket.ping_secs", "ping_seconds"),
        (ENDPOINT + "tidegate:\n  websocket: {idle_seconds: -1}", 3, "tidegate.websocket.idle_seconds", None),
        (ENDPOINT + "tidegate:\n  hosts: ['http://a/']", 3, "tidegate.hosts.0", None),
        (ENDPOINT + "tidegate:\n  server_timing: sometimes", 3, "tidegate.server_timing", None),
        (ENDPOINT + "revision: 3", 2, "revision", None),
    ],
)  # fmt: skip
def test_one_mistake_in_an_endpoint_is_one_problem_at_its_line(
    text: Any, line: Any, field: Any, suggestion: Any
) -> None:
    assert (line, field, suggestion) in problems(endpoint_from_document, text)


def test_a_suggestion_is_written_as_it_would_be_typed() -> None:
    with pytest.raises(InvalidSpec, match="did you mean 'key'"):
        endpoint_from_document({"name": "fraud", "auth_mode": "kee"})


@pytest.mark.parametrize(
    ("text", "line", "field", "suggestion"),
    [
        ("name: blue", 1, "endpoint_name", None),
        (DEPLOYMENT + "scale_setting: {}", 3, "scale_setting", "scale_settings"),
        (DEPLOYMENT + "requestSettings: {}", 3, "requestSettings", "request_settings"),
        (DEPLOYMENT + "type: kubernets", 3, "type", "kubernetes"),
        (DEPLOYMENT + "instance_count: '3'", 3, "instance_count", "3"),
        (DEPLOYMENT + "instance_count: true", 3, "instance_count", None),
        (DEPLOYMENT + "instance_count: -1", 3, "instance_count", None),
        (DEPLOYMENT + "app_insights_enabled: yes", 3, "app_insights_enabled", "true"),
        (DEPLOYMENT + "request_settings:\n  request_timeout_ms: '90'", 4, "request_settings.request_timeout_ms", "90"),
        (DEPLOYMENT + "request_settings:\n  request_timeout_ms: 300001", 4, "request_settings.request_timeout_ms", None),
        (DEPLOYMENT + "request_settings:\n  max_queue_wait: 1", 4, "request_settings.max_queue_wait", "max_queue_wait_ms"),
        (DEPLOYMENT + "request_settings: 3", 3, "request_settings", None),
        (DEPLOYMENT + "liveness_probe:\n  period: '5'", 4, "liveness_probe.period", "5"),
        (DEPLOYMENT + "liveness_probe:\n  period: 0", 4, "liveness_probe.period", None),
        (DEPLOYMENT + "liveness_probe:\n  success_threshold: 2", 4, "liveness_probe.success_threshold", None),
        (DEPLOYMENT + "startup_probe:\n  success_threshold: 2", 4, "startup_probe.success_threshold", None),
        (DEPLOYMENT + "scale_settings: {type: target_utilisation}", 3, "scale_settings.type", "target_utilization"),
        (DEPLOYMENT + "scale_settings:\n  min_instances: 1", 4, "scale_settings.min_instances", None),
        (
            DEPLOYMENT + "scale_settings:\n  type: target_utilization\n  min_instances: 3",
            3, "scale_settings.max_instances", None,
        ),
        (
            DEPLOYMENT + "scale_settings:\n  type: target_utilization\n  polling_interval: 0",
            5, "scale_settings.polling_interval", None,
        ),
        (DEPLOYMENT + "resources:\n  requests: {cpu: 1, memory: 1Gi}", 3, "resources", None),
        (DEPLOYMENT + "type: kubernetes\nresources:\n  requests: {cpu: 1}", 5, "resources.requests.memory", None),
        (
            DEPLOYMENT + "type: kubernetes\nresources:\n  requests: {cpu: 1, memory: 1Gb}",
            5, "resources.requests.memory", None,
        ),
        (
            DEPLOYMENT + "type: kubernetes\nresources:\n  requests: {cpu: 1, memory: 1Gi, nvidia.com/gpu: 1}",
            5, "resources.requests.nvidia.com/gpu", None,
        ),
        (
            DEPLOYMENT + "type: kubernetes\nresources:\n  requests: {cpu: 1, memory: 1Gi}\n  limits: {cpu: 500m}",
            6, "resources.limits.cpu", None,
        ),
        (DEPLOYMENT + "type: kubernetes\negress_public_network_access: enabled", 4, "egress_public_network_access", None),
        (DEPLOYMENT + "model: {}", 3, "model.path", None),
        (DEPLOYMENT + "model: 3", 3, "model", None),
        (DEPLOYMENT + "model: 'azureml:'", 3, "model", None),
        (DEPLOYMENT + "model: {path: x, version: 1.10}", 3, "model.version", '"1.1"'),
        (DEPLOYMENT + "model: {path: x, type: mlflow}", 3, "model.type", "mlflow_model"),
        (DEPLOYMENT + "environment: python:3.11", 3, "environment", None),
        (DEPLOYMENT + "environment: {conda_file: {name: x}}", 3, "environment.conda_file", None),
        (DEPLOYMENT + "environment: {version: 1}", 3, "environment.image", None),
        (DEPLOYMENT + "environment: {image: x, build: {path: .}}", 3, "environment.build", None),
        (
            DEPLOYMENT + "environment:\n  image: x\n  inference_config:\n    scoring_route: {port: 0, path: score}",
            6, "environment.inference_config.scoring_route.path", None,
        ),
        (
            DEPLOYMENT + "environment:\n  image: x\n  inference_config:\n    scoring_route: {port: 8, path: /}",
            5, "environment.inference_config.liveness_route", None,
        ),
        (DEPLOYMENT + "code_configuration: {code: .}", 3, "code_configuration.scoring_script", None),
        (
            DEPLOYMENT + "code_configuration: {code: ., scoring_script: ../score.py}",
            3, "code_configuration.scoring_script", None,
        ),
        (DEPLOYMENT + "environment_variables:\n  A: [1]", 4, "environment_variables.A", None),
        (DEPLOYMENT + "environment_variables:\n  A=B: 1", 4, "environment_variables.A=B", None),
        (DEPLOYMENT + "data_collector:\n  sampling_rate: 2", 4, "data_collector.sampling_rate", None),
        (DEPLOYMENT + "data_collector:\n  rolling_rate: hourly", 4, "data_collector.rolling_rate", "hour"),
        (
            DEPLOYMENT + "data_collector:\n  collections:\n    request:\n      enable: true",
            6, "data_collector.collections.request.enable", "enabled",
        ),
        (DEPLOYMENT + "tidegate:\n  backend: docker", 4, "tidegate.backend", None),
        (DEPLOYMENT + "tidegate:\n  min_instance: 0", 4, "tidegate.min_instance", "min_instances"),
        (DEPLOYMENT + "tidegate:\n  min_instances: 5", 4, "tidegate.min_instances", None),
        (DEPLOYMENT + "tidegate:\n  idle_seconds: 0", 4, "tidegate.idle_seconds", None),
        (DEPLOYMENT + "tidegate:\n  slo: {percentile: 100, latency_ms: 5}", 4, "tidegate.slo.percentile", None),
        (DEPLOYMENT + "tidegate:\n  command: python", 4, "tidegate.command", None),
        (DEPLOYMENT + "tidegate:\n  model_errors: map_all", 4, "tidegate.model_errors", "map"),
        (DEPLOYMENT + "tidegate:\n  protocol: htp2", 4, "tidegate.protocol", "http2"),
        (DEPLOYMENT + "tidegate:\n  slow_start_seconds: -1", 4, "tidegate.slow_start_seconds", None),
        (DEPLOYMENT + "tidegate:\n  scheme: htps", 4, "tidegate.scheme", "https"),
        (DEPLOYMENT + "tidegate:\n  server_name: a.example", 4, "tidegate.server_name", None),
        (DEPLOYMENT + "tidegate: {scheme: https, server_name: a b}", 3, "tidegate.server_name", None),
        (DEPLOYMENT + "tidegate:\n  hedging: {budget_percent: 5}", 4, "tidegate.hedging.after_ms", None),
        (DEPLOYMENT + "tidegate:\n  hedging: {after_ms: 5, percentile: 95}", 4, "tidegate.hedging.after_ms", None),
        (DEPLOYMENT + "tidegate:\n  hedging: {percentile: 40}", 4, "tidegate.hedging.percentile", None),
        (DEPLOYMENT + "tidegate:\n  affinity: {by: bodi}", 4, "tidegate.affinity.by", "body"),
        (DEPLOYMENT + "tidegate:\n  affinity: {by: cookie}", 4, "tidegate.affinity.name", None),
        (DEPLOYMENT + "tidegate:\n  affinity: {by: client, json_field: a}", 4, "tidegate.affinity.json_field", None),
        (DEPLOYMENT + "tidegate:\n  affinity: {by: client, prefix_bytes: 9}", 4, "tidegate.affinity.prefix_bytes", None),
        (DEPLOYMENT + "tidegate:\n  affinity: {by: body, json_field: a/b}", 4, "tidegate.affinity.json_field", None),
        (DEPLOYMENT + "tidegate:\n  affinity: {by: body, bound: 1}", 4, "tidegate.affinity.bound", None),
    ],
)  # fmt: skip
def test_one_mistake_in_a_deployment_is_one_problem_at_its_line(
    text: Any, line: Any, field: Any, suggestion: Any
) -> None:
    assert (line, field, suggestion) in problems(deployment_from_document, text)


def test_all_problems_come_at_once_in_the_order_of_the_lines() -> None:
    found = problems(
        deployment_from_document,
        """\
nme: blue
type: kubernetes
endpoint_name: fr
request_settings:
  request_timeout_ms: 0
  max_queue_wait_ms: "5"
egress_public_network_access: enabled
scale_settings:
  type: target_utilization
  max_instances: "3"
  min_instances: 2
""",
    )
    assert [field for _, field, _ in found] == [
        "nme", "name", "endpoint_name", "request_settings.request_timeout_ms", "request_settings.max_queue_wait_ms",
        "egress_public_network_access", "scale_settings.max_instances",
    ]  # fmt: skip


def test_a_rule_over_several_fields_is_silent_when_one_of_them_is_wrong_by_itself() -> None:
    found = problems(endpoint_from_document, ENDPOINT + "traffic: {blue: '90', green: 10}")
    assert [field for _, field, _ in found] == ["traffic.blue"]


def test_names_together_are_bounded_on_kubernetes_only() -> None:
    document = {"name": "b" * 32, "endpoint_name": "e" * 31}
    assert deployment_from_document(document).name == "b" * 32
    with pytest.raises(InvalidSpec, match="at most 62 characters"):
        deployment_from_document({**document, "type": "kubernetes"})


@pytest.mark.parametrize("document", [None, 3, "name: blue", [], [{"name": "blue"}]])
@pytest.mark.parametrize("read", [endpoint_from_document, deployment_from_document])
def test_what_is_no_map_is_one_problem(read: Any, document: Any) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read(document)
    assert [problem.field for problem in caught.value.problems] == ["document"]


def test_a_problem_reads_as_a_sentence_with_its_place() -> None:
    located = read_document(DEPLOYMENT + "scale_settings: {type: defaut}", file="blue.yml")
    with pytest.raises(InvalidSpec) as caught:
        deployment_from_document(located.document, lines=located.lines, file=located.file)
    assert str(caught.value) == (
        "blue.yml:3: scale_settings.type: one of default, target_utilization; found 'defaut'; did you mean 'default'?"
    )
