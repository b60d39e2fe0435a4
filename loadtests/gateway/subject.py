"""Gateway workers and one mirror of ours, fed through an embedded log as they are in production."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

from loadtests.gateway.peers.process import wait_for_port
from loadtests.gateway.peers.work import DEPLOYMENTS, ENDPOINT, KEY, LIVE_PERCENT, MIRROR_PERCENT
from loadtests.log.roles import READY_SECONDS, role
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
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["ENDPOINT", "publish", "publish_all", "published", "tidegate", "workers"]

_CONCURRENCY = 1000
_MOST_OF_AZURE = 50
"""Percent; more is mirrored by a word of our own."""
Published = tuple[EndpointRevision, EndpointReplicas]


def published(
    name: str,
    models: Mapping[str, Sequence[int]],
    *,
    traffic: Mapping[str, int],
    mirror_traffic: Mapping[str, int],
    revision: int = 1,
    key: str = KEY,
    concurrency: int = _CONCURRENCY,
    wait_ms: int = 500,
) -> Published:
    """An endpoint as the other roles would say it: one ready replica per port of `models` (deployment → ports)."""
    documents: dict[str, dict[str, Any]] = {
        deployment: {
            "name": deployment,
            "endpoint_name": name,
            "instance_type": "any",
            "instance_count": len(ports),
            "request_settings": {
                "max_concurrent_requests_per_instance": concurrency,
                "request_timeout_ms": 60_000,
                "max_queue_wait_ms": wait_ms,
            },
            "tidegate": {"command": ["none"]},
        }
        for deployment, ports in models.items()
    }
    endpoint: dict[str, Any] = {"name": name, "traffic": dict(traffic)}
    if max(mirror_traffic.values(), default=0) > _MOST_OF_AZURE:
        targets = [{"deployment": one, "fraction": percent / 100} for one, percent in mirror_traffic.items()]
        endpoint["tidegate"] = {"mirror": targets}
    elif mirror_traffic:
        endpoint["mirror_traffic"] = dict(mirror_traffic)
    hashed = hashlib.sha256(key.encode()).hexdigest()
    sets = {
        deployment: DeploymentReplicas(
            len(ports),
            len(ports),
            Phase.READY,
            replicas=tuple(
                Replica(f"{deployment}-{number}", "127.0.0.1", port, ReplicaState.READY, "t")
                for number, port in enumerate(ports, 1)
            ),
        )
        for deployment, ports in models.items()
    }
    spec = EndpointRevision(name, revision, revision, endpoint, documents, (hashed,))
    return spec, EndpointReplicas(name, revision, 1, revision, sets)


def usual(
    models: Mapping[str, int], key: str = KEY, *, mirror: bool = True, concurrency: int = _CONCURRENCY
) -> Published:
    """The endpoint of most rows: 90/10 and, with `mirror`, 10 % mirrored to the candidate."""
    mirrored = {"candidate": MIRROR_PERCENT} if mirror else {}
    ports = {name: [models[name]] for name in DEPLOYMENTS}
    return published(
        ENDPOINT, ports, traffic=LIVE_PERCENT, mirror_traffic=mirrored, key=key, concurrency=concurrency
    )  # fmt: skip


async def publish_all(data: DataLayout, endpoints: Iterable[Published]) -> None:
    """Say all of them on the log of `data`."""
    log = open_log(f"embedded:{data.log}")
    try:
        for spec, replicas in endpoints:
            log.append(SPECS, spec.endpoint, encode_specs(spec))
            log.append(REPLICAS, spec.endpoint, encode_replicas(replicas))
        await log.flush()
    finally:
        await log.close()


async def publish(data: DataLayout, models: Mapping[str, int], key: str) -> None:
    """The usual endpoint alone."""
    await publish_all(data, [usual(models, key)])


@contextlib.contextmanager
def workers(
    data: DataLayout,
    port: int,
    cpus: Sequence[int | None],
    *,
    mirror: Sequence[str] | None,
    flags: Sequence[str] = (),
    ready_seconds: float = READY_SECONDS,
) -> Iterator[list[int]]:
    """One gateway worker on each of `cpus` (None: any core), all on `port`; yields their pids once they listen, and behind them
    that of the mirror.

    `mirror`: through which program the mirror runs (see `running`); None for no mirror.
    """
    url = f"embedded:{data.log}"
    with contextlib.ExitStack() as started:
        mirrors = []
        if mirror is not None:
            mirrors.append(
                started.enter_context(role("mirror", data.root, url, through=mirror, ready_seconds=ready_seconds))
            )
        pids = []
        for number, cpu in enumerate(cpus):
            words = ["--port", str(port), "--worker", str(number), "--workers", str(len(cpus)), *flags]
            one = role("gateway", data.root, url, *words, through=on_core(cpu), ready_seconds=ready_seconds)
            pids.append(started.enter_context(one))
        wait_for_port(port)
        yield [*pids, *mirrors]


@contextlib.contextmanager
def tidegate(data: DataLayout, port: int, *, gateway_cpu: int, other_cpu: int) -> Iterator[int]:
    """A mirror and one gateway worker on `port`; yields the worker's pid."""
    with workers(data, port, [gateway_cpu], mirror=on_core(other_cpu)) as pids:
        yield pids[0]


def on_core(cpu: int | None) -> list[str]:
    """What to run a program through so that it stays on core `cpu`."""
    return [] if cpu is None else ["taskset", "-c", str(cpu)]
