"""Instance types: Azure's objects are understood, what is wrong is named, what a document asks for fits in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from autoscaler.backends.kubernetes.instance_types import DEFAULT, InstanceType, choose, gpus, parse, substitute
from autoscaler.backends.local.launch import Unlaunchable
from router.contract.errors import InvalidSpec

AZURES = """
apiVersion: amlarc.azureml.com/v1alpha1
kind: InstanceType
metadata: {name: myinstancetypename}
spec:
  nodeSelector: {mylabel: mylabelvalue}
  resources:
    limits: {cpu: "1", nvidia.com/gpu: 1, memory: "2Gi"}
    requests: {cpu: "700m", memory: "1500Mi"}
"""
KNOWN = {one.name: one for one in parse(yaml.safe_load_all(AZURES), "types.yaml")}


def test_azures_own_example() -> None:
    assert KNOWN["myinstancetypename"] == InstanceType(
        "myinstancetypename",
        {"mylabel": "mylabelvalue"},
        {"cpu": "700m", "memory": "1500Mi"},
        {"cpu": "1", "nvidia.com/gpu": "1", "memory": "2Gi"},
    )
    assert gpus(KNOWN["myinstancetypename"])


def test_a_list_and_several_documents() -> None:
    item = {"metadata": {"name": "a"}, "spec": {"resources": {"requests": {"nvidia.com/gpu": "2", "cpu": 1}}}}
    (found,) = parse([None, {"kind": "InstanceTypeList", "items": [item]}], "x")
    assert found.requests == {"cpu": "1"}
    assert found.limits == {"nvidia.com/gpu": "2"}  # a GPU is asked for in the limits only


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"kind": "Pod"}, "kind"),
        ("text", "kind"),
        ({"kind": "InstanceType", "spec": {}}, "metadata.name"),
        (
            {"kind": "InstanceType", "metadata": {"name": "a"}, "spec": {"resources": {"limits": {"cpu": "much"}}}},
            "a.spec.resources.limits.cpu",
        ),
    ],
)
def test_what_is_no_instance_type_is_named(document: Any, field: str) -> None:
    with pytest.raises(InvalidSpec) as raised:
        parse([document], str(Path("types.yaml")))
    (problem,) = raised.value.problems
    assert problem.field == field
    assert problem.file == "types.yaml"


def test_nothing_named_is_azures_default() -> None:
    assert choose({}, {}) is DEFAULT
    assert choose({"instance_type": "defaultinstancetype"}, KNOWN) is DEFAULT
    mine = InstanceType("defaultinstancetype", requests={"cpu": "1"})
    assert choose({}, {"defaultinstancetype": mine}) is mine
    assert not gpus(DEFAULT)


def test_an_unknown_one_lists_those_there_are() -> None:
    with pytest.raises(Unlaunchable, match="there are defaultinstancetype, myinstancetypename"):
        choose({"instance_type": "other"}, KNOWN)


def test_a_size_of_azures_machines_is_replaced_and_said() -> None:
    document = {"instance_type": "Standard_F2s_v2"}
    assert choose(document, KNOWN) is DEFAULT
    assert substitute(document, DEFAULT) == (
        "instance_type Standard_F2s_v2 is none of the cluster's; defaultinstancetype is used instead"
    )
    mine = InstanceType("standard-f2s-v2")  # as an object in a cluster can be called
    assert choose(document, {mine.name: mine}) is mine
    assert substitute(document, mine) == ""
    with pytest.raises(Unlaunchable):
        choose({"instance_type": "Standard_NC6s_v3"}, KNOWN)  # no GPU is no replacement for one


def test_own_resources_go_into_the_instance_type() -> None:
    document = {
        "instance_type": "myinstancetypename",
        "resources": {"requests": {"cpu": "0.1", "memory": "1Gi"}, "limits": {"memory": "1.5Gi"}},
    }
    found = choose(document, KNOWN)
    assert found.requests == {"cpu": "0.1", "memory": "1Gi"}
    assert found.limits == {"cpu": "1", "nvidia.com/gpu": "1", "memory": "1.5Gi"}
    assert found.node_selector == {"mylabel": "mylabelvalue"}


def test_more_than_the_instance_type_has_is_refused() -> None:
    resources = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "8"}}
    with pytest.raises(Unlaunchable, match=r"resources.limits.cpu: at most 1, the limit of instance type"):
        choose({"instance_type": "myinstancetypename", "resources": resources}, KNOWN)
    with pytest.raises(Unlaunchable, match=r"limits.cpu: at least what is requested, 4"):
        choose({"resources": {"requests": {"cpu": "4", "memory": "1Gi"}}}, {})
