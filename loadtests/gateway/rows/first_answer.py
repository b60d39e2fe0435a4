"""How long after `tidegate up` the first request is answered, with the environments already built."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.scoreboard import Row
from loadtests.tree import tidegate_up

if TYPE_CHECKING:
    from loadtests.gateway.ground import Ground

_TOUR = Path(__file__).parents[3] / "docs" / "examples" / "tour"


async def _deploy(folder: Path) -> tuple[str, bytes]:
    """Build the tour's environment and leave its endpoint in the data folder; returns the key and a request."""
    example = folder / "tour"
    shutil.copytree(_TOUR, example)
    async with tidegate_up(folder / "data", log=folder / "first.log") as tree:
        await tree.run("online-endpoint", "create", "-n", "prices", "-f", "endpoint.yml", cwd=example)
        create = ("online-deployment", "create", "-n", "blue", "-e", "prices", "-f", "blue-deployment.yml")
        await tree.run(*create, "--all-traffic", cwd=example)
        keys = await tree.json("online-endpoint", "get-credentials", "-n", "prices")
    return keys["primaryKey"], (example / "sample-request.json").read_bytes()


def _ask(url: str, key: str, body: bytes) -> None:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/endpoints/prices/score", body, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        json.loads(response.read())


async def _measure(folder: Path) -> float:
    key, body = await _deploy(folder)
    started = time.monotonic()
    async with tidegate_up(folder / "data", log=folder / "second.log") as tree:
        await asyncio.to_thread(_ask, tree.gateway_url, key, body)
        return time.monotonic() - started


def rows(ground: Ground) -> list[Row]:
    """From the start of `tidegate up` on a data folder with one endpoint to its first 200."""
    seconds = asyncio.run(_measure(ground.room("first")))
    return [
        Row("tidegate up → first answered request, environment cached", "s", seconds, {}, None, "< 5 s", seconds < 5)
    ]
