"""One gateway worker and one mirror of ours, fed through an embedded log as they are in production."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from router.contract.codec import encode_replicas, encode_specs
from router.contract.events import (
    REPLICAS,
    SPECS,
    DeploymentReplicas,
    EndpointReplicas,
    EndpointRevision,
    Phase,
    Replica,
    ReplicaState,
)
from router.runtime.log.opening import open_log
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENDPOINT = "bench"
_CONCURRENCY = 1000


@contextlib.contextmanager
def _role(name: str, data: Path, cpu: int, *flags: str) -> Iterator[int]:
    """One role as a process on core `cpu`; yields its pid once it says that it is ready."""
    ready, says = os.pipe()
    command = ["taskset", "-c", str(cpu), sys.executable, "-m", "router.app", name]
    command += ["--data", str(data), "--ready-fd", str(says), *flags]
    with (data / f"{name}.log").open("wb") as output:
        process = subprocess.Popen(command, pass_fds=[says], stdout=output, stderr=output)
    os.close(says)
    try:
        if not os.read(ready, 16):
            raise RuntimeError(f"the {name} ended before it was ready: {(data / f'{name}.log').read_text()}")
        yield process.pid
    finally:
        os.close(ready)
        process.terminate()
        process.wait(60)


async def publish(data: DataLayout, models: Mapping[str, int], key: str) -> None:
    """One revision (90/10, 10 % mirrored) and one ready replica per deployment, as the other roles would say it."""
    documents = {
        name: {
            "name": name,
            "endpoint_name": ENDPOINT,
            "instance_type": "any",
            "instance_count": 1,
            "request_settings": {"max_concurrent_requests_per_instance": _CONCURRENCY, "request_timeout_ms": 30000},
            "tidegate": {"command": ["none"]},
        }
        for name in models
    }
    endpoint = {"name": ENDPOINT, "traffic": {"blue": 90, "green": 10}, "mirror_traffic": {"candidate": 10}}
    hashed = hashlib.sha256(key.encode()).hexdigest()
    revision = EndpointRevision(ENDPOINT, 1, 1, endpoint, documents, (hashed,))
    sets = {
        name: DeploymentReplicas(
            1, 1, Phase.READY, replicas=(Replica(f"{name}-1", "127.0.0.1", port, ReplicaState.READY, "t"),)
        )
        for name, port in models.items()
    }
    log = open_log(f"embedded:{data.log}")
    try:
        log.append(SPECS, ENDPOINT, encode_specs(revision))
        log.append(REPLICAS, ENDPOINT, encode_replicas(EndpointReplicas(ENDPOINT, 1, 1, 1, sets)))
        await log.flush()
    finally:
        await log.close()


@contextlib.contextmanager
def tidegate(data: DataLayout, port: int, *, gateway_cpu: int, other_cpu: int) -> Iterator[int]:
    """A mirror and one gateway worker on `port`; yields the worker's pid."""
    with (
        _role("mirror", data.root, other_cpu),
        _role("gateway", data.root, gateway_cpu, "--port", str(port), "--worker", "0", "--workers", "1") as worker,
    ):
        yield worker
