"""Several brokers that are one cluster, so that a leader can die: a quorum of combined brokers and controllers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.kafka.node import Broker, Membership
from loadtests.kafka.probing import free_port, leader, present, until

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(eq=False)
class Cluster:
    """`size` nodes under `folder`; node ids count from 1."""

    folder: Path
    size: int = 3
    properties: Mapping[str, str | int] = field(default_factory=dict)
    """Server properties of every node that go before ours."""
    heap_mb: int = 256

    def __post_init__(self) -> None:
        controllers = tuple(free_port() for _ in range(self.size))
        self.nodes = [
            Broker(
                self.folder / f"node-{node}",
                properties=self.properties,
                heap_mb=self.heap_mb,
                membership=Membership(node, controllers),
            )
            for node in range(1, self.size + 1)
        ]

    @property
    def servers(self) -> str:
        """Bootstrap addresses of all nodes, separated by commas."""
        return ",".join(node.servers for node in self.nodes)

    async def start(self, deadline_seconds: float = 180) -> None:
        """Start all nodes together; return when each sees all. Raises BrokerFailed or TimeoutError, with none running."""
        try:
            async with asyncio.timeout(deadline_seconds), asyncio.TaskGroup() as group:
                for node in self.nodes:
                    group.create_task(node.start(deadline_seconds), name=f"start node {node.membership.node}")
            async with asyncio.timeout(deadline_seconds):
                await until(self._all_present)
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """Stop one node after the other; the last has no quorum to say goodbye to, and is killed."""
        for node in self.nodes[:-1]:
            await node.stop()
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL for every node."""
        for node in self.nodes:
            await node.kill()

    async def _all_present(self) -> bool:
        return all([len(await present(node.port)) == self.size for node in self.nodes])

    async def leader_of(self, topic: str, partition: int, *, deadline_seconds: float = 60) -> Broker:
        """The running node that, as all running ones agree, leads a partition; waits for one. Raises TimeoutError."""
        found: list[Broker] = []

        async def led() -> bool:
            numbers = {await leader(node.port, topic, partition) for node in self.running()}
            found.extend(node for node in self.running() if numbers == {node.membership.node})
            return bool(found)

        async with asyncio.timeout(deadline_seconds):
            await until(led)
        return found[0]

    def running(self) -> list[Broker]:
        """The nodes whose process runs."""
        return [node for node in self.nodes if node.pid is not None]
