"""How the shipper is doing, as every process of the machine can read it in the spool: the one row of the table `link`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from router.runtime import processes
from router.runtime.log.base import Health

CONNECTING = "connecting"
"""The shipper runs and has no answer from the broker yet, good or bad."""
CURRENT = "current"
"""The broker answers, and the copy of the compacted topics has reached what it held when the shipper connected."""
UNREACHABLE = "unreachable"
"""No broker answers, or no shipper runs."""
REFUSED = "refused"
"""A broker answers and does not let us; a person must change something first."""
STATES = (CURRENT, CONNECTING, UNREACHABLE, REFUSED)


def _self() -> tuple[int, int]:
    found = processes.identity(os.getpid())
    assert found is not None
    return found.pid, found.start_ticks


@dataclass(slots=True)
class Link:
    """What the shipper tells. One task changes it; it is written whole."""

    state: str = CONNECTING
    message: str = ""
    """What is wrong, in words, when something is."""
    process: tuple[int, int] = field(default_factory=_self)
    """Who says so: (pid, start_ticks) of `router.runtime.processes`."""
    copied_once: bool = False
    """Whether the copy of the compacted topics has been whole at least once in this spool."""
    shipped: Counter[str] = field(default_factory=Counter)
    """Topic → messages acknowledged by the broker since the shipper started."""
    shipped_bytes: int = 0
    copied: int = 0
    """Messages of other machines taken over into the copy."""
    folded: Counter[str] = field(default_factory=Counter)
    """Topic → messages that a full spool merged into others."""
    restarts: Counter[str] = field(default_factory=Counter)
    """State in which a producer was given up → how often."""
    foreign: int = 0
    """Records on our topics that are none of ours."""

    @property
    def alive(self) -> bool:
        """Whether the shipper that wrote this still runs."""
        return processes.alive(self.process)

    def encode(self) -> str:
        """JSON."""
        body = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return json.dumps(body, separators=(",", ":"), sort_keys=True)


def decode(body: str) -> Link:
    """Inverse of `encode`. Fields that a newer version added are left out."""
    found = json.loads(body)
    known = {one.name: found[one.name] for one in dataclasses.fields(Link) if one.name in found}
    for name in ("shipped", "folded", "restarts"):
        known[name] = Counter(known.get(name, {}))
    known["process"] = tuple(known["process"])
    return Link(**known)


def health_of(link: Link | None, gauges: Mapping[tuple[str, str], float]) -> Health:
    """How the way to the broker is doing, with `gauges` of the spool beside it. None: no shipper ever ran here."""
    if link is None:
        return Health(gauges=gauges, state=UNREACHABLE, message="no shipper has run in this data folder")
    counters: dict[tuple[str, str], float] = {
        ("log_shipped_bytes", ""): link.shipped_bytes,
        ("log_copied_messages", ""): link.copied,
        ("log_foreign_messages", ""): link.foreign,
    }
    for name, counts in (
        ("log_shipped_messages", link.shipped),
        ("log_producer_restarts", link.restarts),
        ("log_folded_messages", link.folded),
    ):
        counters |= {(name, label): count for label, count in counts.items()}
    state, message = (link.state, link.message) if link.alive else (UNREACHABLE, "no shipper runs")
    return Health(counters, gauges, state, message)
