"""Kubernetes API servers for whoever needs one: plain JSON objects, watched collections, failures as our errors.

The only door to the client library. Backends and the control plane bring the objects; nothing here knows endpoints.
"""

from router.runtime.kubernetes.client import FIELD_MANAGER, Cluster, Object
from router.runtime.kubernetes.credentials import BadKubeconfig, ClusterSettings
from router.runtime.kubernetes.failures import (
    Absent,
    Asked,
    Busy,
    Contested,
    Denied,
    Expired,
    KubernetesError,
    NotSignedIn,
    OverQuota,
    Rejected,
    Unreachable,
)
from router.runtime.kubernetes.pacing import Backoff, Pace
from router.runtime.kubernetes.resources import (
    CONFIG_MAPS,
    DEFINITIONS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    EVENTS,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    Resource,
)
from router.runtime.kubernetes.watching import Watched

__all__ = [
    "CONFIG_MAPS", "DEFINITIONS", "DEPLOYMENTS", "DISRUPTION_BUDGETS", "EVENTS", "FIELD_MANAGER", "PODS", "SECRETS",
    "SERVICE_ACCOUNTS", "Absent", "Asked",
    "Backoff", "BadKubeconfig", "Busy", "Cluster", "ClusterSettings", "Contested", "Denied", "Expired",
    "KubernetesError", "NotSignedIn", "Object", "OverQuota", "Pace", "Rejected", "Resource", "Unreachable", "Watched",
]  # fmt: skip
