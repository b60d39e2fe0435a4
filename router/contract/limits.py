"""What an endpoint lets its callers ask for: a section of its `tidegate:` part, valid by itself."""

from __future__ import annotations

from dataclasses import dataclass

from router.contract.rules import field_rules, ranged, refuse


@dataclass(frozen=True, slots=True)
class Limits:
    """Of all callers of an endpoint together, over all gateway workers of one machine. What is not there is not limited."""

    max_body_bytes: int | None = ranged(0, 1 << 50, None)
    """Of one request; instead of the gateway's own limit."""

    def __post_init__(self) -> None:
        refuse(*field_rules(self))
