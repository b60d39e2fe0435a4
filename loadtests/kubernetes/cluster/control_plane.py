"""etcd, API server, controllers and scheduler, with the words that each is started with.

Intervals that decide how long a lost node goes unnoticed are short: a test waits for them.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import yaml

from loadtests.kubernetes.cluster.api import Api, ApiFailed
from loadtests.kubernetes.cluster.authority import ADMINISTRATORS, Authority
from loadtests.kubernetes.cluster.part import Part
from loadtests.kubernetes.cluster.programs import ETCD
from loadtests.waiting import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from ipaddress import IPv4Address, IPv4Network

NODE_GRACE_SECONDS = 16
"""A node that was silent for so long is not ready."""
EVICTION_SECONDS = 5
"""After so long on a node that is not ready, pods go."""
# Enough for a fleet of thousands; the defaults would hold the controllers back before the API server is busy.
_QPS = 400
_AUDIT = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
          "rules": [{"level": "Metadata"}]}  # fmt: skip


@dataclass(eq=False)
class ControlPlane:
    """The four programs, with their data and credentials under `folder`."""

    folder: Path
    programs: Path
    """Where the programs are."""
    address: IPv4Address | str
    """What the API server listens on."""
    services: IPv4Network
    """Cluster addresses of services."""
    audit: bool = True
    """Note every request; see `Cluster.requests`."""
    api_server_flags: Sequence[str] = ()
    """Words of the API server that go after ours."""
    controller_flags: Sequence[str] = ()
    """Words of the controllers that go after ours."""
    _client_port: int = field(default_factory=free_port)
    _peer_port: int = field(default_factory=free_port)
    _port: int = field(default_factory=free_port)
    _scheduler_port: int = field(default_factory=free_port)
    _controllers_port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.authority = Authority(self.folder / "authority")
        self.etcd = self._part("etcd", ETCD, self._etcd_words(), self._etcd_ready)
        self.api_server = self._part("the API server", "kube-apiserver", self._api_words(), self._api_ready)
        self.controllers = self._part(
            "controller manager", "kube-controller-manager", self._controllers_words(), self._controllers_ready
        )
        self.scheduler = self._part("scheduler", "kube-scheduler", self._scheduler_words(), self._scheduler_ready)

    @property
    def server(self) -> str:
        """Address of the API server."""
        return f"https://{self.address}:{self._port}"

    @property
    def etcd_address(self) -> str:
        """Address of etcd, whose JSON gateway answers under /v3."""
        return f"http://{HOST}:{self._client_port}"

    @property
    def audit_log(self) -> Path:
        """One JSON object per request to the API server."""
        return self.folder / "log" / "audit.log"

    @property
    def api(self) -> Api:
        """The API server as its administrator sees it."""
        return Api(self.server, self.authority.certificate, self.authority.issue("admin", user=_ADMINISTRATOR, groups=(ADMINISTRATORS,)))  # fmt: skip

    async def start(self) -> None:
        """Start all; return when pods could be scheduled. Raises ClusterFailed, with nothing left running."""
        self._write_files()
        try:
            await self.etcd.start()
            await self.api_server.start()
            async with asyncio.TaskGroup() as group:
                group.create_task(self.controllers.start(), name="start the controllers")
                group.create_task(self.scheduler.start(), name="start the scheduler")
        except BaseException:
            await self.kill()
            raise

    async def kill(self) -> None:
        """SIGKILL for all: the machine did not crash, so what was written is kept."""
        for part in (self.scheduler, self.controllers, self.api_server, self.etcd):
            await part.kill()

    def remove_data(self) -> None:
        """Remove what etcd kept; it must not run."""
        data = self.folder / "etcd"
        if data.exists():
            shutil.rmtree(data)

    def _part(self, name: str, program: str, words: list[str], ready: Callable[[], Awaitable[bool]]) -> Part:
        output = self.folder / "log" / f"{program if program != ETCD else 'etcd'}.log"
        return Part(name, [str(self.programs / program), *words], output, ready)

    # ── what they are told ──

    def _etcd_words(self) -> list[str]:
        peer = f"http://{HOST}:{self._peer_port}"
        return [
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={self.etcd_address}", f"--advertise-client-urls={self.etcd_address}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync", "--log-level=warn", "--quota-backend-bytes=4294967296",
        ]  # fmt: skip

    def _api_words(self) -> list[str]:
        certificate, key = self._server_pair
        kubelet_certificate, kubelet_key = self.folder / "authority/admin.crt", self.folder / "authority/admin.key"
        words = [
            f"--etcd-servers={self.etcd_address}",
            "--etcd-compaction-interval=0",  # history goes when a test says so
            f"--bind-address={self.address}", f"--secure-port={self._port}",
            f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--kubelet-client-certificate={kubelet_certificate}", f"--kubelet-client-key={kubelet_key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self.authority.token_key.with_suffix('.pub')}",
            f"--service-account-signing-key-file={self.authority.token_key}",
            f"--service-cluster-ip-range={self.services}",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
            f"--default-not-ready-toleration-seconds={EVICTION_SECONDS}",
            f"--default-unreachable-toleration-seconds={EVICTION_SECONDS}",
        ]  # fmt: skip
        if self.audit:
            words += [f"--audit-policy-file={self.folder / 'audit.yaml'}", f"--audit-log-path={self.audit_log}"]
        return [*words, *self.api_server_flags]

    def _controllers_words(self) -> list[str]:
        kubeconfig = self.folder / "controllers.kubeconfig"
        return [
            *_same_kubeconfig(kubeconfig), *self._tls_words(self._controllers_port),
            f"--service-account-private-key-file={self.authority.token_key}", "--use-service-account-credentials",
            f"--root-ca-file={self.authority.certificate}",
            "--leader-elect=false", "--controllers=*,-nodeipam,-cloud-node-lifecycle-controller",
            f"--flex-volume-plugin-dir={self.folder / 'volume-plugins'}",
            "--node-monitor-period=1s", f"--node-monitor-grace-period={NODE_GRACE_SECONDS}s",
            f"--kube-api-qps={_QPS}", f"--kube-api-burst={2 * _QPS}", *self.controller_flags,
        ]  # fmt: skip

    def _scheduler_words(self) -> list[str]:
        kubeconfig = self.folder / "scheduler.kubeconfig"
        return [f"--config={self.folder / 'scheduler.yaml'}", *_same_kubeconfig(kubeconfig)[1:],
                *self._tls_words(self._scheduler_port)]  # fmt: skip

    def _tls_words(self, port: int) -> list[str]:
        certificate, key = self._server_pair
        return [f"--bind-address={HOST}", f"--secure-port={port}", f"--tls-cert-file={certificate}",
                f"--tls-private-key-file={key}"]  # fmt: skip

    @property
    def _server_pair(self) -> tuple[Path, Path]:
        return self.folder / "authority/server.crt", self.folder / "authority/server.key"

    def _write_files(self) -> None:
        (self.folder / "log").mkdir(parents=True, exist_ok=True, mode=0o700)
        self.authority.create()
        names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
                 "kubernetes.default.svc.cluster.local")  # fmt: skip
        hosts = (f"IP:{HOST}", f"IP:{self.address}", f"IP:{self.services[1]}", *(f"DNS:{name}" for name in names))
        self.authority.issue("server", user="kube-apiserver", hosts=tuple(dict.fromkeys(hosts)))
        issue = self.authority.kubeconfig
        issue(self.folder / "admin.kubeconfig", self.server, user=_ADMINISTRATOR, groups=(ADMINISTRATORS,))
        issue(self.folder / "controllers.kubeconfig", self.server, user="system:kube-controller-manager")
        issue(self.folder / "scheduler.kubeconfig", self.server, user="system:kube-scheduler")
        scheduler = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "clientConnection": {
                "kubeconfig": str(self.folder / "scheduler.kubeconfig"),
                "qps": _QPS,
                "burst": 2 * _QPS,
            },
            "leaderElection": {"leaderElect": False},
        }
        (self.folder / "scheduler.yaml").write_text(yaml.safe_dump(scheduler))
        (self.folder / "audit.yaml").write_text(yaml.safe_dump(_AUDIT))

    # ── whether they do their work ──

    async def _etcd_ready(self) -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.etcd_address}/health") as response:
                answer = await response.json(content_type=None)
                return bool(answer.get("health") == "true")
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _api_ready(self) -> bool:
        return await self.api.answers()

    async def _scheduler_ready(self) -> bool:
        return await Api(f"https://{HOST}:{self._scheduler_port}", self.authority.certificate).answers("/healthz")

    async def _controllers_ready(self) -> bool:
        if not await Api(f"https://{HOST}:{self._controllers_port}", self.authority.certificate).answers("/healthz"):
            return False
        try:  # the first that every namespace gets of them, and no pod starts without it
            return await self.api.exists("/api/v1/namespaces/default/serviceaccounts/default")
        except (aiohttp.ClientError, ApiFailed, TimeoutError):
            return False


_ADMINISTRATOR = "admin"


def _same_kubeconfig(path: Path) -> list[str]:
    return [f"--kubeconfig={path}", f"--authentication-kubeconfig={path}", f"--authorization-kubeconfig={path}"]
