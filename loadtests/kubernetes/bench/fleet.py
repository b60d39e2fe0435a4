"""A fleet on make-believe nodes: a control plane of real programs, KWOK's nodes, and an autoscaler that makes it all.

Pods cost nothing here, so that what is measured is the autoscaler, the API server and Kubernetes' own controllers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import yaml

from loadtests.kubernetes.bench.scaler import Scaler, scaler
from loadtests.kubernetes.bench.watching import PodWatch, watching
from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.kubernetes.cluster.fake_nodes import TOLERATION
from loadtests.measure import cpu_seconds
from router.contract.codec import encode_specs
from router.contract.events import SPECS, EndpointRevision
from router.runtime.log.opening import open_log
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from loadtests.kubernetes.bench.sizes import Sizes
    from router.runtime.log.base import Log

NAMESPACE = "fleet"
DEPLOYMENT = "blue"
ACCOUNT = "autoscaler"
METRICS = "hpa-metrics"
GROW_SECONDS = 1800.0
"""Longest time for the fleet to be there; minutes on two idle cores."""
CALM_SECONDS = 5.0
_TYPES = {
    "apiVersion": "amlarc.azureml.com/v1alpha1",
    "kind": "InstanceType",
    "metadata": {"name": "fake"},
    "spec": {
        "tolerations": [TOLERATION],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
    },
}
# What `docs/kubernetes.md` says that an autoscaler needs, and nothing else.
_ANY, _LOOK = ["get", "list", "watch", "create", "patch", "delete"], ["get", "list"]
_RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": [*_LOOK, "watch", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["pods/log", "events"], "verbs": _LOOK},
    {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": _ANY},
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": _ANY},
    {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": _ANY},
]
USER = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
"""The autoscaler, in the words of the audit log."""
_READING = {"get", "list", "watch"}


@dataclass(slots=True)
class Fleet:
    """What runs."""

    bed: Cluster
    sizes: Sizes
    names: Sequence[str]
    """Of the endpoints; each has one deployment."""
    data: DataLayout
    log: Log
    pods: PodWatch
    flags: list[str]
    """Of the autoscaler."""
    revisions: dict[str, EndpointRevision] = field(default_factory=dict)

    def want(self, endpoint: str, count: int) -> int:
        """Write that `endpoint` is to have `count` replicas, as the control plane would; returns when, Unix nanoseconds."""
        last = self.revisions.get(endpoint)
        now = time.time_ns()
        document = _document(endpoint, count)
        if last is None:
            about = {"name": endpoint, "compute": "azureml:kubernetes", "traffic": {DEPLOYMENT: 100}}
            made = EndpointRevision(endpoint, 1, now, about, {DEPLOYMENT: document}, ("0" * 64,))
        else:
            made = replace(last, revision=last.revision + 1, at_ns=now, deployments={DEPLOYMENT: document})
        self.revisions[endpoint] = made
        self.log.append(SPECS, endpoint, encode_specs(made))
        return now

    def autoscaler(self) -> contextlib.AbstractAsyncContextManager[Scaler]:
        """One that acts for all of it, ready."""
        return scaler(self.data, self.flags)

    def server_cpu_seconds(self) -> float:
        """CPU time that the API server has used so far."""
        pid = self.bed.control.api_server.pid
        if pid is None:
            raise RuntimeError("the API server does not run")
        return cpu_seconds([pid])

    async def at_rest(self, seconds: float) -> float:
        """CPU seconds per second that the API server takes while nothing changes."""
        before, began = self.server_cpu_seconds(), time.monotonic()
        await asyncio.sleep(seconds)
        return (self.server_cpu_seconds() - before) / (time.monotonic() - began)

    def writes(self) -> Counter[str]:
        """The autoscaler's writes so far, by verb and resource, from the API server's audit log."""
        found: Counter[str] = Counter()
        for asked, count in self.bed.requests().items():
            if asked.user == USER and asked.verb not in _READING:
                found[f"{asked.verb} {asked.resource}"] += count
        return found

    async def until_all_ready(self, say: Callable[[str], None]) -> None:
        """Return when every pod is Ready and the Deployments' own counts say so."""
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
        wanted, told = len(self.names) * self.sizes.replicas, time.monotonic()
        async with asyncio.timeout(GROW_SECONDS):
            while True:
                listed = (await self.bed.api.get(path))["items"]
                ready = sum(int(one["status"].get("readyReplicas", 0)) for one in listed)
                if len(listed) == len(self.names) and ready == wanted:
                    break
                if time.monotonic() - told > 10:
                    told = time.monotonic()
                    say(f"{len(listed)} of {len(self.names)} deployments, {ready} of {wanted} pods ready")
                await asyncio.sleep(1 if wanted < 500 else 3)
        await asyncio.sleep(CALM_SECONDS)


@contextlib.asynccontextmanager
async def fleet(folder: Path, sizes: Sizes) -> AsyncIterator[Fleet]:
    """A cluster with nodes and no pods, ready for an autoscaler."""
    # On a busy machine KWOK's heartbeats come late, and pods of a node that was thought lost never get ready again.
    bed = Cluster(folder / "cluster", kwok=True, controller_flags=("--node-monitor-grace-period=600s",))
    await bed.start()
    try:
        if bed.fake is None:
            raise RuntimeError("KWOK does not run")
        await bed.fake.add(sizes.nodes, deadline_seconds=GROW_SECONDS)
        await bed.api.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        kubeconfig = await bed.account(NAMESPACE, ACCOUNT, _RULES)
        data = DataLayout(folder / "data")
        data.create()
        (types := folder / "types.yaml").write_text(yaml.safe_dump(_TYPES))
        flags = [
            "--backend=kubernetes", f"--kubeconfig={kubeconfig}", f"--kubernetes-namespace={NAMESPACE}",
            f"--kubernetes-instance-types={types}",
        ]  # fmt: skip
        names = [f"e{number:04}" for number in range(sizes.deployments)]
        log = open_log(f"embedded:{data.log}", role="bench")
        try:
            async with watching(bed.api, NAMESPACE) as pods:
                yield Fleet(bed, sizes, names, data, log, pods, flags)
        finally:
            await log.close()
    finally:
        await bed.stop()


def _document(endpoint: str, count: int) -> dict[str, Any]:
    return {
        "name": DEPLOYMENT,
        "endpoint_name": endpoint,
        "type": "kubernetes",
        "environment": {"image": "registry.invalid/model:1"},
        "instance_type": "fake",
        "instance_count": count,
    }
