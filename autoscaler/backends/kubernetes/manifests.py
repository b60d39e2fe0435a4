"""The objects around the pods: Deployment and PodDisruptionBudget. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from autoscaler.backends.base import DeploymentPlan
from autoscaler.backends.kubernetes import names
from router.runtime.kubernetes.resources import DEPLOYMENTS, DISRUPTION_BUDGETS

Manifest = dict[str, Any]


def deployment(plan: DeploymentPlan, template: Manifest, replicas: int, generation: int, namespace: str) -> Manifest:
    """The Kubernetes Deployment of one template."""
    name = names.deployment_name(plan.endpoint, plan.deployment, plan.template)
    return {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": names.workload_labels(plan.endpoint, plan.deployment, plan.template),
            "annotations": {names.GENERATION: str(generation), names.MANIFEST: fingerprint(template)},
        },
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 1,
            "selector": {"matchLabels": {names.WORKLOAD: name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": template,
        },
    }


def disruption_budget(endpoint: str, deployment: str, namespace: str) -> Manifest:
    """Nodes that are emptied take one replica after the other; sick ones hold nobody up."""
    labels = names.labels(endpoint, deployment)
    return {
        "apiVersion": DISRUPTION_BUDGETS.api_version,
        "kind": DISRUPTION_BUDGETS.kind,
        "metadata": {"name": names.budget_name(endpoint, deployment), "namespace": namespace, "labels": labels},
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {names.ENDPOINT: endpoint, names.DEPLOYMENT: deployment}},
        },
    }


def fingerprint(template: Manifest) -> str:
    """Identity of a pod template as it was made."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16]
