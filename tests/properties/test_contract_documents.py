"""Any valid document comes back exactly; any valid spec survives being a document; nothing else than InvalidSpec is raised."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from router.contract import specs
from router.contract.azure import (
    deployment_from_document,
    deployment_to_document,
    endpoint_from_document,
    endpoint_to_document,
    ineffective,
    local_files,
    parse_traffic,
)
from router.contract.documents import apply_set, read_document
from router.contract.errors import InvalidSpec
from tests.support.contract_strategies import (
    DEPLOYMENT_SPECS,
    ENDPOINT_SPECS,
    NAMES,
    RELAXED,
    TREES,
    broken,
    deployment_documents,
    endpoint_documents,
)


def identical(a: Any, b: Any) -> bool:
    """Equal with equal types and key order, which `1 == True` and `==` of dicts do not see."""
    return json.dumps(a) == json.dumps(b)


def check_problems(error: InvalidSpec) -> None:
    """At least one, one per field, and all of it JSON."""
    fields = [problem.field for problem in error.problems]
    assert fields
    assert len(set(fields)) == len(fields)
    json.dumps(error.to_json())


@RELAXED
@given(endpoint_documents())
def test_an_endpoint_document_comes_back_exactly(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    spec = endpoint_from_document(document)
    assert identical(endpoint_to_document(spec), before)
    assert identical(document, before)


@RELAXED
@given(deployment_documents())
def test_a_deployment_document_comes_back_exactly(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    spec = deployment_from_document(document)
    assert identical(deployment_to_document(spec), before)
    assert identical(document, before)


@RELAXED
@given(ENDPOINT_SPECS)
def test_an_endpoint_spec_survives_being_a_document(spec: specs.EndpointSpec) -> None:
    document = endpoint_to_document(spec)
    assert endpoint_from_document(json.loads(json.dumps(document))) == spec
    assert endpoint_to_document(endpoint_from_document(document)) == document


@RELAXED
@given(DEPLOYMENT_SPECS)
def test_a_deployment_spec_survives_being_a_document(spec: specs.DeploymentSpec) -> None:
    document = deployment_to_document(spec)
    assert deployment_from_document(json.loads(json.dumps(document))) == spec
    assert deployment_to_document(deployment_from_document(document)) == document


@RELAXED
@given(endpoint_documents(), ENDPOINT_SPECS, st.data())
def test_a_changed_endpoint_survives_being_a_document(
    document: dict[str, Any], other: specs.EndpointSpec, data: st.DataObject
) -> None:
    spec = endpoint_from_document(document)
    names = [field.name for field in dataclasses.fields(spec) if field.name != "written"]
    taken = data.draw(st.sets(st.sampled_from(names)))
    try:
        changed = dataclasses.replace(spec, **{name: getattr(other, name) for name in taken})
    except InvalidSpec:
        return
    assert endpoint_from_document(endpoint_to_document(changed)) == changed


@RELAXED
@given(deployment_documents(), DEPLOYMENT_SPECS, st.data())
def test_a_changed_deployment_survives_being_a_document(
    document: dict[str, Any], other: specs.DeploymentSpec, data: st.DataObject
) -> None:
    spec = deployment_from_document(document)
    names = [field.name for field in dataclasses.fields(spec) if field.name != "written"]
    taken = data.draw(st.sets(st.sampled_from(names)))
    try:
        changed = dataclasses.replace(spec, **{name: getattr(other, name) for name in taken})
    except InvalidSpec:
        return
    written = deployment_to_document(changed)
    assert deployment_from_document(written, kind=changed.kind) == changed


@RELAXED
@given(broken(endpoint_documents()))
def test_a_broken_endpoint_document_raises_nothing_but_invalid_spec(document: Any) -> None:
    try:
        spec = endpoint_from_document(document)
    except InvalidSpec as error:
        check_problems(error)
        return
    assert identical(endpoint_to_document(spec), document)
    json.dumps([one.to_json() for one in ineffective(spec)])


@RELAXED
@given(broken(deployment_documents()))
def test_a_broken_deployment_document_raises_nothing_but_invalid_spec(document: Any) -> None:
    local_files(document)
    try:
        spec = deployment_from_document(document)
    except InvalidSpec as error:
        check_problems(error)
        return
    assert identical(deployment_to_document(spec), document)
    json.dumps([one.to_json() for one in ineffective(spec)])
    assert spec.instance_bounds()[0] <= spec.instance_bounds()[1]


class Quoting(yaml.SafeDumper):
    """Quotes every text: the plain dumper follows YAML 1.1, where `1e+100` is a text, and we read 1.2, where it is not."""


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@RELAXED
@given(deployment_documents())
@example(
    {"name": "blue", "endpoint_name": "prices", "instance_count": 1, "instance_type": "a", "description": "1e+100"}
)
def test_yaml_and_json_say_the_same(document: dict[str, Any]) -> None:
    located = read_document(yaml.dump(document, Dumper=Quoting, allow_unicode=True))
    assert deployment_from_document(located.document) == deployment_from_document(document)
    assert located.lines.keys() >= set(document)


@RELAXED
@given(st.text(max_size=60) | TREES.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True)))
def test_any_text_is_a_document_or_a_problem(text: str) -> None:
    try:
        located = read_document(text)
    except InvalidSpec:
        return
    assert isinstance(located.document, dict)
    json.dumps(located.document, allow_nan=False)


@RELAXED
@given(deployment_documents(), st.text(max_size=20))
def test_any_assignment_is_taken_or_a_problem(document: dict[str, Any], assignment: str) -> None:
    before = copy.deepcopy(document)
    try:
        changed = apply_set(document, assignment)
    except InvalidSpec:
        changed = document
    assert document == before
    json.dumps(changed)


@RELAXED
@given(st.dictionaries(NAMES.map(str.lower), st.integers(0, 100), max_size=5), st.sampled_from([" ", ",", ", ", "% "]))
def test_traffic_words_come_back(shares: dict[str, int], between: str) -> None:
    assert parse_traffic(between.join(f"{name.upper()}={share}" for name, share in shares.items())) == shares


@RELAXED
@given(st.text(max_size=30))
def test_any_words_are_traffic_or_a_problem(words: str) -> None:
    try:
        shares = parse_traffic(words)
    except InvalidSpec:
        return
    assert all(0 <= share <= 100 and name == name.lower() for name, share in shares.items())
