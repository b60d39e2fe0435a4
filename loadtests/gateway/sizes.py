"""How big the bench is. Everything is a parameter, so that a small version can run in a minute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the goals are about, unless told otherwise."""

    repetitions: int = 3
    """Interleaved rounds; the first one, which only warms up, comes on top."""
    seconds: int = 3
    """Of each measurement; whole ones, as wrk takes them."""
