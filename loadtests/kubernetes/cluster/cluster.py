"""A whole cluster under one folder: what is asked for is started, and everything ends with it.

Without nodes it is a control plane on loopback, for whoever needs an API server that behaves: pods stay Pending. With
nodes, pods run in real containers and answer on their addresses from this machine. With KWOK, nodes and pods by the
thousand are made believe.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import aiohttp

from loadtests.kubernetes.cluster import network
from loadtests.kubernetes.cluster.api import Api
from loadtests.kubernetes.cluster.audit import Asked, Audit
from loadtests.kubernetes.cluster.claims import Claim, claim
from loadtests.kubernetes.cluster.control_plane import ControlPlane
from loadtests.kubernetes.cluster.fake_nodes import FakeNodes
from loadtests.kubernetes.cluster.load_balancer import load_balancer_part
from loadtests.kubernetes.cluster.node import Node
from loadtests.kubernetes.cluster.part import Part
from loadtests.kubernetes.cluster.programs import dns, kwok, programs
from loadtests.made_once import run
from loadtests.waiting import HOST, until

_LOOPBACK_SERVICES = IPv4Network("10.200.0.0/16")
"""Where there are no nodes, no packet ever goes there."""


@dataclass(eq=False)
class Cluster:
    """One cluster; `folder` must be new or empty."""

    folder: Path
    nodes: int = 0
    """Real nodes: kubelet, containerd and kube-proxy each, in namespaces of their own."""
    gpus: int = 2
    """nvidia.com/gpu that each real node says it has."""
    kwok: bool = False
    audit: bool = True
    api_server_flags: Sequence[str] = ()
    """Words of the API server that go after ours."""
    controller_flags: Sequence[str] = ()
    """Words of the controllers that go after ours."""
    node: list[Node] = field(default_factory=list, init=False)
    """The real nodes, once started; the first is node-1."""
    fake: FakeNodes | None = field(default=None, init=False)
    """KWOK, once started."""

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()
        if self.nodes and any(self.folder.is_relative_to(hidden) for hidden in ("/run", "/var/lib", "/var/log")):
            raise ValueError(
                f"folder {self.folder}: nodes have a /run, /var/lib and /var/log of their own; choose another"
            )
        self._control: ControlPlane | None = None
        self._claim: Claim | None = None
        self._balancer: Part | None = None
        self._programs: Path | None = None
        self._dns: Path | None = None

    # ── start and stop ──

    async def start(self) -> None:
        """Build what is not built yet, start all, return when it works. Raises ClusterFailed or Unmade, with nothing left."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        self._programs = await programs()
        kwok_folder = await kwok() if self.kwok else None
        self._dns = await dns() if self.nodes else None
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / "kubectl").symlink_to(self._programs / "kubectl")
        services = _LOOPBACK_SERVICES
        address: Any = HOST
        if self.nodes:
            self._claim = await asyncio.to_thread(claim)
            services, address = self._claim.subnets.services, self._claim.subnets.machine
            network.create(self._claim.subnets)
        self._control = ControlPlane(
            self.folder, self._programs, address, services, audit=self.audit, api_server_flags=self.api_server_flags,
            controller_flags=self.controller_flags,
        )  # fmt: skip
        await self._control.start()
        async with asyncio.TaskGroup() as group:
            if kwok_folder:
                self.fake = FakeNodes(self.folder, kwok_folder, self.api)
                group.create_task(self.fake.start(), name="start KWOK")
            if self._claim:
                self._balancer = load_balancer_part(self.control, self._claim.subnets.load_balancers)
                group.create_task(self._balancer.start(), name="start the load balancer")
                for number in range(1, self.nodes + 1):
                    self.node.append(self._new_node(number))
                    group.create_task(self.node[-1].start(), name=f"start node {number}")

    def _new_node(self, number: int) -> Node:
        if self._programs is None or self._dns is None or self._claim is None:
            raise RuntimeError("a node needs a cluster")
        return Node(
            number, folder=self.folder, programs=self._programs, dns_programs=self._dns, control=self.control, claim=self._claim,
            nodes=self.nodes, gpus=self.gpus,
        )  # fmt: skip

    async def stop(self) -> None:
        """End everything and remove what only made sense while it ran; kubeconfig files and output stay in the folder."""
        try:
            for node in self.node:
                await node.kill()
            for part in (self._balancer, self.fake and self.fake.part):
                if part:
                    await part.kill()
            if self._control:
                await self._control.kill()
                self._control.remove_data()
        finally:
            held, self._claim = self._claim, None
            if held:
                held.release()  # not in a thread: what is cancelled must still be swept up

    # ── the ways in ──

    @property
    def control(self) -> ControlPlane:
        """etcd, API server, controllers, scheduler: to be killed, frozen and started again."""
        if self._control is None:
            raise RuntimeError("the cluster is not started")
        return self._control

    @property
    def api(self) -> Api:
        """The API server as its administrator sees it."""
        return self.control.api

    @property
    def server(self) -> str:
        """Address of the API server."""
        return self.control.server

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "admin.kubeconfig"

    @property
    def kubectl_program(self) -> Path:
        """A kubectl of the same version."""
        return self.folder / "kubectl"

    async def kubectl(self, *words: str) -> str:
        """What `kubectl words…` says, as the administrator. Raises Unmade with its words when it fails."""
        return await run(self.kubectl_program, f"--kubeconfig={self.kubeconfig}", *words, nice=False)

    @contextlib.asynccontextmanager
    async def namespace(self, prefix: str = "t", labels: Mapping[str, str] | None = None) -> AsyncIterator[str]:
        """A namespace of one's own, deleted afterwards with everything in it; see `delete_namespace`."""
        name = f"{prefix}-{uuid.uuid4().hex[:10]}"
        await self.api.post("/api/v1/namespaces", {"metadata": {"name": name, "labels": dict(labels or {})}})
        try:
            await self._until_usable(name)
            yield name
        finally:
            await self.delete_namespace(name)

    async def delete_namespace(self, name: str, *, deadline_seconds: float = 120) -> None:
        """Delete a namespace, and return when its pods are gone, at once and without any grace.

        The rest follows by itself, some five seconds later; nothing can be created in it meanwhile.
        """
        path = f"/api/v1/namespaces/{name}"
        async with asyncio.timeout(deadline_seconds):
            await self.api.delete(path)
            await self.api.delete(f"{path}/pods", gracePeriodSeconds="0")
            await until(functools.partial(self._empty, f"{path}/pods"), every_seconds=0.05)

    async def account(
        self, namespace: str, name: str, rules: Sequence[Mapping[str, Sequence[str]]], *, cluster_wide: bool = False
    ) -> Path:
        """Kubeconfig of a new service account that may do what RBAC `rules` say and nothing else.

        Cluster-wide rules are named after the namespace, and stay when it is deleted.
        """
        group, full = "/apis/rbac.authorization.k8s.io/v1", f"{namespace}-{name}" if cluster_wide else name
        scope, kind = (group, "ClusterRole") if cluster_wide else (f"{group}/namespaces/{namespace}", "Role")
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        await self.api.post(accounts, {"metadata": {"name": name}})
        await self.api.post(f"{scope}/{kind.lower()}s", {"metadata": {"name": full}, "rules": [dict(r) for r in rules]})
        binding = {
            "metadata": {"name": full},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": full},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }
        await self.api.post(f"{scope}/{kind.lower()}bindings", binding)
        issued = await self.api.post(f"{accounts}/{name}/token", {"spec": {"expirationSeconds": 24 * 3600}})
        path = self.folder / f"{namespace}-{name}.kubeconfig"
        credentials = {"token": issued["status"]["token"]}
        return self.control.authority.write_kubeconfig(path, self.server, name, credentials, namespace)

    # ── what happened, and what is made to happen ──

    @functools.cached_property
    def _audit(self) -> Audit:
        return Audit(self.control.audit_log)

    def requests(self) -> Counter[Asked]:
        """What the API server was asked since it started, by agent, user, verb, resource and status; over its restarts."""
        if not self.audit:
            raise RuntimeError("this cluster was started with audit=False")
        return self._audit.read()

    async def compact(self) -> int:
        """Forget etcd's history up to now; returns the revision.

        The API server still has recent changes in its own cache: a watch from an old resourceVersion fails with 410 for
        sure only when the API server was restarted as well.
        """
        base = f"{self.control.etcd_address}/v3/kv"
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            async with session.post(f"{base}/range", json={"key": "AA==", "limit": 1}) as response:
                revision = int((await response.json())["header"]["revision"])
            async with session.post(f"{base}/compaction", json={"revision": revision, "physical": True}) as response:
                await response.read()
        return revision

    async def _empty(self, path: str) -> bool:
        return not (await self.api.get(path))["items"]

    async def _until_usable(self, name: str) -> None:
        async with asyncio.timeout(120):  # controllers whose API server was away try again after up to half a minute
            await until(lambda: self.api.exists(f"/api/v1/namespaces/{name}/serviceaccounts/default"))
