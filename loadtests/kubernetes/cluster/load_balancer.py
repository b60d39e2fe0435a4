"""What a cloud does for services of type LoadBalancer: each gets an address, which leads to the nodes.

    python -m loadtests.kubernetes.cluster.load_balancer SERVER CA CERTIFICATE KEY BLOCK

Only addresses are given here; kube-proxy takes care of what arrives under them.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import aiohttp

from loadtests.kubernetes.cluster.api import Api, ApiFailed
from loadtests.kubernetes.cluster.control_plane import ControlPlane
from loadtests.kubernetes.cluster.part import Part

_log = logging.getLogger("load balancer")
_PAUSE_SECONDS = 0.5


class LoadBalancer:
    """Addresses of `block`, given to services one by one. A service keeps its address for life."""

    def __init__(self, api: Api, block: IPv4Network) -> None:
        self._api, self._block = api, block
        self._given: dict[str, str] = {}
        """uid → address."""

    async def run(self) -> None:
        """Give addresses until cancelled; an API server that is away is waited for."""
        while True:
            try:
                async for event in self._api.watch("/api/v1/services"):
                    await self._see(event["type"], event["object"])
            except (aiohttp.ClientError, ApiFailed, TimeoutError) as error:
                _log.warning("watching again: %s", error)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _see(self, kind: str, service: dict[str, Any]) -> None:
        meta = service.get("metadata", {})
        if kind == "DELETED":
            self._given.pop(meta["uid"], None)
        if kind not in {"ADDED", "MODIFIED"} or service["spec"].get("type") != "LoadBalancer":
            return
        has = [one.get("ip") for one in service["status"].get("loadBalancer", {}).get("ingress", ())]
        if has and has[0]:
            self._given[meta["uid"]] = has[0]
            return
        taken = set(self._given.values())
        address = self._given.get(meta["uid"]) or next(str(one) for one in self._block.hosts() if str(one) not in taken)
        self._given[meta["uid"]] = address
        path = f"/api/v1/namespaces/{meta['namespace']}/services/{meta['name']}/status"
        await self._api.patch(path, {"status": {"loadBalancer": {"ingress": [{"ip": address}]}}})
        _log.warning("%s/%s is at %s", meta["namespace"], meta["name"], address)


def load_balancer_part(control: ControlPlane, block: IPv4Network) -> Part:
    """The process that does this for a cluster."""
    api, output = control.api, control.folder / "log" / "load-balancer.log"
    words = [control.server, api.authority, *(api.certificate or ()), block]
    top = Path(__file__).parents[3]

    async def started() -> bool:
        return True  # nobody waits for it: a service gets its address a moment later

    command = [sys.executable, "-m", __spec__.name, *map(str, words)]
    return Part("load balancer", command, output, started, {"PYTHONPATH": str(top)})


def main() -> None:
    """The command line."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    server, authority, certificate, key, block = sys.argv[1:]
    api = Api(server, Path(authority), (Path(certificate), Path(key)))
    asyncio.run(LoadBalancer(api, IPv4Network(block)).run())


if __name__ == "__main__":
    main()
