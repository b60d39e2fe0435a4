"""Instance types: Azure's `InstanceType` objects (nodeSelector, resources) → what a pod asks for. Pure.

They come from a file and from the cluster's own `instancetypes.amlarc.azureml.com`; the cluster's go first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoscaler.backends.local.launch import Unlaunchable
from router.contract.errors import InvalidSpec, Problem
from router.contract.parts import GPU, Resources
from router.contract.quantities import quantity
from router.runtime.kubernetes.resources import Resource

RESOURCE = Resource("amlarc.azureml.com", "v1alpha1", "instancetypes", "InstanceType", namespaced=False)
DEFAULT_NAME = "defaultinstancetype"


_VM_SIZE = re.compile(r"Standard_(?!N)[A-Z]+[0-9][A-Za-z0-9_-]*")
"""Azure's machine sizes without a GPU: documents for managed endpoints name one."""


@dataclass(frozen=True, slots=True)
class InstanceType:
    """One kind of compute in the cluster."""

    name: str
    node_selector: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    """Not in Azure's shape; for nodes that are kept for some pods by a taint."""


DEFAULT = InstanceType(DEFAULT_NAME, requests={"cpu": "100m", "memory": "2Gi"}, limits={"cpu": "2", "memory": "2Gi"})
"""Azure's default: what a deployment without `instance_type` and `resources` gets."""


def parse(documents: Iterable[Any], source: str) -> list[InstanceType]:
    """Every `InstanceType` in `documents` (single ones, or an `InstanceTypeList`). Raises `InvalidSpec`."""
    found: list[InstanceType] = []
    for document in documents:
        if document is None:
            continue
        if not isinstance(document, Mapping) or document.get("kind") not in ("InstanceType", "InstanceTypeList"):
            kind = document.get("kind") if isinstance(document, Mapping) else document
            raise InvalidSpec([Problem("kind", "InstanceType or InstanceTypeList", kind, file=source)])
        items = document.get("items") if document["kind"] == "InstanceTypeList" else [document]
        found += [_instance_type(item, source) for item in items or ()]
    return found


def _instance_type(document: Mapping[str, Any], source: str) -> InstanceType:
    name = str((document.get("metadata") or {}).get("name") or "")
    spec = document.get("spec") or {}
    resources = spec.get("resources") or {}
    requests, limits = (_amounts(resources.get(side)) for side in ("requests", "limits"))
    limits = {GPU: requests[GPU], **limits} if GPU in requests else limits
    requests.pop(GPU, None)
    if not name:
        raise InvalidSpec([Problem("metadata.name", "is required", file=source)])
    for side, amounts in (("requests", requests), ("limits", limits)):
        for resource, amount in amounts.items():
            _check(amount, f"{name}.spec.resources.{side}.{resource}", source)
    selector = {str(key): str(value) for key, value in (spec.get("nodeSelector") or {}).items()}
    return InstanceType(name, selector, requests, limits, tuple(spec.get("tolerations") or ()))


def _amounts(section: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(name): str(amount) for name, amount in (section or {}).items()}


def _check(amount: str, path: str, source: str) -> None:
    try:
        quantity(amount)
    except ValueError:
        problem = Problem(path, "a Kubernetes quantity, such as 500m, 2 or 4Gi", amount, file=source)
        raise InvalidSpec([problem]) from None


def choose(document: Mapping[str, Any], known: Mapping[str, InstanceType]) -> InstanceType:
    """What `document` runs on, its own `resources` put in. Raises `Unlaunchable`."""
    name = str(document.get("instance_type") or DEFAULT_NAME)
    kind = _found(name, known)
    if kind is None:
        there = ", ".join(sorted({*known, DEFAULT_NAME}))
        message = (
            f"instance_type: the cluster has no instance type '{name}'; there are {there}. "
            f"Name one of these, or create it: kind InstanceType, apiVersion {RESOURCE.api_version}"
        )
        raise Unlaunchable("ResourceNotFound", message)
    wanted = document.get("resources") or {}
    own = {side: _amounts(wanted.get(side)) for side in ("requests", "limits")}
    if not own["requests"] and not own["limits"]:
        return kind
    requests, limits = {**kind.requests, **own["requests"]}, {**kind.limits, **own["limits"]}
    try:
        Resources(requests, limits)
    except InvalidSpec as error:
        raise Unlaunchable("BadArgument", f"resources: {error.message}") from None
    for resource, amount in own["limits"].items():
        most = kind.limits.get(resource)
        if most is not None and quantity(amount) > quantity(most):
            message = (
                f"resources.limits.{resource}: at most {most}, the limit of instance type '{name}'; found {amount}"
            )
            raise Unlaunchable("BadArgument", message)
    return InstanceType(kind.name, kind.node_selector, requests, limits, kind.tolerations)


def _found(name: str, known: Mapping[str, InstanceType]) -> InstanceType | None:
    """By its name, or by that as an object in a cluster can have it; a size of Azure's machines stands for the default."""
    return (
        known.get(name)
        or known.get(re.sub(r"[^a-z0-9]+", "-", name.lower()))
        or (known.get(DEFAULT_NAME, DEFAULT) if name == DEFAULT_NAME or _VM_SIZE.fullmatch(name) else None)
    )


def substitute(document: Mapping[str, Any], kind: InstanceType) -> str:
    """What to tell a user whose document names a size of Azure's machines; empty when there is nothing to tell."""
    name = str(document.get("instance_type") or DEFAULT_NAME)
    if kind.name in (name, re.sub(r"[^a-z0-9]+", "-", name.lower())):
        return ""
    return f"instance_type {name} is none of the cluster's; {kind.name} is used instead"


def gpus(kind: InstanceType) -> bool:
    """Whether a pod of this kind gets a GPU."""
    return GPU in kind.limits and quantity(kind.limits[GPU]) > 0
