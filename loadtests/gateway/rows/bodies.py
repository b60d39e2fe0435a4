"""Big requests: 220 KB of JSON, which nginx gathers in memory, and 5 MB uploads, which everybody passes on as they come."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from loadtests.gateway.ground import OTHER_CORE, Ground, contenders
from loadtests.gateway.peers.process import pinned
from loadtests.gateway.peers.roster import ENVOY, HAPROXY, NGINX
from loadtests.gateway.peers.work import DEPLOYMENTS, Contender, Work
from loadtests.gateway.rows.compared import at_least
from loadtests.gateway.rows.post import micros_per_request
from loadtests.waiting import free_port

if TYPE_CHECKING:
    from loadtests.scoreboard import Row

_JSON_BYTES, _JSON_CONNECTIONS = 220_000, 32
_UPLOAD_BYTES, _UPLOAD_CONNECTIONS = 5_000_000, 4


def rows(ground: Ground) -> list[Row]:
    """Two rows."""
    port, room = free_port(), ground.room("bodies")
    model = [sys.executable, "-m", "loadtests.gateway.load.body_model", "--port", str(port)]
    with pinned(model, room / "model", port, OTHER_CORE):
        work = Work(dict.fromkeys(DEPLOYMENTS, port), mirror=False)
        made = _row(ground, work, "220 KB JSON POST, 32 connections: requests", _JSON_BYTES, _JSON_CONNECTIONS)
        work = Work(dict.fromkeys(DEPLOYMENTS, port), mirror=False, streaming=True)
        return made + _row(ground, work, "5 MB uploads, 4 connections: MB", _UPLOAD_BYTES, _UPLOAD_CONNECTIONS)


def _row(ground: Ground, work: Work, text: str, size: int, connections: int) -> list[Row]:
    names = ground.taking_part(NGINX, HAPROXY, ENVOY)
    each = 1.0 if size < 1_000_000 else size / 1e6
    with contenders(ground.room("bodies"), names, work) as running:
        measures = {
            name: partial(_per_core, one, size=size, connections=connections, each=each)
            for name, one in running.items()
        }
        spreads = ground.in_turns(f"bodies of {size:,} bytes", "/s", measures)
    return at_least(f"{text} per second of the proxy's CPU, key, split 90/10, records", "/s", spreads, NGINX, 0.8)


def _per_core(one: Contender, seconds: int, *, size: int, connections: int, each: float) -> float:
    return each * 1e6 / micros_per_request(one, seconds, connections=connections, body_bytes=size)
