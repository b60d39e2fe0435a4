"""Pods as restricted namespaces want them, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
"""Labels of a namespace that takes nothing but pods of least privilege."""
PAUSE = "tidegate.local/pause:1"
"""An image that does nothing, for pods that only have to be there."""


def pod(
    name: str,
    image: str = PAUSE,
    *,
    command: Sequence[str] = (),
    args: Sequence[str] = (),
    resources: Mapping[str, Mapping[str, str]] | None = None,
    labels: Mapping[str, str] | None = None,
    ready_path: str | None = None,
    port: int = 8080,
    files: str | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A pod of one container of least privilege; `files` names a ConfigMap that lies at /files."""
    container: dict[str, Any] = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "ports": [{"containerPort": port}],
        "resources": dict(resources or {}),
        "securityContext": {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if command:
        container["command"] = list(command)
    if args:
        container["args"] = list(args)
    if ready_path:
        container["readinessProbe"] = {"httpGet": {"path": ready_path, "port": port}, "periodSeconds": 1}
    full: dict[str, Any] = {
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        **spec,
    }
    if files:
        container["volumeMounts"] = [{"name": "files", "mountPath": "/files"}]
        full["volumes"] = [{"name": "files", "configMap": {"name": files}}]
    return {"metadata": {"name": name, "labels": dict(labels or {})}, "spec": full}


def condition(document: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """One of an object's conditions; empty when it has none of that kind."""
    conditions: list[Mapping[str, Any]] = document.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def is_ready(document: Mapping[str, Any]) -> bool:
    """Whether the condition Ready is true."""
    return condition(document, "Ready").get("status") == "True"
