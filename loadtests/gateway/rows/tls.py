"""The work of `post` over TLS 1.3: CPU per request on kept-alive connections, and handshakes per core.

Everybody has the same ECDSA P-256 certificate, and nobody resumes a session.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.gateway.ground import OTHER_CORE, Ground, contenders, models
from loadtests.gateway.load.running import said
from loadtests.gateway.peers.roster import AIOHTTP, ENVOY, HAPROXY, MIRRORED_NGINX, NGINX, TRAEFIK
from loadtests.gateway.peers.work import PATH, Contender, Pair, Work
from loadtests.gateway.rows.compared import at_least, at_most
from loadtests.gateway.rows.post import WORK, micros_per_request
from loadtests.measure import cpu_seconds
from loadtests.scoreboard import Row

if TYPE_CHECKING:
    from collections.abc import Callable

_FLAG = "--tls-cert"
_AT_ONCE = 32
_POST = WORK.replace("keep-alive connections", "keep-alive connections over TLS 1.3")
_HANDSHAKES = "TLS 1.3 handshakes per second of the proxy's CPU, each with its connection and one request"


def rows(ground: Ground) -> list[Row]:
    """Two rows; without a figure where the gateway speaks no TLS."""
    if reason := lacking():
        goals = ((_POST, "µs", "≤ 1.2 × nginx+mirror"), (_HANDSHAKES, "/s", "≥ 0.8 × nginx+mirror"))
        return [Row(f"{work}. Not available: {reason}", unit, None, {}, None, goal, None) for work, unit, goal in goals]
    folder = ground.room("tls")
    names = ground.taking_part(MIRRORED_NGINX, NGINX, HAPROXY, ENVOY, TRAEFIK, AIOHTTP)
    with models(folder) as ports, contenders(folder, names, Work(ports, tls=pair(folder))) as running:
        posts: dict[str, Callable[[int], float]] = {}
        shakes: dict[str, Callable[[int], float]] = {}
        for name, one in running.items():
            posts[name], shakes[name] = partial(micros_per_request, one), partial(handshakes_per_core, one)
        made = at_most(_POST, "µs", ground.in_turns("tls", "µs", posts), MIRRORED_NGINX, 1.2)
        return made + at_least(_HANDSHAKES, "/s", ground.in_turns("handshakes", "/s", shakes), MIRRORED_NGINX, 0.8)


def lacking() -> str | None:
    """Why there is nothing to measure, in words; None when there is."""
    done = subprocess.run(
        [sys.executable, "-m", "router.app", "gateway", "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return None if _FLAG in done.stdout else f"`tidegate gateway` has no {_FLAG} yet"


def pair(folder: Path) -> Pair:
    """A certificate for loopback that vouches for itself."""
    made = Pair(folder / "server.crt", folder / "server.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", made.key, "-out", made.certificate],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return made


def handshakes_per_core(one: Contender, seconds: int) -> float:
    """Handshakes per second of CPU of the proxy's processes."""
    before = cpu_seconds(one.pids)
    words = ["--port", str(one.port), "--path", PATH, "--seconds", str(seconds), "--at-once", str(_AT_ONCE)]
    done = int(said("handshakes", *words, cpu=OTHER_CORE, deadline_seconds=seconds + 60)["handshakes"])
    return done / (cpu_seconds(one.pids) - before)
