"""What the backend is told at its start: the unit, the default and the reason stand under each field."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from router.runtime.given import Secret
from router.runtime.kubernetes import ClusterSettings

DEFAULT_IMAGE = "tidegate:0.1.0"
DEFAULT_CONTROL_URL = "http://tidegate-control:8081"


@dataclass(frozen=True, slots=True)
class PodRules:
    """What every replica's pod is made with."""

    image: str = DEFAULT_IMAGE
    """Tidegate's own image: serves code deployments, and fetches files for others."""
    pull_policy: str = "IfNotPresent"
    """Of Tidegate's own image. Users' images follow the cluster's rule."""
    pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the namespace with registry credentials."""
    control_url: str = DEFAULT_CONTROL_URL
    """Where pods find the control plane, which has the uploaded files."""
    assets_key: Secret = Secret("")  # noqa: RUF009 -- an immutable string
    """Signs the addresses of files, so that pods need no token; empty: the control plane asks for none."""
    allow_root: bool = False
    """Whether a user's own image may run as root: most clusters that care refuse it (Pod Security "restricted")."""
    cache_claim: str | None = None
    """A PersistentVolumeClaim that keeps built environments for all pods (ReadWriteMany where there are several nodes);
    None = every pod builds its own."""
    pre_stop_seconds: int = 5
    """Between a pod's first sign of ending and SIGTERM: gateways hear of it meanwhile. Needs Kubernetes 1.30 or newer."""
    lost_node_seconds: int = 30
    """A pod on a node that is not ready is given up after this long, and replaced; Kubernetes' own default is 300."""


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """One cluster, one namespace of it."""

    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    namespace: str | None = None
    """Where replicas run; None = the kubeconfig context's, or the pod's own, else `default`. One installation each."""
    pods: PodRules = field(default_factory=PodRules)
    instance_types: Path | None = None
    """YAML file with `InstanceType` documents, for clusters that have none as resources."""
    patience_seconds: float = 60.0
    """What may mend by itself (no node has room, the server is away, a full quota) is a failure after this long."""
    parallel: int = 16
    """Deployments that are worked on at once."""
