"""Tidegate on a cluster of ours, from the overlays as they stand: applied, waited for, and asked like any other installation.

Whatever a cloud would have is made here: the image is on the nodes already, and a volume is a folder of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from loadtests.kubernetes import image
from loadtests.kubernetes.cluster.api import ApiFailed
from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.made_once import Unmade

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
SYSTEM, ENDPOINTS = "tidegate", "tidegate-endpoints"
TOKENS = ("control", "metrics", "assets", "demand")
READY_SECONDS = 240.0
_VOLUMES = {"dev": "data-tidegate-0", "production": "data-tidegate-control-0"}
_USER = 10001

Document = dict[str, Any]


@dataclass(slots=True)
class Installation:
    """One overlay on one cluster. `install`, then ask at its addresses."""

    cluster: Cluster
    overlay: str
    """`dev` or `production`."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the ConfigMap `tidegate-settings`, over the overlay's own."""
    patches: Sequence[Document] = ()
    """Of kustomize, for what only a test wants."""
    cache: Path | None = None
    """A folder for environments that all pods share."""
    build: Mapping[str, str] = field(default_factory=dict)
    """Variables of pods that build environments: where packages come from."""
    gateway_url: str = ""
    control_url: str = ""
    token: str = ""
    """The operators'."""
    _volumes: list[str] = field(default_factory=list)
    _overlay: Path | None = None
    """Folder of what was applied."""

    async def install(self) -> None:
        """Apply the overlay and return when every pod is ready. Raises `Unmade` with what is not."""
        self._overlay = Path(tempfile.mkdtemp(prefix=f"{self.overlay}-overlay-", dir=self.cluster.folder))
        await image.image(self.cluster)
        await self._make_namespaces()
        await self._make_volume("data", SYSTEM, _VOLUMES[self.overlay], self._folder("data"), "ReadWriteOnce")
        if self.cache is not None:
            await self._make_volume("cache", ENDPOINTS, "cache", self.cache, "ReadWriteMany")
            await self._apply([_claim("cache", ENDPOINTS)])
        if self.build:
            await self._make_secret("tidegate-build", ENDPOINTS, self.build)
        if self.overlay == "production":
            made = {name: secrets.token_hex(32) for name in TOKENS}
            self.token = made["control"]
            await self._make_secret("tidegate-tokens", SYSTEM, made)
        self._write_overlay(self._overlay)
        await self.cluster.kubectl("apply", "--validate=strict", "--kustomize", str(self._overlay))
        await self._until_ready()
        await self._find_addresses()

    async def remove(self) -> None:
        """Take everything away again, namespaces with all that is in them; returns when they are gone."""
        for name in (ENDPOINTS, SYSTEM):
            await self.cluster.delete_namespace(name)
        async with asyncio.timeout(READY_SECONDS):
            for name in (ENDPOINTS, SYSTEM):
                while await self.cluster.api.exists(f"/api/v1/namespaces/{name}"):  # noqa: ASYNC110 -- it says nothing
                    await asyncio.sleep(0.1)
        if self._overlay is not None:
            words = ("--kustomize", str(self._overlay), "--ignore-not-found", "--wait=false")
            await self.cluster.kubectl("delete", *words)
        for volume in self._volumes:
            await self.cluster.kubectl("delete", "persistentvolume", volume)

    @property
    def workloads(self) -> list[str]:
        """As kubectl names them."""
        if self.overlay == "dev":
            return ["statefulset/tidegate"]
        return ["deployment/tidegate-gateway", "statefulset/tidegate-autoscaler", "statefulset/tidegate-control"]

    async def pods(self, component: str) -> list[Document]:
        """Those of a kind (`gateway`, `autoscaler`, `control`) that are not ending."""
        listed = await self.cluster.api.get(
            f"/api/v1/namespaces/{SYSTEM}/pods", labelSelector=f"tidegate.dev/{component}=true"
        )
        return [pod for pod in listed["items"] if "deletionTimestamp" not in pod["metadata"]]

    # ── the parts of installing ──

    async def _apply(self, documents: Iterable[Document]) -> None:
        file = self.cluster.folder / "objects.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        await self.cluster.kubectl("apply", "--validate=strict", f"--filename={file}")

    async def _make_namespaces(self) -> None:
        await self.cluster.kubectl("apply", f"--filename={DEPLOY / 'base' / 'namespaces.yaml'}")

    def _folder(self, name: str) -> Path:
        """A new one: an installation begins with empty volumes, whatever another one left in this cluster."""
        volumes = self.cluster.folder / "volumes"
        volumes.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=volumes))
        folder.chmod(0o755)
        return folder

    async def _make_volume(self, name: str, namespace: str, claim: str, folder: Path, mode: str) -> None:
        """A volume for one claim, as a cloud would make it: a folder on the first node."""
        node = self.cluster.node[0].name
        where = [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"tidegate-{name}"},
            "spec": {
                "capacity": {"storage": "100Gi"},
                "accessModes": [mode],
                "claimRef": {"namespace": namespace, "name": claim},
                "local": {"path": str(folder)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": where}]}},
                "persistentVolumeReclaimPolicy": "Retain",
            },
        }
        await self._apply([volume])
        self._volumes.append(f"tidegate-{name}")

    async def _make_secret(self, name: str, namespace: str, values: Mapping[str, str]) -> None:
        metadata = {"name": name, "namespace": namespace}
        await self._apply([{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(values)}])

    def _write_overlay(self, folder: Path) -> None:
        (folder / "kubernetes").symlink_to(DEPLOY)
        name, _, tag = image.name().rpartition(":")
        told: Document = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"kubernetes/overlays/{self.overlay}"],
            "images": [{"name": "tidegate", "newName": name, "newTag": tag}],
            "transformers": [f"kubernetes/replica-image/{self.overlay}"],
            "patches": [*self._fitting(), *self.patches],
        }
        if self.settings:
            literals = [f"{key}={value}" for key, value in self.settings.items()]
            generator = {"name": "tidegate-settings", "namespace": SYSTEM, "behavior": "merge", "literals": literals}
            told["configMapGenerator"] = [generator]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(told))

    def _fitting(self) -> list[Document]:
        """For nodes of ours, which are small and do not count what pods write."""
        found = [self._cache_patch()] if self.cache is not None else []
        if self.overlay == "production":
            for kind, name in (("Deployment", "tidegate-gateway"), ("StatefulSet", "tidegate-autoscaler")):
                resources = "/spec/template/spec/containers/0/resources"
                changes = [
                    {"op": "remove", "path": f"{resources}/requests/ephemeral-storage"},
                    {"op": "remove", "path": f"{resources}/limits/ephemeral-storage"},
                    {"op": "replace", "path": f"{resources}/requests/cpu", "value": "100m"},
                ]
                found.append({"target": {"kind": kind, "name": name}, "patch": json.dumps(changes)})
        return found

    def _cache_patch(self) -> Document:
        name, kind = ("tidegate", "initContainers") if self.overlay == "dev" else ("tidegate-autoscaler", "containers")
        number = 2 if self.overlay == "dev" else 0
        patch = [
            {"op": "test", "path": f"/spec/template/spec/{kind}/{number}/name", "value": "autoscaler"},
            {
                "op": "add",
                "path": f"/spec/template/spec/{kind}/{number}/args/-",
                "value": "--kubernetes-cache-claim=cache",
            },
        ]
        return {"target": {"kind": "StatefulSet", "name": name}, "patch": json.dumps(patch)}

    async def _until_ready(self) -> None:
        patience = f"--timeout={READY_SECONDS:.0f}s"
        for workload in self.workloads:
            try:
                await self.cluster.kubectl("--namespace", SYSTEM, "rollout", "status", workload, patience)
            except Unmade as error:
                raise Unmade(f"{error}\n{await self._what_is_wrong()}") from None

    async def _what_is_wrong(self) -> str:
        """For whoever has to find out: pods, the newest events, and the last words of containers that are not ready."""
        told = [await self.cluster.kubectl("--namespace", SYSTEM, "get", "pods", "--output=wide")]
        told.append(await self.cluster.kubectl("--namespace", SYSTEM, "events", "--types=Warning"))
        for pod in (await self.cluster.api.get(f"/api/v1/namespaces/{SYSTEM}/pods"))["items"]:
            name, status = pod["metadata"]["name"], pod["status"]
            for one in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
                if not one["ready"]:
                    path = f"/api/v1/namespaces/{SYSTEM}/pods/{name}/log"
                    with contextlib.suppress(ApiFailed):
                        words = await self.cluster.api.text(path, container=one["name"], tailLines="20")
                        told.append(f"{name}/{one['name']}:\n{words}")
        return "\n".join(told)

    async def _find_addresses(self) -> None:
        services = f"/api/v1/namespaces/{SYSTEM}/services"
        gateway = await self.cluster.api.until(services, "tidegate-gateway", _has_address)
        self.gateway_url = f"http://{gateway['status']['loadBalancer']['ingress'][0]['ip']}"
        control = await self.cluster.api.get(f"{services}/tidegate-control")
        self.control_url = f"http://{control['spec']['clusterIP']}:8081"
        self.token = self.token or await self._read_token()

    async def _read_token(self) -> str:
        """The one that the pod has made for itself."""
        file = "/var/lib/tidegate/secrets/control.token"
        where = ("--namespace", SYSTEM, "exec", "tidegate-0", "--container", "control")
        return (await self.cluster.kubectl(*where, "--", "cat", file)).strip()


def _has_address(service: Document) -> bool:
    return bool(service.get("status", {}).get("loadBalancer", {}).get("ingress"))


def _claim(name: str, namespace: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
