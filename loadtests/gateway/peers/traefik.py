"""Traefik as a peer: the key as a condition of the router, a mirroring service over a weighted one, access log and metrics.

It runs on one core (GOMAXPROCS=1). A mirrored request is held in memory and leaves after the live one was answered.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import json
import ssl
import time
from typing import TYPE_CHECKING, Any

from loadtests.gateway.peers.process import READY_SECONDS, pinned
from loadtests.gateway.peers.work import KEY, LIVE_PERCENT, MIRROR_PERCENT, Work
from loadtests.waiting import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def static(folder: Path, port: int) -> dict[str, Any]:
    """What Traefik reads at its start. It is told to report to nobody."""
    return {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "ERROR"},
        "entryPoints": {"callers": {"address": f"127.0.0.1:{port}"}},
        "accessLog": {"filePath": str(folder / "events.log"), "bufferingSize": 1000},
        "metrics": {"prometheus": {"entryPoint": "callers", "manualRouting": True}},
        "providers": {"file": {"filename": str(folder / "routes.yml"), "watch": False}},
    }


def routes(work: Work) -> dict[str, Any]:
    """Its routing."""
    services: dict[str, Any] = {
        name: {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{port}"}]}} for name, port in work.models.items()
    }
    services["live"] = {
        "weighted": {"services": [{"name": name, "weight": weight} for name, weight in LIVE_PERCENT.items()]}
    }
    mirrors = [{"name": "candidate", "percent": MIRROR_PERCENT}]
    services["mirrored"] = {"mirroring": {"service": "live", "mirrors": mirrors}}
    router: dict[str, Any] = {
        "rule": f"PathPrefix(`/`) && Header(`Authorization`, `Bearer {KEY}`)",
        "service": "mirrored" if work.mirror else "live",
        "middlewares": ["bare"],
    }
    document: dict[str, Any] = {
        "http": {
            "routers": {"all": router},
            "services": services,
            "middlewares": {"bare": {"headers": {"customRequestHeaders": {"Authorization": ""}}}},
        }
    }
    if work.tls:
        router["tls"] = {}
        pair = {"certFile": str(work.tls.certificate), "keyFile": str(work.tls.key)}
        strict = {"minVersion": "VersionTLS13", "disableSessionTickets": True}
        document["tls"] = {"stores": {"default": {"defaultCertificate": pair}}, "options": {"default": strict}}
    return document


@contextlib.contextmanager
def traefik(program: Path, folder: Path, port: int, work: Work, cpu: int) -> Iterator[list[int]]:
    """`program` on core `cpu`."""
    folder.mkdir(parents=True, exist_ok=True)
    # JSON is YAML.
    (folder / "traefik.yml").write_text(json.dumps(static(folder, port)))
    (folder / "routes.yml").write_text(json.dumps(routes(work)))
    command = [str(program), f"--configFile={folder / 'traefik.yml'}"]
    with pinned(command, folder, port, cpu, {"GOMAXPROCS": "1"}) as pid:
        _wait_for_routes(port, tls=work.tls is not None)
        yield [pid]


def _wait_for_routes(port: int, *, tls: bool) -> None:
    """It listens before it has read its routes, and knows nobody until then."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # without routes it has no certificate either
            if _status(port, tls=tls) != http.HTTPStatus.NOT_FOUND:
                return
        time.sleep(0.02)
    raise TimeoutError(f"Traefik on port {port} has no routes after {READY_SECONDS:g} s")


def _status(port: int, *, tls: bool) -> int:
    connection = (
        http.client.HTTPSConnection(HOST, port, timeout=10, context=ssl._create_unverified_context())
        if tls
        else http.client.HTTPConnection(HOST, port, timeout=10)
    )
    with contextlib.closing(connection):
        connection.request("GET", "/", headers={"Authorization": f"Bearer {KEY}"})
        return connection.getresponse().status
