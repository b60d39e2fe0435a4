"""What the overlays of deploy/kubernetes become, and who may talk to whom by their NetworkPolicies."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import yaml

from loadtests.kubernetes.cluster.cluster import Cluster

ROOT = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAYS = ("dev", "production")
SYSTEM, ENDPOINTS = "tidegate", "tidegate-endpoints"
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")

Document = dict[str, Any]
_CLUSTER_WIDE = {
    "ClusterRole": "rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "rbac.authorization.k8s.io/v1/clusterrolebindings",
    "CustomResourceDefinition": "apiextensions.k8s.io/v1/customresourcedefinitions",
    "ValidatingAdmissionPolicy": "admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}
"""What a namespace does not take with it."""


async def rendered(kubectl: Path, folder: Path) -> list[Document]:
    """The objects of a kustomization. Raises AssertionError with kustomize's words."""
    process = await asyncio.create_subprocess_exec(
        str(kubectl), "kustomize", str(folder), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return [one for one in yaml.safe_load_all(out) if one]


async def apply(cluster: Cluster, documents: Sequence[Document], folder: Path, *words: str) -> tuple[str, str]:
    """What `kubectl apply` says of `documents`, and what it warns of. Raises AssertionError with its words when it fails."""
    file = folder / "objects.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    process = await asyncio.create_subprocess_exec(
        str(cluster.kubectl_program),
        f"--kubeconfig={cluster.kubeconfig}",
        "apply",
        "--validate=strict",
        f"--filename={file}",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return out.decode(), error.decode()


@contextlib.asynccontextmanager
async def applied(cluster: Cluster, documents: Sequence[Document]) -> AsyncIterator[None]:
    """`documents` on the cluster while inside; afterwards they are gone for good, namespaces with all that is in them."""
    with tempfile.TemporaryDirectory() as folder:
        await apply(cluster, documents, Path(folder))
    try:
        yield
    finally:
        for one in documents:
            if path := _CLUSTER_WIDE.get(one["kind"]):
                await cluster.api.delete(f"/apis/{path}/{one['metadata']['name']}")
        names = [one["metadata"]["name"] for one in of_kind(documents, "Namespace")]
        for name in names:
            await cluster.delete_namespace(name)
        async with asyncio.timeout(120):
            for name in names:
                while await cluster.api.exists(f"/api/v1/namespaces/{name}"):
                    await asyncio.sleep(0.1)


def of_kind(documents: Sequence[Document], *kinds: str) -> list[Document]:
    """Those of some kinds."""
    return [one for one in documents if one["kind"] in kinds]


def named(documents: Sequence[Document], kind: str, name: str) -> Document:
    """The one of a kind and name."""
    (found,) = (one for one in of_kind(documents, kind) if one["metadata"]["name"] == name)
    return found


def pod_specs(documents: Sequence[Document]) -> dict[str, Document]:
    """Name of the workload → its pods' spec."""
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in of_kind(documents, *WORKLOADS)}


def containers(spec: Mapping[str, Any]) -> Iterator[Document]:
    """Every container of a pod, in the order of their start."""
    yield from spec.get("initContainers", ())
    yield from spec["containers"]


def environment(documents: Sequence[Document], container: Mapping[str, Any]) -> dict[str, str]:
    """The container's variables as far as they are known before it runs; others are there with an empty value."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= named(documents, "ConfigMap", source["configMapRef"]["name"]).get("data") or {}
    for one in container.get("env", ()):
        value = str(one.get("value", ""))
        for name, text in found.items():
            value = value.replace(f"$({name})", text)
        found[one["name"]] = value
    return found


def arguments(documents: Sequence[Document], container: Mapping[str, Any]) -> list[str]:
    """The container's words, variables replaced."""
    variables = environment(documents, container)
    words = []
    for word in container["args"]:
        text = str(word)
        for name, value in variables.items():
            text = text.replace(f"$({name})", value)
        words.append(text)
    return words


# ── who may talk to whom ──


@dataclass(frozen=True)
class Place:
    """Somebody on the network: a pod by namespace and labels, or an address outside."""

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    """Names of its container ports."""
    address: str = ""


def pods_of(documents: Sequence[Document]) -> dict[str, Place]:
    """Name of the workload → one of its pods."""
    found = {}
    for one in of_kind(documents, *WORKLOADS):
        template = one["spec"]["template"]
        ports = {
            port["name"]: port["containerPort"]
            for container in containers(template["spec"])
            for port in container.get("ports", ())
        }
        found[one["metadata"]["name"]] = Place(one["metadata"]["namespace"], template["metadata"]["labels"], ports)
    return found


def may_talk(documents: Sequence[Document], source: Place, target: Place, port: int, protocol: str = "TCP") -> bool:
    """Whether the policies let `source` open a connection to `target`:`port`; both sides must."""
    policies = of_kind(documents, "NetworkPolicy")
    out = _side(policies, source, target, "Egress", port, protocol, target)
    return out and _side(policies, target, source, "Ingress", port, protocol, target)


def _side(
    policies: Sequence[Document],
    subject: Place,
    peer: Place,
    direction: str,
    port: int,
    protocol: str,
    listening: Place,
) -> bool:
    if not subject.namespace:
        return True
    mine = [
        one["spec"]
        for one in policies
        if one["metadata"]["namespace"] == subject.namespace
        and direction in one["spec"]["policyTypes"]
        and _selects(one["spec"]["podSelector"], subject.labels)
    ]
    if not mine:
        return True
    side, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    return any(
        _knows(rule.get(peers), peer, subject.namespace) and _opens(rule.get("ports"), port, protocol, listening)
        for spec in mine
        for rule in spec.get(side, ())
    )


def _knows(peers: Sequence[Mapping[str, Any]] | None, place: Place, own: str) -> bool:
    if peers is None:
        return True
    for peer in peers:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            inside = place.address and ip_address(place.address) in ip_network(block["cidr"])
            if inside and not any(ip_address(place.address) in ip_network(one) for one in block.get("except", ())):
                return True
            continue
        if not place.namespace:
            continue
        spaces = peer.get("namespaceSelector")
        here = place.namespace == own
        if spaces is not None:
            here = _selects(spaces, {"kubernetes.io/metadata.name": place.namespace})
        if here and _selects(peer.get("podSelector", {}), place.labels):
            return True
    return False


def _opens(ports: Sequence[Mapping[str, Any]] | None, port: int, protocol: str, listening: Place) -> bool:
    if ports is None:
        return True
    for one in ports:
        number = one.get("port", port)
        if isinstance(number, str):
            number = listening.ports.get(number)
        if number == port and one.get("protocol", "TCP") == protocol:
            return True
    return False


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "this evaluation knows labels alone"
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()
