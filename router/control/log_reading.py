"""Asks the autoscaler for what replicas have written. Where several share the endpoints, the one that has the deployment."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

import aiohttp

from router.contract.errors import NotFound, Unavailable
from router.runtime.credentials import NONE, Credentials
from router.runtime.posting import Target, parse_target

LOG_SECONDS = 15.0
"""How long one autoscaler may take to read log files."""


class LogReading:
    """Reads the output of deployments through their autoscalers."""

    def __init__(self, autoscalers: Sequence[str], credentials: Credentials = NONE) -> None:
        """`autoscalers`: `unix:/path`, `http://host:port` or `https://host:port`. Raises `InvalidSpec`."""
        self._targets = [parse_target(one) for one in autoscalers]
        self._credentials = credentials

    async def last_lines(self, endpoint: str, deployment: str, lines: int) -> str:
        """The newest `lines` lines. Raises `NotFound` or `Unavailable`."""
        silent: Unavailable | None = None
        for target in self._targets:
            try:
                found = await self._ask(target, endpoint, deployment, lines)
            except Unavailable as error:
                silent = error
                continue
            if found is not None:
                return found
        if silent is not None:
            raise silent
        if not self._targets:
            raise Unavailable("nobody reads logs here: name the autoscaler with --autoscaler, and start again")
        raise NotFound(f"deployment {deployment} of endpoint {endpoint} has no logs yet")

    async def _ask(self, target: Target, endpoint: str, deployment: str, lines: int) -> str | None:
        query = {"endpoint": endpoint, "deployment": deployment, "lines": str(lines)}
        token = self._credentials.token
        headers = {"Authorization": f"Bearer {token}"} if token and not target.path else {}
        try:
            async with (
                aiohttp.ClientSession(
                    connector=self._connector(target), timeout=aiohttp.ClientTimeout(total=LOG_SECONDS)
                ) as session,
                session.get(f"{_base(target)}/logs", params=query, headers=headers) as response,
            ):
                return await _content(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            fix = "start it (`tidegate up` does) and try again"
            raise Unavailable(f"the autoscaler, which reads the logs, does not answer; {fix}") from error

    def _connector(self, target: Target) -> aiohttp.BaseConnector:
        if target.path:
            return aiohttp.UnixConnector(target.path)
        context: ssl.SSLContext | None = self._credentials.tls
        return aiohttp.TCPConnector(ssl=context) if context is not None else aiohttp.TCPConnector()


def _base(target: Target) -> str:
    if target.path:
        return "http://autoscaler"
    return f"{'https' if target.tls else 'http'}://{target.authority}"


async def _content(response: aiohttp.ClientResponse) -> str | None:
    """The lines; None when this autoscaler does not have the deployment."""
    if response.status == 404:
        return None
    if response.status == 401:
        raise Unavailable(
            "the autoscaler, which reads the logs, knows another token: name the same file in TIDEGATE_DEMAND_TOKEN_FILE "
            "for it and for the control plane"
        )
    if response.status != 200:
        raise Unavailable(f"the autoscaler, which reads the logs, answered {response.status}: try again")
    try:
        return str((await response.json(content_type=None))["content"])
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable("the autoscaler, which reads the logs, gave no usable answer: try again") from error
