"""Names, labels and annotations of everything in the cluster. Pure.

A name is readable in front and unmistakable behind: a hash over exactly what it stands for. Names are short enough for
what Kubernetes derives from them (ReplicaSets add 11 characters, pods 6 more, and a host name has 63 at most).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

NAME_LENGTH = 46
"""Of a Deployment: its ReplicaSets' names stay below the 58 characters at which pod names are cut."""
_HASH_LENGTH = 12
"""Hex digits: 48 bits."""

ENDPOINT = "tidegate.dev/endpoint"
DEPLOYMENT = "tidegate.dev/deployment"
TEMPLATE = "tidegate.dev/template"
GENERATION = "tidegate.dev/generation"
"""Annotation: the ownership that last wrote."""
MANIFEST = "tidegate.dev/manifest"
"""Annotation: hash of the pod template as it was made; another one is left to run until its replicas are exchanged."""
PORT = "tidegate.dev/port"
INSTANCE_TYPE = "tidegate.dev/instance-type"
COST = "controller.kubernetes.io/pod-deletion-cost"
WORKLOAD = "app.kubernetes.io/instance"
ZONE = "topology.kubernetes.io/zone"
"""Of a pod: the API server puts its node's label there (from Kubernetes 1.35 on by default)."""
"""Label: name of the Deployment."""
MANAGED_BY = {"app.kubernetes.io/managed-by": "tidegate", "app.kubernetes.io/name": "tidegate-replica"}
OURS = ",".join(f"{name}={value}" for name, value in MANAGED_BY.items())
"""Selects everything that this backend has made."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


def deployment_name(endpoint: str, deployment: str, template: str) -> str:
    """Of the Kubernetes Deployment that runs one template of one online deployment."""
    return _name((endpoint, deployment, template), f"{endpoint}-{deployment}")


def budget_name(endpoint: str, deployment: str) -> str:
    """Of the PodDisruptionBudget of one online deployment."""
    return _name((endpoint, deployment), f"{endpoint}-{deployment}")


def account_name(endpoint: str) -> str:
    """Of the ServiceAccount of one endpoint."""
    return _name((endpoint,), endpoint)


def is_label(text: str) -> bool:
    """Whether `text` can be a label's value."""
    return _LABEL.fullmatch(text) is not None


def labels(endpoint: str, deployment: str = "", template: str = "") -> dict[str, str]:
    """Of whatever belongs to an endpoint, one of its deployments, or one template of that."""
    named = {ENDPOINT: endpoint, DEPLOYMENT: deployment, TEMPLATE: template}
    return {**MANAGED_BY, **{name: value for name, value in named.items() if value}}


def workload_labels(endpoint: str, deployment: str, template: str) -> dict[str, str]:
    """Of a Deployment and of its pods."""
    name = deployment_name(endpoint, deployment, template)
    return {WORKLOAD: name, **labels(endpoint, deployment, template)}


def selector(wanted: Mapping[str, str]) -> str:
    """`wanted` as a label selector."""
    return ",".join(f"{name}={value}" for name, value in wanted.items())


def _name(identity: tuple[str, ...], readable: str) -> str:
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:_HASH_LENGTH]
    slug = re.sub(r"[^a-z0-9]+", "-", readable.lower())[: NAME_LENGTH - _HASH_LENGTH - 1].strip("-")
    return f"{slug}-{digest}" if slug else digest
