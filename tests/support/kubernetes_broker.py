"""A broker on this machine that pods reach too."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

from loadtests.kafka.node import Broker, Membership
from loadtests.kubernetes.cluster.cluster import Cluster
from loadtests.waiting import HOST, free_port


def broker_for_pods(cluster: Cluster, folder: Path) -> tuple[Broker, str]:
    """(broker, not started yet; its address for pods): one more listener, where the API server listens as well."""
    machine = urlsplit(cluster.server).hostname
    ports: set[int] = set()
    while len(ports) < 3:
        ports.add(free_port())
    port, pods, controller = ports
    told = f"PLAINTEXT://{HOST}:{port},PODS://{machine}:{pods}"
    protocols = "PLAINTEXT:PLAINTEXT,PODS:PLAINTEXT,CONTROLLER:PLAINTEXT"
    listeners = {
        "listeners": f"{told},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": told,
        "listener.security.protocol.map": protocols,
    }
    return Broker(folder, port, listeners, membership=Membership(1, (controller,))), f"{machine}:{pods}"


@contextlib.asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[Broker]:
    """The broker, for as long as the body runs."""
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()
