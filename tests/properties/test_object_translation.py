"""Whatever stands in an object and whatever stands in the store, one step makes them mean the same."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

from hypothesis import given

from router.contract import specs
from router.contract.azure import deployment_from_document
from router.contract.dialect import DEPLOYMENT_KEYS, ENDPOINT_KEYS
from router.contract.errors import InvalidSpec
from router.contract.specs import DeploymentSpec, EndpointSpec, Kind, template_hash
from router.control.resources import translation
from router.control.resources.kinds import DEPLOYMENT, ENDPOINT
from router.control.resources.schema import section_schema
from tests.support.contract_strategies import RELAXED, deployment_documents, endpoint_documents
from tests.support.object_samples import an_object, defaulted

ENDPOINT_SCHEMA = section_schema(ENDPOINT_KEYS, EndpointSpec)
DEPLOYMENT_SCHEMA = section_schema(DEPLOYMENT_KEYS, DeploymentSpec)


def kind_of(document: dict[str, Any]) -> Kind:
    return deployment_from_document(document).kind


@RELAXED
@given(deployment_documents(), deployment_documents())
def test_a_deployment_is_written_back_in_one_step(stored: dict[str, Any], shown: dict[str, Any]) -> None:
    kind = kind_of(stored)
    shown |= {key: stored[key] for key in ("name", "endpoint_name")}
    if kind_of(shown) is not kind:
        return
    spec = defaulted({key: value for key, value in shown.items() if key != "name"}, DEPLOYMENT_SCHEMA)
    before = translation.deployment_document(an_object(spec, stored["name"]), {})
    try:
        deployment_from_document(before, kind=kind)  # with the defaults, the bounds may be out of order
        meant = translation.deployment_spec(stored, before, kind)
    except InvalidSpec:
        return
    after = defaulted(translation.merged(spec, translation.patch_between(before, meant, spec)), DEPLOYMENT_SCHEMA)
    again = translation.deployment_document(an_object(after, stored["name"]), {})
    assert translation.same_deployment(again, stored, kind)


@RELAXED
@given(endpoint_documents(), endpoint_documents())
def test_an_endpoint_is_written_back_in_one_step(stored: dict[str, Any], shown: dict[str, Any]) -> None:
    for document in (stored, shown):
        document.update(name="shop", compute="azureml:cluster")
        document.pop("public_network_access", None)
    spec = defaulted({key: value for key, value in shown.items() if key != "name"}, ENDPOINT_SCHEMA)
    before = translation.endpoint_document(an_object(spec), None)
    patch = translation.patch_between(before, translation.endpoint_spec(stored, before), spec)
    after = defaulted(translation.merged(spec, patch), ENDPOINT_SCHEMA)
    assert translation.same_endpoint(translation.endpoint_document(an_object(after), None), stored)


@RELAXED
@given(deployment_documents())
def test_an_object_that_says_the_same_starts_no_new_replicas(stored: dict[str, Any]) -> None:
    kind = kind_of(stored)
    spec = defaulted({**stored, "instance_count": 7}, DEPLOYMENT_SCHEMA)
    document = translation.deployment_document(an_object(spec, "any"), {})
    try:
        worded = translation.worded_deployment(document, stored, kind)
    except InvalidSpec:  # seven may be too many
        return
    assert template_hash(worded) == template_hash(stored)
    assert translation.deployment_meaning(worded, kind) == translation.deployment_meaning(document, kind)


@RELAXED
@given(deployment_documents(), endpoint_documents())
def test_a_new_object_is_stored_as_it_was_written(one: dict[str, Any], other: dict[str, Any]) -> None:
    one.setdefault("instance_count", 1)
    assert translation.first_wording(defaulted(one, DEPLOYMENT_SCHEMA), DEPLOYMENT) == _bare(one, DEPLOYMENT_SCHEMA)
    assert translation.first_wording(defaulted(other, ENDPOINT_SCHEMA), ENDPOINT) == _bare(other, ENDPOINT_SCHEMA)


def _bare(document: dict[str, Any], schema: Any) -> dict[str, Any]:
    """Without defaults that were written out."""
    counted = "instance_count" in document and "scale_settings" not in document
    kept = {"instance_count": document["instance_count"]} if counted else {}
    return {**translation._without_defaults(document, schema), **kept}


@RELAXED
@given(deployment_documents())
def test_a_fingerprint_does_not_see_defaults(spec: dict[str, Any]) -> None:
    whole = defaulted(spec, DEPLOYMENT_SCHEMA)
    assert translation.fingerprint(spec) == translation.fingerprint(whole)
    changed = copy.deepcopy(whole)
    changed["instance_count"] = whole["instance_count"] + 1
    assert translation.fingerprint(changed) != translation.fingerprint(whole)


@RELAXED
@given(deployment_documents(), deployment_documents())
def test_a_patch_makes_one_tree_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    patch = translation._difference(before, after)
    assert json.dumps(translation.merged(before, patch), sort_keys=True) == json.dumps(after, sort_keys=True)


def test_names_and_zero_shares_are_not_told_apart_by_their_spelling() -> None:
    one = {"name": "Shop", "traffic": {"Blue": 100, "green": 0}, "mirror_traffic": {"violet": 0}}
    other = {"name": "shop", "traffic": {"blue": 100}}
    assert translation.same_endpoint(one, other)
    assert dataclasses.is_dataclass(specs.EndpointSpec)


@RELAXED
@given(deployment_documents())
def test_the_first_wording_means_the_same(document: dict[str, Any]) -> None:
    kind, whole = kind_of(document), defaulted(document, DEPLOYMENT_SCHEMA)
    try:
        meant = translation.deployment_meaning(whole, kind)
    except InvalidSpec:  # the count that is filled in may be out of its bounds
        return
    assert translation.deployment_meaning(translation.first_wording(whole, DEPLOYMENT), kind) == meant
