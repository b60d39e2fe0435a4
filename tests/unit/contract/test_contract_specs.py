"""A value that breaks a rule cannot be built, and one that was built cannot be changed."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from router.contract import specs
from router.contract.errors import InvalidSpec
from router.contract.frozen import FrozenMap, freeze, thaw
from router.contract.quantities import quantity


def fields_of(build: Any) -> Any:
    with pytest.raises(InvalidSpec) as caught:
        build()
    return {problem.field for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("build", "fields"),
    [
        (lambda: specs.EndpointSpec("x", traffic={"blue": 1}), {"name", "traffic"}),
        (lambda: specs.EndpointSpec("abc", traffic={"blue": 101, "green": -1}), {"traffic.blue", "traffic.green"}),
        (lambda: specs.EndpointSpec("abc", traffic={"Blue": 50, "blue": 50}), {"traffic.blue", "traffic"}),
        (lambda: specs.EndpointSpec("abc", mirror_traffic={"blue": 60}), {"mirror_traffic.blue"}),
        (lambda: specs.EndpointSpec("abc", mirror_traffic={"blue": 1, "green": 0}), {"mirror_traffic"}),
        (
            lambda: specs.EndpointSpec("abc", traffic={"blue": 100}, mirror_traffic={"BLUE": 10}),
            {"mirror_traffic.blue"},
        ),
        (
            lambda: specs.EndpointSpec("abc", compute="azureml:c", auth_mode=specs.AuthMode.AAD_TOKEN),
            {"auth_mode"},
        ),
        (
            lambda: specs.EndpointSpec("abc", compute="azureml:c", public_network_access="disabled"),
            {"public_network_access"},
        ),
        (lambda: specs.MirrorTarget("blue", math.nan), {"fraction"}),
        (lambda: specs.MirrorTarget("b", 2), {"deployment", "fraction"}),
        (lambda: specs.Stickiness("client", "x"), {"name"}),
        (lambda: specs.Limits(burst=0), {"burst"}),
        (lambda: specs.Limits(2.5, 0, 0, -1), {"burst", "concurrent_requests", "max_body_bytes"}),
        (lambda: specs.Priorities("x y", ("a",), "b"), {"header", "classes", "default"}),
        (lambda: specs.Priorities("x", ("a", "B", "a")), {"classes.1", "classes.2"}),
        (lambda: specs.RequestSettings(0, 0, -1), {
            "request_timeout_ms", "max_concurrent_requests_per_instance", "max_queue_wait_ms",
        }),
        (lambda: specs.Probe(period=math.inf), {"period"}),
        (lambda: specs.TargetUtilization(5, 4), {"max_instances"}),
        (lambda: specs.Model(), {"path"}),
        (lambda: specs.Model(reference="azureml:a:1", path="x"), {""}),
        (lambda: specs.Environment(), {"image"}),
        (lambda: specs.Route("score", 0), {"path", "port"}),
        (lambda: specs.Resources(limits={"cpu": "1"}), {"requests.cpu", "requests.memory"}),
        (lambda: specs.Slo(0, 0), {"latency_ms", "percentile"}),
        (lambda: specs.DeploymentExtras(backend="x", min_instances=-1), {"backend", "min_instances"}),
        (lambda: specs.DeploymentSpec("b", "e"), {"name", "endpoint_name"}),
        (
            lambda: specs.DeploymentSpec("abc", "def", resources=specs.Resources({"cpu": "1", "memory": "1"})),
            {"resources"},
        ),
        (lambda: specs.DeploymentSpec("abc", "def", liveness_probe=specs.Probe(success_threshold=2)), {
            "liveness_probe.success_threshold",
        }),
    ],
)  # fmt: skip
def test_every_broken_rule_is_named(build: Any, fields: Any) -> None:
    assert fields_of(build) == fields


def test_a_spec_cannot_be_changed_through_its_maps() -> None:
    given = {"blue": 100}
    spec = specs.EndpointSpec("abc", traffic=given)
    given["blue"] = 1
    assert spec.traffic == {"blue": 100}
    traffic: Any = spec.traffic
    changes: list[Callable[[], Any]] = [
        lambda: traffic.update(blue=1),
        lambda: traffic.__setitem__("blue", 1),
        lambda: traffic.__delitem__("blue"),
        lambda: traffic.pop("blue"),
        lambda: traffic.popitem(),
        lambda: traffic.clear(),
        lambda: traffic.setdefault("x", 1),
        lambda: traffic.__ior__({"x": 1}),
    ]
    for change in changes:
        with pytest.raises(TypeError):
            change()
    assert spec.traffic == {"blue": 100}


def test_specs_are_hashable_and_survive_copying_pickling_and_json() -> None:
    spec = specs.DeploymentSpec("abc", "def", tags={"a": "1"}, data_collector={"collections": {"x": {"l": [1]}}})
    assert hash(spec) == hash(copy.deepcopy(spec)) == hash(pickle.loads(pickle.dumps(spec)))
    assert pickle.loads(pickle.dumps(spec)) == spec == copy.copy(spec)
    assert json.loads(json.dumps(dataclasses.asdict(spec)))["tags"] == {"a": "1"}


def test_frozen_trees_thaw_to_fresh_plain_ones() -> None:
    tree = {"a": [{"b": [1, "x"]}], "c": {}}
    frozen = freeze(tree)
    assert frozen == {"a": ({"b": (1, "x")},), "c": {}}
    assert thaw(frozen) == tree
    assert type(thaw(frozen)) is dict
    assert isinstance(frozen["c"], FrozenMap)


@pytest.mark.parametrize(
    ("settings", "bounds"),
    [
        ({"instance_count": 3}, (3, 3)),
        ({"scale_settings": specs.TargetUtilization(2, 5)}, (2, 5)),
        ({"extras": specs.DeploymentExtras(min_instances=0)}, (0, 1)),
        ({"instance_count": 0}, (0, 1)),
        ({"scale_settings": specs.TargetUtilization(2, 5), "extras": specs.DeploymentExtras(max_instances=9)}, (2, 9)),
        ({"instance_count": 4, "extras": specs.DeploymentExtras(min_instances=1, max_instances=8)}, (1, 8)),
    ],
)
def test_bounds_of_the_number_of_instances(settings: Any, bounds: Any) -> None:
    assert specs.DeploymentSpec("abc", "def", **settings).instance_bounds() == bounds


def test_a_template_is_what_a_replica_runs() -> None:
    document = {"name": "blue", "endpoint_name": "fraud", "model": "azureml:m:1", "instance_count": 1}
    same = specs.template_hash({**document, "instance_count": 5, "request_settings": {"max_queue_wait_ms": 1}})
    assert specs.template_hash(document) == same
    assert len({
        same,
        specs.template_hash({**document, "model": "azureml:m:2"}),
        specs.template_hash({**document, "environment_variables": {"A": "1"}}),
        specs.template_hash({**document, "tidegate": {"command": ["x"]}}),
    }) == 4  # fmt: skip
    assert specs.template_hash({**document, "tidegate": {"idle_seconds": 5}}) == same


@pytest.mark.parametrize(
    ("text", "value"), [("500m", 0.5), ("2", 2), ("0.5", 0.5), ("2Gi", 2**31), ("1k", 1000), ("1e3", 1000), (".5", 0.5)]
)
def test_quantities(text: Any, value: Any) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize("text", ["", "-1", "1GB", "Gi", "1 Gi", "1e", "0x1", "1e999", "9" * 40, "１"])
def test_what_is_no_quantity(text: Any) -> None:
    with pytest.raises(ValueError, match="no Kubernetes quantity"):
        quantity(text)
