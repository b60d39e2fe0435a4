"""A proxy as one would write it with aiohttp: key, split, a mirrored copy as a task, one log line a request, three counters."""

from __future__ import annotations

import argparse
import asyncio
import random
import ssl
import time
from pathlib import Path

import aiohttp
import uvloop
from aiohttp import web

from loadtests.gateway.peers.work import KEY, LIVE_PERCENT, MIRROR_PERCENT

_DROPPED = {"host", "authorization", "connection", "keep-alive", "transfer-encoding", "content-length"}
_SHADOWS_AT_ONCE = 1000


class Proxy:
    """One handler for everything."""

    def __init__(self, models: dict[str, str], log: Path, *, mirror: bool) -> None:
        self.models, self.mirror = models, mirror
        self.log = log.open("w", buffering=1 << 16)
        self.names, self.weights = list(LIVE_PERCENT), list(LIVE_PERCENT.values())
        self.shadows: set[asyncio.Task[None]] = set()
        self.counted = {"requests": 0, "failed": 0, "dropped": 0}

    async def session(self, app: web.Application) -> None:
        """Made inside the loop, as aiohttp asks for."""
        app["session"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        began = time.monotonic()
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return web.Response(status=401)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _DROPPED}
        body = await request.read()
        name = random.choices(self.names, self.weights)[0]
        session: aiohttp.ClientSession = request.app["session"]
        if self.mirror and random.random() * 100 < MIRROR_PERCENT:
            self._shadow(session, request, headers, body)
        url = self.models[name] + request.path_qs
        async with session.request(request.method, url, headers=headers, data=body) as answer:
            kept = {key: value for key, value in answer.headers.items() if key.lower() not in _DROPPED}
            response = web.Response(status=answer.status, headers=kept, body=await answer.read())
        self.counted["requests"] += 1
        self.log.write(f"{began:.6f} {name} {response.status} {len(body)} {time.monotonic() - began:.6f}\n")
        return response

    def _shadow(
        self, session: aiohttp.ClientSession, request: web.Request, headers: dict[str, str], body: bytes
    ) -> None:
        if len(self.shadows) >= _SHADOWS_AT_ONCE:
            self.counted["dropped"] += 1
            return
        url = self.models["candidate"] + request.path_qs
        task = asyncio.create_task(self._send(session, request.method, url, headers, body), name="shadow")
        self.shadows.add(task)
        task.add_done_callback(self.shadows.discard)

    async def _send(
        self, session: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> None:
        try:
            async with session.request(method, url, headers=headers, data=body) as answer:
                await answer.read()
        except aiohttp.ClientError:
            self.counted["failed"] += 1


def main() -> None:
    """`--port N --log FILE [--mirror] [--certificate FILE --key FILE] NAME=PORT …`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=PORT")
    options = parser.parse_args()
    models = {name: f"http://127.0.0.1:{port}" for name, port in (one.split("=") for one in options.models)}
    proxy = Proxy(models, options.log, mirror=options.mirror)
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.load_cert_chain(options.certificate, options.key)
    app = web.Application(client_max_size=64 << 20)
    app.on_startup.append(proxy.session)
    app.router.add_route("*", "/{tail:.*}", proxy.handle)
    uvloop.install()
    web.run_app(
        app, host="127.0.0.1", port=options.port, ssl_context=context, access_log=None, print=None, backlog=4096
    )


if __name__ == "__main__":
    main()
