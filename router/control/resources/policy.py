"""What a structural schema cannot say, as a ValidatingAdmissionPolicy: values that are text or a map. Pure.

`environment: azureml:sklearn:3` and `environment: {image: …}` are both right, so the schema has no type there, lets
unknown keys pass and shows nothing of it to the CEL of the definition. A policy sees objects as they came. Where the
policy is not installed, the controller says the same a moment later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.contract.dialect import DATA, ENVIRONMENT, MODEL, RESOURCE_ID
from router.contract.reading import Record
from router.control.resources.kinds import DEPLOYMENT, ENDPOINT, GROUP, VERSION, Kind

Manifest = dict[str, Any]
Validation = dict[str, str]


def _given(path: str) -> str:
    """CEL: every step of `variables.spec.<path>` is there."""
    names = path.split(".")
    steps = [".".join(names[: count + 1]) for count in range(len(names))]
    return " && ".join(f"has(variables.spec.{step})" for step in steps)


def _text_or_map(path: str, section: Record, words: str) -> list[Validation]:
    """Text that is not empty, or a map of the section's keys."""
    at, keys = f"variables.spec.{path}", list(section.keys)
    known, there = ", ".join(keys), _given(path)
    unknown = f"{at}.filter(k, !(k in {keys}))"
    return [
        {
            "expression": f"!({there}) || type({at}) == map || (type({at}) == string && size({at}) > 0)",
            "message": f"spec.{path}: {words}",
        },
        {
            "expression": f"!({there}) || type({at}) != map || {unknown}.size() == 0",
            "messageExpression": f"'spec.{path}: unknown key ' + {unknown}.join(', ') + '; known here: {known}'",
            "message": f"spec.{path}: unknown key; known here: {known}",
        },
    ]


def _source(path: str, sources: Sequence[str]) -> Validation:
    at = f"variables.spec.{path}"
    some = " || ".join(f"'{source}' in {at}" for source in sources)
    one_of = f"one of {', '.join(sources)} is required" if sources[1:] else f"{sources[0]} is required"
    return {"expression": f"!({_given(path)}) || type({at}) != map || {some}", "message": f"spec.{path}: {one_of}"}


def _deployment_validations() -> list[Validation]:
    at = "variables.spec.environment"
    collections = "variables.spec.data_collector.collections"
    each = f"!({_given('data_collector.collections')}) || {collections}.all(n, "
    switch, data = f"{collections}[n].enabled", f"{collections}[n].data"
    return [
        *_text_or_map("model", MODEL, "azureml:<name>:<version>, asset:<sha256>, or a map with path"),
        _source("model", ["path"]),
        *_text_or_map("environment", ENVIRONMENT, "azureml:<name>:<version>, or a map with keys such as image"),
        _source("environment", ["image", "conda_file", "build", "inference_config", "name"]),
        {
            "expression": f"!({_given('environment')}) || type({at}) == map || {at}.startsWith('azureml:') || "
            f"{at}.startsWith('file:')",
            "message": "spec.environment: azureml:<name>:<version>, or a map with keys such as image and conda_file",
        },
        {
            "expression": f"!({_given('environment')}) || type({at}) != map || !('build' in {at}) || !('image' in {at})",
            "message": "spec.environment: either build or image, not both",
        },
        {
            "expression": f"{each}!has({switch}) || type({switch}) == bool || (type({switch}) == string && "
            f"{switch}.lowerAscii() in ['true', 'false']))",
            "message": "spec.data_collector.collections: enabled is true or false",
        },
        {
            "expression": f"{each}!has({data}) || (type({data}) == string ? size({data}) > 0 : type({data}) == map && "
            f"{data}.all(k, k in {list(DATA.keys)})))",
            "message": f"spec.data_collector.collections: data is a name, or a map of {', '.join(DATA.keys)}",
        },
    ]


def _endpoint_validations() -> list[Validation]:
    ids, keys = "variables.spec.identity.user_assigned_identities", list(RESOURCE_ID.keys)
    user = "has(variables.spec.identity.type) && variables.spec.identity.type == 'user_assigned'"
    return [
        {
            "expression": f"!({_given('identity.user_assigned_identities')}) || {ids}.all(one, type(one) == string ? "
            f"size(one) > 0 : type(one) == map && one.all(k, k in {keys}))",
            "message": "spec.identity.user_assigned_identities: resource ids, or maps with resource_id",
        },
        {
            "expression": f"!({_given('identity')}) || ({user}) == ({_given('identity.user_assigned_identities')} && "
            f"size({ids}) > 0)",
            "message": "spec.identity.user_assigned_identities: needed for type user_assigned, and only for it",
        },
    ]


def _policy(kind: Kind, validations: Sequence[Validation]) -> list[Manifest]:
    name = kind.crd
    rule = {
        "apiGroups": [GROUP],
        "apiVersions": [VERSION],
        "operations": ["CREATE", "UPDATE"],
        "resources": [kind.plural],
    }
    living = {"name": "living", "expression": "!has(object.metadata.deletionTimestamp)"}  # an end must not be refused
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Ignore",
            "matchConstraints": {"resourceRules": [rule]},
            "matchConditions": [living],
            "variables": [{"name": "spec", "expression": "dyn(object.spec)"}],  # the definition's types say too little
            "validations": list(validations),
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    return [policy, binding]


def policies() -> list[Manifest]:
    """Both policies, each with its binding."""
    return [*_policy(ENDPOINT, _endpoint_validations()), *_policy(DEPLOYMENT, _deployment_validations())]
