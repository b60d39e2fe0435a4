"""A real node of the cluster: containerd, kubelet, kube-proxy and CoreDNS, in namespaces whose end is the end of all of it.

Mounts, processes, addresses and firewall rules of the node are those of its namespaces. When their first process dies,
and it dies with whoever started the cluster, the kernel ends every container and undoes every mount and rule. Folders that
programs insist on (`/run`, `/var/lib`, `/var/log`) are the node's own there, and so are settings of the kernel that the
kubelet would change for the whole machine.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from loadtests.kubernetes.cluster import network, node_files
from loadtests.kubernetes.cluster.api import STRATEGIC, ApiFailed
from loadtests.kubernetes.cluster.claims import make_cgroups, remove_cgroups
from loadtests.kubernetes.cluster.part import Part
from loadtests.made_once import run
from loadtests.waiting import until
from router.runtime.processes import descendants

if TYPE_CHECKING:
    from loadtests.kubernetes.cluster.claims import Claim
    from loadtests.kubernetes.cluster.control_plane import ControlPlane

_NAMESPACES = ["--mount", "--net", "--pid"]
GPU = "nvidia.com/gpu"


class Node:
    """node-`number` of a cluster of `nodes`, with everything it keeps under `folder`/node-`number`."""

    def __init__(
        self,
        number: int,
        *,
        folder: Path,
        programs: Path,
        dns_programs: Path,
        control: ControlPlane,
        claim: Claim,
        nodes: int,
        gpus: int,
    ) -> None:
        self.number, self.name, self.gpus = number, f"node-{number}", gpus
        self.folder = folder / self.name
        self._nodes, self._control, self._claim = nodes, control, claim
        self._programs, self._dns_programs = programs, dns_programs
        self._output = folder / "log"
        pause = str(programs / "pause")
        unshare = ["unshare", *_NAMESPACES, "--fork", "--kill-child=KILL", "--mount-proc", "--propagation", "private"]
        self._first = Part("first process", [*unshare, "--", pause], self._log("first"), self._has_first)
        self._init: int | None = None
        self._made()

    def _made(self) -> None:
        """The parts, whose words need the number of the first process."""
        self.containerd = self._part(
            "containerd", ["containerd", f"--config={self.folder}/containerd.toml"], self._serves
        )
        kubelet = [
            str(self._programs / "kubelet"), f"--config={self.folder}/kubelet.yaml",
            f"--kubeconfig={self.folder}/kubelet.kubeconfig", f"--hostname-override={self.name}",
            f"--node-ip={self.address}", f"--node-labels=topology.kubernetes.io/zone=zone-{self.number}",
        ]  # fmt: skip
        self.kubelet = self._part("kubelet", kubelet, self.is_ready)
        proxy = [str(self._programs / "kube-proxy"), f"--config={self.folder}/kube-proxy.yaml"]
        self.proxy = self._part("kube-proxy", proxy, self._proxies)
        words = [str(self._dns_programs / "dns"), "-conf", f"{self.folder}/Corefile"]
        self.dns = self._part("dns", words, self._resolves)

    @property
    def address(self) -> str:
        """The node's own address, which this machine reaches."""
        return str(self._claim.subnets.node(self.number))

    async def start(self) -> None:
        """Start all; return when the node is Ready and pods can run. Raises ClusterFailed."""
        self._claim.add_folder(self.folder)
        self.folder.mkdir(mode=0o700)
        node_files.write(self.folder, self.name, self.address, self._claim.subnets.pods(self.number), self._cgroup)
        authority = self._control.authority
        authority.kubeconfig(
            self.folder / "kubelet.kubeconfig", self._control.server, certificate=self.name,
            user=f"system:node:{self.name}", groups=("system:nodes",),
        )  # fmt: skip
        authority.kubeconfig(
            self.folder / "kube-proxy.kubeconfig", self._control.server, certificate=f"{self.name}-proxy",
            user="system:kube-proxy",
        )  # fmt: skip
        make_cgroups(self._cgroup[1:])
        await self._first.start()
        self._claim.add_process(self._first_pid)
        network.connect(self._claim.subnets, self.number, self._nodes, self._first_pid)
        self._made()
        await self.run("sh", "-eu", str(self.folder / "mounts.sh"))
        await self.containerd.start()
        await self.import_image(node_files.pause_archive(self.folder, self._programs / "pause"))
        async with asyncio.TaskGroup() as group:
            group.create_task(self.proxy.start(), name="start kube-proxy")
            group.create_task(self.dns.start(), name="start CoreDNS")
            group.create_task(self._start_kubelet(), name="start kubelet")

    async def _start_kubelet(self) -> None:
        await self.kubelet.start()
        await self.advertise({GPU: str(self.gpus)})

    async def kill(self) -> None:
        """End the node and everything on it at once, as if its plug were pulled, and remove what it kept.

        Started again it comes back under its name, without pods and images.
        """
        await self._first.kill()
        self._init = None
        for part in (self.kubelet, self.dns, self.proxy, self.containerd):
            await part.kill()
        remove_cgroups(self._cgroup[1:])
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def cut_off(self) -> None:
        """Cut the node's wire: it runs on, and nobody hears of it."""
        network.cut(self._claim.subnets, self.number)

    def rejoin(self) -> None:
        """Mend the node's wire."""
        network.mend(self._claim.subnets, self.number)

    async def advertise(self, resources: dict[str, str]) -> None:
        """Let the node say that it has these, such as {"nvidia.com/gpu": "2"}: what it has not got counts all the same."""
        status = {"status": {"capacity": resources, "allocatable": resources}}
        await self._control.api.patch(f"/api/v1/nodes/{self.name}/status", status, STRATEGIC)

    async def import_image(self, archive: Path) -> None:
        """Give the node the images of an OCI or Docker archive."""
        await self.run("ctr", "--namespace=k8s.io", "images", "import", str(archive))

    async def images(self) -> list[str]:
        """Names of the images that the node has."""
        said = await self.run("ctr", "--namespace=k8s.io", "images", "list", "--quiet")
        return said.split()

    async def run(self, *command: str) -> str:
        """Run a program inside the node's namespaces; returns what it said. Raises Unmade with its words when it fails."""
        return await run(*self._inside(), *command, nice=False)

    async def is_ready(self) -> bool:
        """Whether the node says Ready and the API server knows."""
        try:
            node = await self._control.api.get(f"/api/v1/nodes/{self.name}")
        except (aiohttp.ClientError, ApiFailed, TimeoutError):
            return False
        conditions: list[dict[str, Any]] = node["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    async def until_ready(self, ready: bool = True, deadline_seconds: float = 120) -> None:
        """Return when the API server knows the node as Ready, or as not. Raises TimeoutError."""

        async def so() -> bool:
            return await self.is_ready() is ready

        async with asyncio.timeout(deadline_seconds):
            await until(so, every_seconds=0.1)

    @property
    def pids(self) -> list[int]:
        """Running processes of the node that its first one is an ancestor of, containers' included."""
        return [] if self._first.pid is None else descendants(self._first.pid)

    # ── its namespaces ──

    @property
    def _cgroup(self) -> str:
        return f"/{self._claim.cgroup}/{self.name}"

    @property
    def _first_pid(self) -> int:
        if self._init is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._init

    def _inside(self) -> list[str]:
        target = "0" if self._init is None else str(self._init)
        return ["nsenter", "--target", target, *_NAMESPACES, "--"]

    def _part(self, program: str, words: list[str], ready: Any) -> Part:
        return Part(f"{program} of {self.name}", [*self._inside(), *words], self._log(program), ready)

    def _log(self, program: str) -> Path:
        return self._output / f"{self.name}-{program}.log"

    async def _has_first(self) -> bool:
        pid = self._first.pid
        children = descendants(pid) if pid else []
        # After the exec, which comes after the mounts.
        if children and os.path.basename(os.readlink(f"/proc/{children[0]}/exe")) == "pause":
            self._init = children[0]
        return self._init is not None

    async def _serves(self) -> bool:
        asked = await asyncio.create_subprocess_exec(
            *self._inside(), "ctr", "version", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return await asked.wait() == 0

    async def _proxies(self) -> bool:
        return await _healthy(f"http://{self.address}:10256/healthz")

    async def _resolves(self) -> bool:
        return await _healthy(f"http://{self.address}:8181/ready")


async def _healthy(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
