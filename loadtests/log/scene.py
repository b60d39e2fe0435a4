"""One machine as `tidegate up` makes it, without control plane and mirror: shipper, autoscaler and one gateway worker
as processes of their own, nginx as the model of the background load."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadtests.gateway.peers.nginx import model_body, nginx
from loadtests.gateway.peers.process import wait_for_port
from loadtests.kafka.probing import free_port
from loadtests.log.roles import role, running
from loadtests.log.scaler import QUICK
from loadtests.measure import cpu_seconds
from router.contract.codec import encode_specs
from router.contract.events import SPECS, EndpointRevision
from router.runtime.log.opening import open_log
from router.runtime.settings import DataLayout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

KEY = "0123456789abcdef0123456789abcdef"
BACKGROUND = "background"
DEPLOYMENT = "blue"
RATE = 5_000.0
"""Requests per second of the background load."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What runs."""

    data: DataLayout
    log: str
    gateway_port: int
    gateway: int
    """Process ids, here and below."""
    shipper: int
    autoscaler: int

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU that each role has used so far."""
        pids = {"gateway": self.gateway, "shipper": self.shipper, "autoscaler": self.autoscaler}
        return {name: cpu_seconds([pid]) for name, pid in pids.items()}

    def url(self, endpoint: str = BACKGROUND) -> str:
        """Where to POST."""
        return f"http://127.0.0.1:{self.gateway_port}/endpoints/{endpoint}/score"


def endpoint(name: str, backend: str, scale: dict[str, Any], concurrency: int) -> EndpointRevision:
    """An endpoint with one deployment under Azure's utilization rule."""
    hashed = hashlib.sha256(KEY.encode()).hexdigest()
    document = {
        "name": DEPLOYMENT,
        "endpoint_name": name,
        "type": "kubernetes",
        "instance_type": "any",
        "instance_count": scale["min_instances"],
        "scale_settings": {"type": "target_utilization", **scale},
        "request_settings": {
            "max_concurrent_requests_per_instance": concurrency,
            "request_timeout_ms": 30_000,
            "max_queue_wait_ms": 10_000,
        },
        "tidegate": {"backend": backend},
    }
    traffic = {"name": name, "traffic": {DEPLOYMENT: 100}}
    return EndpointRevision(name, 1, time.time_ns(), traffic, {DEPLOYMENT: document}, (hashed,))


@contextlib.asynccontextmanager
async def scene(
    folder: Path, url: str, endpoints: Sequence[EndpointRevision], *, slow_port: int, courier: bool
) -> AsyncIterator[Scene]:
    """Everything on the log `url`, with `endpoints` besides the background's; ready when the background is served.

    `courier`: whether the gateway also hands demand over directly, as it does in production; otherwise the log is the
    only way.
    """
    data = DataLayout(folder / "data")
    data.create()
    model, port = free_port(), free_port()
    scale = {"min_instances": 1, "max_instances": 1}
    async with contextlib.AsyncExitStack() as started:
        started.enter_context(nginx(folder / "model", model, model_body(model), 1))
        shipper = started.enter_context(role("shipper", data.root, url))
        await publish(url, data, [endpoint(BACKGROUND, QUICK, scale, 1000), *endpoints])
        words = ["--data", str(data.root), "--log", url, "--quick", str(model), "--slow", str(slow_port)]
        output = data.root / "autoscaler.log"
        autoscaler = started.enter_context(running("autoscaler", output, "loadtests.log.scaler", *words))
        flags = ["--port", str(port)] + ([] if courier else ["--autoscaler", "none"])
        gateway = started.enter_context(role("gateway", data.root, url, *flags))
        wait_for_port(port)
        here = Scene(data, url, port, gateway, shipper, autoscaler)
        async with asyncio.timeout(30):
            while not await answered(here, BACKGROUND):  # noqa: ASYNC110 -- nothing tells when another process gets that far
                await asyncio.sleep(0.05)
        yield here


async def publish(url: str, data: DataLayout, revisions: Sequence[EndpointRevision]) -> None:
    """What the control plane would write."""
    log = open_log(url, spool=data.spool, role="control")
    try:
        for revision in revisions:
            log.append(SPECS, revision.endpoint, encode_specs(revision))
        await log.flush()
    finally:
        await log.close()


def request(endpoint_name: str, body: bytes = b"{}") -> bytes:
    """One POST, ready to be written."""
    head = (
        f"POST /endpoints/{endpoint_name}/score HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def answered(here: Scene, endpoint_name: str) -> bool:
    """Whether one request gets a 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.gateway_port)
    try:
        writer.write(request(endpoint_name))
        return b" 200 " in await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
