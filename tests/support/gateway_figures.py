"""What a worker counts about itself, as Prometheus would read it."""

from __future__ import annotations

import asyncio
import json

from router.runtime.settings import GatewaySettings
from tests.support.gateway_rig import PATIENCE, Rig
from tests.support.gateway_upstream import Answer


async def figures(rig: Rig, name: str) -> dict[str, float]:
    """Series of one metric: labels as they are written, without the process → value."""
    return await figures_of(rig.settings, name)


async def figures_of(settings: GatewaySettings, name: str) -> dict[str, float]:
    """The same of any worker."""
    path = settings.data.vitals / f"gateway-{settings.worker}.sock"
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    text = (await asyncio.wait_for(reader.read(), PATIENCE)).decode()
    writer.close()
    found = {}
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name:
            labels = series.partition("{")[2].rstrip("}").split(",")
            found[",".join(one for one in labels if not one.startswith("process="))] = float(value)
    return found


async def refusals(rig: Rig) -> dict[str, float]:
    """Code → how often it was answered."""
    found = await figures(rig, "tidegate_gateway_refusals_total")
    return {labels.removeprefix('code="').removesuffix('"'): value for labels, value in found.items()}


def code(answer: Answer) -> str:
    """The code of a refusal."""
    found: str = json.loads(answer.body)["error"]["code"]
    return found
