"""Objects' specs ↔ the documents of the control plane. Pure.

A spec has the document's keys; it may leave the names out, which the object has, and the API server has filled in
defaults. Whether a spec and a document say the same is decided on what they mean (`EndpointSpec`, `DeploymentSpec`),
never on how they are written; and what has not changed keeps its wording, on both sides.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from router.contract import azure
from router.contract.dialect import DEPLOYMENT_KEYS, ENDPOINT_KEYS
from router.contract.errors import InvalidSpec, Problem
from router.contract.frozen import thaw
from router.contract.scaling import TargetUtilization
from router.contract.specs import DeploymentSpec, EndpointSpec, Kind
from router.contract.writing import plain
from router.control import changes
from router.control.content import Content, Document
from router.control.resources.kinds import ENDPOINT
from router.control.resources.objects import Found
from router.control.resources.schema import Schema, section_schema

COMPUTE = "azureml:kubernetes"
"""What a new endpoint's `compute` is when its object does not say: objects live in a cluster, so do their replicas."""
_NAMES = ("name", "endpoint_name")
_SHARES = ("traffic", "mirror_traffic")


# objects → documents ----------------------------------------------------------------------------------------------


def endpoint_document(found: Found, before: Content | None) -> dict[str, Any]:
    """The document that an OnlineEndpoint stands for. Where it leaves `compute` out, an existing endpoint's counts."""
    document = {"name": found.name, **thaw(found.spec)}
    if "compute" not in document:
        compute = COMPUTE if before is None else before.document.get("compute")
        if compute is not None:
            document["compute"] = compute
    return document


def deployment_document(found: Found, files: Mapping[str, str]) -> dict[str, Any]:
    """The document that an OnlineDeployment stands for; `files` says which assets were made of its ConfigMaps."""
    document = {"name": found.deployment, **thaw(found.spec)}
    for path, reference in files.items():
        put(document, path, reference)
    return document


def without_shares(document: Document) -> dict[str, Any]:
    """`document` without traffic and mirrors: how an endpoint begins, before its deployments are there."""
    kept = {key: thaw(value) for key, value in document.items() if key not in _SHARES}
    extras = {key: value for key, value in (kept.pop("tidegate", None) or {}).items() if key != "mirror"}
    return {**kept, **({"tidegate": extras} if extras else {})}


def first_wording(document: Document, kind: Any) -> dict[str, Any]:
    """A new object's document, without the defaults that the API server has filled in."""
    # Whether there is a count decides what a missing scale_settings means.
    counted = "instance_count" in document and "scale_settings" not in document
    kept = {"instance_count": document["instance_count"]} if counted else {}
    undefaulted = _without_defaults(document, _endpoint_schema() if kind is ENDPOINT else _deployment_schema())
    return {**undefaulted, **kept}


def worded_endpoint(document: Document, before: Document) -> dict[str, Any]:
    """`document`, with the wording of `before` for every key that means the same. Raises `InvalidSpec`."""
    spec = azure.endpoint_from_document(document)
    return azure.endpoint_to_document(dataclasses.replace(spec, written=before))


def worded_deployment(document: Document, before: Document, kind: Kind) -> dict[str, Any]:
    """As `worded_endpoint`, for a deployment of an endpoint of this kind."""
    spec = azure.deployment_from_document(document, kind=kind)
    return azure.deployment_to_document(dataclasses.replace(spec, written=before))


# meaning ----------------------------------------------------------------------------------------------------------


def without_effect(spec: EndpointSpec | DeploymentSpec) -> tuple[Problem, ...]:
    """Keys that somebody has written and that have no effect; a count of one may be the API server's."""
    found = azure.ineffective(spec)
    counted = isinstance(spec, DeploymentSpec) and spec.instance_count != 1
    return tuple(problem for problem in found if counted or problem.field != "instance_count")


def endpoint_meaning(document: Document) -> EndpointSpec:
    """What `document` means, spelled one way. Raises `InvalidSpec`."""
    spec = azure.endpoint_from_document(document)
    shares: dict[str, Any] = {
        name: {key: share for key, share in getattr(spec, name).items() if share} for name in _SHARES
    }
    return dataclasses.replace(spec, name=spec.name.lower(), written=None, **shares)


def deployment_meaning(document: Document, kind: Kind) -> DeploymentSpec:
    """What `document` means for an endpoint of this kind, spelled one way. Raises `InvalidSpec`."""
    spec = azure.deployment_from_document(document, kind=kind)
    names = {name: getattr(spec, name).lower() for name in _NAMES}
    return dataclasses.replace(spec, written=None, **names)


def same_endpoint(one: Document, other: Document) -> bool:
    """Whether both documents mean the same; one with problems means nothing."""
    try:
        return endpoint_meaning(one) == endpoint_meaning(other)
    except InvalidSpec:
        return False


def same_deployment(one: Document, other: Document, kind: Kind) -> bool:
    """Whether both documents mean the same; one with problems means nothing."""
    try:
        return deployment_meaning(one, kind) == deployment_meaning(other, kind)
    except InvalidSpec:
        return False


def fingerprint(spec: Mapping[str, Any]) -> str:
    """A hash of a spec without what the API server fills in: equal before and after it has done so."""
    bare = _without_defaults(spec, _deployment_schema() if "endpoint_name" in spec else _endpoint_schema())
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# documents → objects ----------------------------------------------------------------------------------------------


def endpoint_spec(document: Document, shown: Document) -> dict[str, Any]:
    """The spec that an object should have to mean `document`, worded as `shown`, its own document, where it can be.

    The names stay as they are in the object, and so does `compute`, which cannot change.
    """
    spec = azure.endpoint_from_document(document)
    meant = dataclasses.replace(spec, written=shown, compute=azure.endpoint_from_document(shown).compute)
    return azure.endpoint_to_document(meant)


def deployment_spec(document: Document, shown: Document, kind: Kind) -> dict[str, Any]:
    """As `endpoint_spec`. The scale is always said, because the API server fills in a count where there is none."""
    spec = azure.deployment_from_document(document, kind=kind)
    before = azure.deployment_from_document(shown, kind=kind)
    meant = azure.deployment_to_document(dataclasses.replace(spec, written=shown))
    if before.scale_settings != spec.scale_settings or before.instance_count != spec.instance_count:
        meant["scale_settings"] = plain(spec.scale_settings)
        meant["instance_count"] = spec.instance_count
        if isinstance(spec.scale_settings, TargetUtilization) and spec.instance_count == 1:
            del meant["instance_count"]
    return meant


def patch_between(shown: Document, meant: Document, spec: Mapping[str, Any]) -> dict[str, Any]:
    """JSON merge patch of an object's `spec` that makes its document `meant` instead of `shown`. Empty: nothing to do."""
    patch = _difference(shown, meant)
    return {
        name: value for name, value in patch.items() if name not in _NAMES and not (value is None and name not in spec)
    }


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = dict.fromkeys(before.keys() - after.keys())
    for name, value in after.items():
        was = before.get(name)
        if name not in before or was != value:
            if isinstance(was, Mapping) and isinstance(value, Mapping):
                patch[name] = _difference(was, value)
            else:
                patch[name] = thaw(value)
    return patch


def merged(spec: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` after a JSON merge patch."""
    after: dict[str, Any] = {name: thaw(value) for name, value in spec.items() if patch.get(name, value) is not None}
    for name, value in patch.items():
        if isinstance(value, Mapping):
            was = after.get(name)
            after[name] = merged(was if isinstance(was, Mapping) else {}, value)
        elif value is not None:
            after[name] = thaw(value)
    return after


# trees ------------------------------------------------------------------------------------------------------------


def at(document: Mapping[str, Any], path: str) -> Any:
    """What stands at a dotted path; None where there is nothing."""
    found: Any = document
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def put(document: dict[str, Any], path: str, value: Any) -> None:
    """Put `value` at a dotted path whose maps are all there."""
    *parents, last = path.split(".")
    node = document
    for name in parents:
        node = node[name]
    node[last] = value


def _without_defaults(tree: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """`tree` without values that are the schema's defaults, and without maps that are then empty and one by default."""
    kept: dict[str, Any] = {}
    for name, value in tree.items():
        inner = schema.get("properties", {}).get(name, {})
        bare = _without_defaults(value, inner) if isinstance(value, Mapping) else thaw(value)
        if "default" not in inner or bare != inner["default"]:
            kept[name] = bare
    return kept


@functools.cache
def _endpoint_schema() -> Schema:
    return section_schema(ENDPOINT_KEYS, EndpointSpec)


@functools.cache
def _deployment_schema() -> Schema:
    return section_schema(DEPLOYMENT_KEYS, DeploymentSpec)


def kind_of(content: Content) -> Kind:
    """Of an endpoint and all its deployments."""
    return changes.kind_of(content.document)
