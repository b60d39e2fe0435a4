"""Where the demo runs: all of Tidegate as processes of this machine, or in the pods of a real cluster."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from autoscaler.backends.local.conda import parse
from loadtests.broker import missing as no_broker
from loadtests.broker import running_broker
from loadtests.kubernetes import image
from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.kubernetes.cluster.missing import missing
from loadtests.kubernetes.installation import Installation
from loadtests.kubernetes.packages import served, wheels
from loadtests.tree import Tidegate, tidegate_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from loadtests.demo.view import Screen

LOGS = ("embedded", "kafka")
BACKENDS = ("local", "kubernetes")
SIZE = "standard-f2s-v2"
"""The instance type that the documents ask for, as objects can be called. It is small here, so that all replicas have room."""


def why_not(backend: str, log: str) -> str | None:
    """Why the demo cannot run here, in words; None when it can."""
    if backend == "kubernetes":
        if log != "embedded":
            return "in a cluster it runs on the embedded log; leave out LOG"
        return missing() or image.missing()
    return no_broker() if log == "kafka" else None


@contextlib.asynccontextmanager
async def place(backend: str, log: str, folder: Path, screen: Screen) -> AsyncIterator[Tidegate]:
    """A running Tidegate; nothing of it is left at the end. `folder` has the examples."""
    if backend == "kubernetes":
        async with cluster(folder, screen) as there:
            yield there
        return
    async with the_log(log, folder, screen) as flags:
        screen.title("start: gateway workers, mirror, autoscaler and control plane")
        async with tidegate_up(folder / "data", *flags, log=folder / "up.log") as tree:
            screen.say(f"  gateway {tree.gateway_url}, control plane {tree.control_url}")
            yield tree


@contextlib.asynccontextmanager
async def the_log(kind: str, folder: Path, screen: Screen) -> AsyncIterator[tuple[str, ...]]:
    """What to tell `tidegate up` about the log; for Kafka a broker of our own runs meanwhile."""
    if kind == "embedded":
        yield ()
        return
    screen.title("log: a real Apache Kafka")
    async with running_broker(folder / "broker") as broker:
        screen.say(f"  broker {broker.servers}")
        yield ("--log", f"kafka://{broker.servers}")


@contextlib.asynccontextmanager
async def cluster(folder: Path, screen: Screen) -> AsyncIterator[Tidegate]:
    """The overlay `dev` on a cluster of our own, with one real node."""
    screen.title("cluster: a real Kubernetes with one node, and Tidegate's image on it")
    packages = await wheels(_requirements(folder / "examples" / "digits" / "conda.yml"))
    # Not in `folder`: nodes have a /run and a /var/lib of their own.
    with tempfile.TemporaryDirectory(prefix="tidegate-demo-cluster-") as beside:
        bed = Cluster(Path(beside) / "cluster", nodes=1, audit=False)
        await bed.start()
        try:
            with served(packages, str(urlsplit(bed.server).hostname)) as address:
                await prepare(bed)
                screen.title("start: kubectl apply -k deploy/kubernetes/overlays/dev")
                cache = Path(beside) / "cache"
                cache.mkdir()
                installation = Installation(bed, "dev", cache=cache, build={"UV_DEFAULT_INDEX": address})
                await installation.install()
                for line in (await bed.kubectl("--namespace", "tidegate", "get", "pods,services")).splitlines():
                    screen.say(f"  {line}")
                yield Tidegate(installation.gateway_url, installation.control_url, installation.token)
        finally:
            await bed.stop()


def _requirements(conda: Path) -> Sequence[str]:
    return parse(conda.read_text(), conda.name).with_package("azureml-inference-server-http").lines


async def prepare(bed: Cluster) -> None:
    """What a cluster has that runs Azure's extension: instance types, one of them by the name that the documents use."""
    group = "amlarc.azureml.com"
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
    name = f"instancetypes.{group}"
    names = {"plural": "instancetypes", "singular": "instancetype", "kind": "InstanceType"}
    spec = {"group": group, "scope": "Cluster", "names": names, "versions": [version]}
    await bed.api.post(definitions, {"metadata": {"name": name}, "spec": spec})
    await bed.api.until(definitions, name, lambda one: condition(one, "Established") == "True")
    kind = {"apiVersion": f"{group}/v1alpha1", "kind": "InstanceType", "metadata": {"name": SIZE}}
    resources = {"requests": {"cpu": "50m", "memory": "192Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}}
    await bed.api.post(f"/apis/{group}/v1alpha1/instancetypes", {**kind, "spec": {"resources": resources}})


def condition(document: dict[str, Any], kind: str) -> str:
    """The status of one of an object's conditions; empty when it has none of that kind."""
    conditions = document.get("status", {}).get("conditions", [])
    return next((str(one["status"]) for one in conditions if one["type"] == kind), "")
