"""What an endpoint lets its callers ask for: a section of its `tidegate:` part, valid by itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from router.contract.rules import field_rules, ranged, refuse, rule


@dataclass(frozen=True, slots=True)
class Limits:
    """Of all callers of an endpoint together, over all gateway workers of one machine. What is not there is not limited."""

    requests_per_second: float | None = ranged(0.001, 1_000_000, None)
    burst: int | None = ranged(1, 1_000_000, None)
    """Requests that may come at once after a quiet time; what one second brings, by default."""
    concurrent_requests: int | None = ranged(1, 1_000_000, None)
    """In flight and queued, over all deployments."""
    max_body_bytes: int | None = ranged(0, 1 << 50, None)
    """Of one request; instead of the gateway's own limit."""

    def __post_init__(self) -> None:
        alone = self.burst is None or self.requests_per_second is not None
        refuse(*field_rules(self), rule(alone, "burst", "only with requests_per_second", self.burst))

    def burst_requests(self) -> int:
        """`burst`, or its default."""
        return self.burst or max(1, math.ceil(self.requests_per_second or 0))
