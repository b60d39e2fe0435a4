"""The endpoints of the soak and the REST calls that change them; calls are repeated while the control plane is away."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import yaml

from loadtests.soak import sockets, sticky
from loadtests.soak.documents import REPLICAS, TRAFFIC, document
from loadtests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loadtests.tree import Tree

PATIENCE_SECONDS = 90.0
"""For whatever must come about; what takes longer is a failure."""
_POLL_SECONDS = 0.25
"""Between two looks: each is work for the control plane, and for us."""
_FRESH_SECONDS = 2.0
"""A worker whose newest report is older has ended, or has nothing to say."""


class TooLate(Exception):
    """Something did not come about in time."""


@dataclass(slots=True)
class Scene:
    """One tree with its endpoints."""

    tree: Tree
    session: aiohttp.ClientSession
    turn_seconds: float
    """How long the hostile shadow is hostile in one way."""
    keys: dict[str, str] = field(default_factory=dict)
    traffic: dict[str, dict[str, int]] = field(default_factory=dict)
    """Endpoint → weights as they were last asked for."""
    mirror: dict[str, float] = field(default_factory=dict)
    """Candidate of `mix` → fraction, as asked for last."""
    _asset: str = ""
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call, again while nobody is there to answer it. Raises RuntimeError for a refusal."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                url = self.tree.control_url + path
                async with self.session.request(method, url, json=body, headers=self.tree.login) as response:
                    text = await response.text()
                    if response.status < 400:
                        return json.loads(text)
                    if response.status != 503 or time.monotonic() > ends:
                        raise RuntimeError(f"{method} {path}: {response.status} {text}")
            except (aiohttp.ClientError, OSError) as error:
                if time.monotonic() > ends:
                    raise TooLate(f"{method} {path}: {error!r}") from None
            await asyncio.sleep(_POLL_SECONDS)

    async def until(
        self, what: str, ask: Any, seconds: float = PATIENCE_SECONDS, *, every_seconds: float = _POLL_SECONDS
    ) -> None:
        """Wait until `ask()` says yes. Raises `TooLate` naming `what`."""
        try:
            async with asyncio.timeout(seconds):
                await until(ask, every_seconds=every_seconds)
        except TimeoutError:
            raise TooLate(f"{what} did not come about within {seconds:g} s") from None

    async def build(self, folder: Path) -> None:
        """Every endpoint with every deployment, ready and with traffic."""
        for endpoint in REPLICAS:
            await self.call("PUT", f"/v1/endpoints/{endpoint}", self._endpoint(endpoint))
            self.keys[endpoint] = (await self.call("POST", f"/v1/endpoints/{endpoint}/keys/list", {}))["primaryKey"]
        first = folder / "first.yml"
        first.write_text(yaml.safe_dump(document("mix", "blue", self.turn_seconds)))
        await self.tree.run("online-deployment", "create", "-f", str(first))
        self._asset = (await self.call("GET", "/v1/endpoints/mix/deployments/blue"))["code_configuration"]["code"]
        every = [(endpoint, name) for endpoint, names in REPLICAS.items() for name in names]
        for endpoint, name in every:
            await self.deploy(endpoint, name)
        for endpoint, name in every:
            await self.ready(endpoint, name)
        for endpoint, weights in TRAFFIC.items():
            await self.weigh(endpoint, weights)

    def _endpoint(self, endpoint: str) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if endpoint == sticky.ENDPOINT:
            extras["stickiness"] = {"by": "cookie", "name": sticky.COOKIE}
        if endpoint == sockets.ENDPOINT:
            extras["websocket"] = {"ping_seconds": sockets.PING_SECONDS}
        if endpoint == "mix" and self.mirror:
            extras["mirror"] = [{"deployment": name, "fraction": share} for name, share in self.mirror.items() if share]
        told: dict[str, Any] = {"name": endpoint, "auth_mode": "key", "traffic": self.traffic.get(endpoint, {})}
        return told | ({"tidegate": extras} if extras else {})

    def lock(self, endpoint: str) -> asyncio.Lock:
        """Held by whoever changes the endpoint's document."""
        return self._locks.setdefault(endpoint, asyncio.Lock())

    async def weigh(self, endpoint: str, weights: Mapping[str, int]) -> int:
        """Change the weights; the revision that has them."""
        async with self.lock(endpoint):
            self.traffic[endpoint] = dict(weights)
            return await self._put(endpoint)

    async def mirrored(self, shares: Mapping[str, float]) -> int:
        """Change what `mix` mirrors; the revision that does."""
        async with self.lock("mix"):
            self.mirror = dict(shares)
            return await self._put("mix")

    async def _put(self, endpoint: str) -> int:
        told = await self.call("PUT", f"/v1/endpoints/{endpoint}", self._endpoint(endpoint))
        return int(told["revision"])

    async def deploy(self, endpoint: str, name: str, **changes: Any) -> None:
        """Create a deployment, or replace its document by the usual one with `changes`."""
        told = document(endpoint, name, self.turn_seconds)
        told["code_configuration"]["code"] = self._asset
        for key, value in changes.items():
            told[key] = {**told[key], **value} if isinstance(value, dict) else value
        await self.call("PUT", f"/v1/endpoints/{endpoint}/deployments/{name}", told)

    async def ready(self, endpoint: str, name: str) -> None:
        """Wait until the deployment is as its document wants it."""

        async def look() -> bool:
            told = await self.call("GET", f"/v1/endpoints/{endpoint}/deployments/{name}")
            counts: dict[str, int] = told["replicas"]
            whole: bool = counts["observed"] == counts["ready"] == counts["desired"]
            return whole and told["provisioning_state"] == "Succeeded"

        await self.until(f"{endpoint}/{name} ready", look)

    async def at_zero(self, endpoint: str, name: str) -> None:
        """Wait until the deployment has no replica."""

        async def look() -> bool:
            told = await self.call("GET", f"/v1/endpoints/{endpoint}/deployments/{name}")
            return not any(told["replicas"].values())

        await self.until(f"{endpoint}/{name} at zero", look)

    async def remove(self, endpoint: str, name: str) -> None:
        """Delete a deployment, and wait until nothing of it is left."""
        await self.call("DELETE", f"/v1/endpoints/{endpoint}/deployments/{name}")

        async def look() -> bool:
            told = await self.call("GET", f"/v1/endpoints/{endpoint}/deployments")
            return name not in [one["name"] for one in told["value"]]

        await self.until(f"{endpoint}/{name} gone", look)

    async def clear(self) -> None:
        """Delete everything, and wait until nothing of it is left."""
        for endpoint in REPLICAS:
            await self.call("DELETE", f"/v1/endpoints/{endpoint}")

        async def look() -> bool:
            return not (await self.call("GET", "/v1/endpoints"))["value"]

        await self.until("no endpoint left", look)

    async def is_routed_by(self, endpoint: str, revision: int, workers: int) -> bool:
        """Whether every gateway worker that has reported lately routes by this revision, and there are so many."""
        url = f"{self.tree.control_url}/v1/events/demand"
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with self.session.get(url, params={"tail": "300"}, headers=self.tree.login) as response:
                lines = (await response.text()).splitlines()
            newest: dict[str, int] = {}
            for line in lines:
                told = json.loads(line)
                event = told["event"]
                if told["key"] == endpoint and not event["shadow"] and _is_fresh(told["at"]):
                    newest[told["writer"]] = event["revision"]
            return len(newest) >= workers and min(newest.values()) >= revision
        return False


def _is_fresh(at: str) -> bool:
    return time.time() - dt.datetime.fromisoformat(at).timestamp() < _FRESH_SECONDS
