"""The rig of the Kubernetes backend: real pods on a real node, with the same small server as on the other backends."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from autoscaler.backends.base import Backend, ObservedReplica
from autoscaler.backends.kubernetes.backend import KubernetesBackend
from autoscaler.backends.kubernetes.settings import KubernetesSettings, PodRules
from loadtests.kubernetes.cluster.cluster import Cluster
from router.runtime.kubernetes import ClusterSettings
from tests.support.backend_rigs import DEADLINE_SECONDS, SERVER, fetch

SMALL = "small"
NEW = Counter({"create serviceaccounts": 1, "patch deployments": 1, "patch poddisruptionbudgets": 1})
"""Writes for the first deployment of an endpoint."""
TYPES = """
apiVersion: amlarc.azureml.com/v1alpha1
kind: InstanceType
metadata: {name: small}
spec: {resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: "2", memory: 256Mi}}}
---
apiVersion: amlarc.azureml.com/v1alpha1
kind: InstanceTypeList
items:
- metadata: {name: Standard_F2s_v2}
  spec: {resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: "2", memory: 256Mi}}}
- metadata: {name: one-gpu}
  spec: {resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: "1", memory: 128Mi, nvidia.com/gpu: 1}}}
- metadata: {name: many-gpus}
  spec: {resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: "1", memory: 128Mi, nvidia.com/gpu: 7}}}
- metadata: {name: elsewhere}
  spec:
    nodeSelector: {nowhere: "true"}
    resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: "1", memory: 128Mi}}
"""


def server_document(image: str, *arguments: str, **more: Any) -> dict[str, Any]:
    """A custom deployment that runs the small test server in a user's image; its probes are as quick as can be."""
    probe = {"period": 1, "timeout": 30, "failure_threshold": 3}
    source = SERVER.read_text()
    command = ["python", "-I", "-S", "-c", source, "{port}", "--host", "0.0.0.0", *arguments]
    return {
        "environment": {"image": image},
        "instance_type": SMALL,
        "tidegate": {"command": command, "drain_seconds": 1},
        "readiness_probe": {**probe, "initial_delay": 60},
        "liveness_probe": probe,
        **more,
    }


class KubernetesRig:
    """Pods in a namespace of the test's own."""

    def __init__(self, cluster: Cluster, namespace: str, image: str, folder: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.image = image
        self.document: Mapping[str, Any] = server_document(image)
        self.broken: Mapping[str, Any] = server_document(image, "--fail")
        self._types = folder / "instance-types.yaml"
        self._types.write_text(TYPES)
        self._made: list[KubernetesBackend] = []

    def may_be(self, host: str) -> bool:
        """Whether a replica may have this address."""
        return ip_address(host).is_private and not ip_address(host).is_loopback

    def settings(self, *, kubeconfig: Path | None = None, **pods: Any) -> KubernetesSettings:
        """Of a backend in the test's namespace."""
        rules = {"image": self.image, "pull_policy": "Never", "pre_stop_seconds": 1, **pods}
        return KubernetesSettings(
            ClusterSettings(kubeconfig=str(kubeconfig or self.cluster.kubeconfig)),
            namespace=self.namespace,
            pods=PodRules(**rules),
            instance_types=self._types,
            patience_seconds=3,
        )

    def backend(self, settings: KubernetesSettings | None = None) -> KubernetesBackend:
        """A backend over the same namespace."""
        made = KubernetesBackend(settings or self.settings())
        self._made.append(made)
        return made

    def path(self, resource: str, name: str = "") -> str:
        """Address of a collection or an object in the test's namespace, such as `apps/v1/deployments`."""
        group, _, plural = resource.rpartition("/")
        root = f"/apis/{group}" if group else "/api/v1"
        return f"{root}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    async def list(self, resource: str) -> list[dict[str, Any]]:
        """Every object of a kind in the test's namespace."""
        found: Sequence[dict[str, Any]] = (await self.cluster.api.get(self.path(resource)))["items"]
        return list(found)

    async def clean(self) -> None:
        """Let go; the namespace takes everything with it."""
        for made in self._made:
            await made.close(end_replicas=False)

    async def crash(self, backend: Backend, replica: ObservedReplica) -> None:
        """The replica's server dies."""
        with contextlib.suppress(OSError):
            await fetch(replica, "/die")

    async def break_template(self, backend: Backend, template: str) -> None:
        """The document is broken already."""


def writes(backend: KubernetesBackend) -> Counter[str]:
    """Writes so far, by verb and resource, whatever became of them."""
    found: Counter[str] = Counter()
    for (verb, resource, _), count in backend.cluster.requests.items():
        if verb not in ("get", "list", "watch"):
            found[f"{verb} {resource}"] += count
    return found


async def written(backend: KubernetesBackend, wanted: Counter[str]) -> Counter[str]:
    """All writes so far, once `wanted` are among them: what a write does may be seen before its answer is."""
    made = writes(backend)
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not wanted <= made:
                await asyncio.sleep(0.02)
                made = writes(backend)
    except TimeoutError:
        raise AssertionError(f"{made} instead of {wanted} within {DEADLINE_SECONDS} s") from None
    return made
