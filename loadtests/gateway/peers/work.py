"""What every proxy of a run is asked to do, said once, and where one listens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KEY = "0123456789abcdef0123456789abcdef"
ENDPOINT = "bench"
PATH = f"/endpoints/{ENDPOINT}/score"
"""Everybody is asked for the same address."""
LIVE_PERCENT = {"blue": 90, "green": 10}
MIRROR_PERCENT = 10
DEPLOYMENTS = ("blue", "green", "candidate")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Work:
    """Check the key, split 90/10, write an account of each request; mirror 10 % where `mirror` says so and the peer can."""

    models: Mapping[str, int]
    """Deployment → port on loopback."""
    mirror: bool = True
    tls: Pair | None = None
    streaming: bool = False
    """Pass bodies on as they come, both ways, instead of gathering them first."""
    concurrency: int = 1_000
    """Of one replica, where a proxy limits it."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A proxy that runs."""

    name: str
    port: int
    pids: tuple[int, ...]
    """What its figures count."""
    tls: bool = False
    beside: tuple[int, ...] = ()
    """Processes that do a part of the work elsewhere."""

    @property
    def url(self) -> str:
        """Where to POST."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}{PATH}"
