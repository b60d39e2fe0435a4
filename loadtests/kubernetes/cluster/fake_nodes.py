"""Nodes that only say that they exist, by KWOK: pods on them are Ready at once and cost nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from loadtests.kubernetes.cluster.api import STRATEGIC, Api
from loadtests.kubernetes.cluster.part import Part
from loadtests.waiting import accepts, free_port, until

ANNOTATION = "kwok.x-k8s.io/node"
TAINT = {"key": ANNOTATION, "value": "fake", "effect": "NoSchedule"}
"""Of every fake node: only pods that tolerate it are made believe."""
TOLERATION = {"key": ANNOTATION, "operator": "Exists", "effect": "NoSchedule"}


class FakeNodes:
    """KWOK's controller, and the nodes it plays."""

    def __init__(self, folder: Path, programs: Path, api: Api) -> None:
        self._api, self._stages, port = api, sorted((programs / "stages").iterdir()), free_port()
        words = [
            str(programs / "kwok"), f"--kubeconfig={folder / 'admin.kubeconfig'}",
            *(f"--config={stage}" for stage in self._stages),
            f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake",
            f"--server-address=127.0.0.1:{port}", "--node-lease-duration-seconds=40",
        ]  # fmt: skip

        async def serves() -> bool:
            return await accepts(port)

        # A home of its own: settings of somebody who uses KWOK otherwise are not for us.
        self.part = Part("kwok", words, folder / "log" / "kwok.log", serves, {"HOME": str(folder)})

    async def start(self) -> None:
        """Start KWOK; it has no nodes yet."""
        await self.part.start()

    async def add(
        self, count: int, *, prefix: str = "fake", cpu: str = "32", memory: str = "256Gi", gpus: int = 8, pods: int = 500,
        labels: dict[str, str] | None = None, deadline_seconds: float = 300,
    ) -> list[str]:  # fmt: skip
        """Add nodes and wait until they are Ready; returns their names. They are spread over three zones."""
        resources = {"cpu": cpu, "memory": memory, "pods": str(pods), "nvidia.com/gpu": str(gpus)}
        names = [f"{prefix}-{number}" for number in range(1, count + 1)]
        for number, name in enumerate(names):
            where = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{number % 3 + 1}"}
            node = {
                "metadata": {"name": name, "annotations": {ANNOTATION: "fake"}, "labels": where | (labels or {})},
                "spec": {"taints": [TAINT]},
            }
            await self._api.post("/api/v1/nodes", node)
            status = {"status": {"capacity": resources, "allocatable": resources}}
            await self._api.patch(f"/api/v1/nodes/{name}/status", status, STRATEGIC)

        async def all_ready() -> bool:
            listed = (await self._api.get("/api/v1/nodes"))["items"]
            return {node["metadata"]["name"] for node in listed if _ready(node)} >= set(names)

        async with asyncio.timeout(deadline_seconds):
            await until(all_ready, every_seconds=0.2)
        return names

    async def remove(self, names: list[str]) -> None:
        """Take nodes away; their pods are lost with them."""
        for name in names:
            await self._api.delete(f"/api/v1/nodes/{name}")


def _ready(node: dict[str, Any]) -> bool:
    conditions = node["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
