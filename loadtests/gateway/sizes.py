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
    streams: int = 1_000
    """Open SSE streams whose chunks are counted."""
    connections: int = 5_000
    """Held open to tell what one of them takes."""
    open_streams: int = 50_000
    """Held at once by one machine."""
    period_seconds: float = 10.0
    """Between two chunks of one of them."""
    endpoints: int = 10_000
    """In the snapshot, each with three deployments."""
    slices: int = 20
    """Of half a second, of each of the cases whose latencies are compared."""
