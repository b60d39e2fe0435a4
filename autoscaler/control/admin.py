"""HTTP on a Unix socket of the data folder: `GET /logs` of a deployment, `GET /healthz`. For the control plane."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import web

from autoscaler.backends.base import Backend

DEFAULT_LINES = 500
MOST_LINES = 10_000

BackendOf = Callable[[str, str], Backend | None]
"""(endpoint, deployment) → the backend it runs on, None when there is no such deployment."""


def admin_app(backend_of: BackendOf) -> web.Application:
    """The routes."""

    async def logs(request: web.Request) -> web.Response:
        endpoint, deployment = request.query.get("endpoint", ""), request.query.get("deployment", "")
        text = request.query.get("lines", str(DEFAULT_LINES))
        if not text.isdecimal() or not 0 < int(text) <= MOST_LINES:
            return _error(400, "BadArgument", f"lines must be a number from 1 to {MOST_LINES}, not '{text}'")
        backend = backend_of(endpoint, deployment.lower())
        if backend is None:
            return _error(404, "ResourceNotFound", f"there is no deployment '{deployment}' of endpoint '{endpoint}'")
        content = await backend.logs(endpoint, deployment.lower(), int(text))
        return web.json_response({"content": content})

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_get("/logs", logs)
    app.router.add_get("/healthz", health)
    return app


@contextlib.asynccontextmanager
async def admin_site(socket: Path, backend_of: BackendOf) -> AsyncIterator[None]:
    """Serve the routes on `socket`, owner only, while inside. A socket left behind by a dead process is replaced."""
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket.unlink(missing_ok=True)  # the data folder is owned already, so nobody alive listens there
    runner = web.AppRunner(admin_app(backend_of), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(socket)).start()
        os.chmod(socket, 0o600)
        yield
    finally:
        await runner.cleanup()
        socket.unlink(missing_ok=True)


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
