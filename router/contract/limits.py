"""What an endpoint lets its callers ask for, and who of them goes first: sections of its `tidegate:` part, each valid by itself."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from router.contract.errors import Problem
from router.contract.rules import Pattern, field_rules, matching, ranged, refuse, rule

MOST_CLASSES = 8
CLASS_PATTERN = re.compile("[a-z0-9](?:-?[a-z0-9])*")
CLASS_ALLOWED = "lower-case letters, digits and single dashes, at most 32"
CLASS_LENGTH = 32
_FIELD = Pattern(re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"), "the name of a header")


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


@dataclass(frozen=True, slots=True)
class Priorities:
    """Classes of requests, by a header. In a queue a higher one goes first; a full queue makes room for it."""

    header: str = matching(_FIELD)
    classes: tuple[str, ...] = ()
    """Highest first."""
    default: str | None = None
    """The class of requests without the header or with an unknown one; the lowest, by default."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        problems: list[Problem | None] = list(field_rules(self))
        several = 2 <= len(self.classes) <= MOST_CLASSES
        problems.append(rule(several, "classes", f"2 to {MOST_CLASSES} names, the highest first", list(self.classes)))
        for index, name in enumerate(self.classes):
            fits = len(name) <= CLASS_LENGTH and CLASS_PATTERN.fullmatch(name) is not None
            problems.append(rule(fits, f"classes.{index}", CLASS_ALLOWED, name))
            problems.append(rule(name not in self.classes[:index], f"classes.{index}", "every class once", name))
        known = self.default is None or self.default in self.classes
        problems.append(rule(known, "default", "one of the classes", self.default))
        refuse(*problems)

    def default_rank(self) -> int:
        """Place of the default class; 0 is the highest."""
        return len(self.classes) - 1 if self.default is None else self.classes.index(self.default)
