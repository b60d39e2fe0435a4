"""What one gateway worker holds in memory before anybody asks it for anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtests.gateway.ground import OURS, contenders, models
from loadtests.gateway.peers.work import Work
from loadtests.measure import resident_bytes
from loadtests.scoreboard import Row

if TYPE_CHECKING:
    from loadtests.gateway.ground import Ground

_LIMIT_MB = 60


def rows(ground: Ground) -> list[Row]:
    """One row."""
    folder = ground.room("idle")
    with models(folder) as ports, contenders(folder, [], Work(ports)) as running:
        megabytes = resident_bytes(running[OURS].pids[0]) / 1e6
    work = "one idle gateway worker: resident memory"
    return [Row(work, "MB", megabytes, {}, None, f"< {_LIMIT_MB} MB", megabytes < _LIMIT_MB)]
