"""The `tidegate:` sections of a deployment that say which replica takes a request."""

from __future__ import annotations

import re
from dataclasses import dataclass

from router.contract.rules import Pattern, field_rules, matching, ranged, refuse, rule

_FIELD = Pattern(re.compile(r"[A-Za-z0-9_.-]*"), "a key of the JSON body: letters, digits, _ . -", range(65))
PREFIX_BYTES = 256


@dataclass(frozen=True, slots=True)
class Hedging:
    """When a request that is slow to be answered is sent to a second replica too. Exactly one of the first two is said."""

    after_ms: float | None = ranged(1, 300_000, None)
    percentile: float | None = ranged(50, 100, None, open_high=True)
    """Of the times to the answer's head that the deployment had lately."""
    budget_percent: float = ranged(0, 100, 5, open_low=True)
    """Of the requests, that may be sent twice."""

    def __post_init__(self) -> None:
        one = (self.after_ms is None) != (self.percentile is None)
        refuse(rule(one, "after_ms", "either after_ms or percentile, exactly one of them"), *field_rules(self))


@dataclass(frozen=True, slots=True)
class Affinity:
    """Which part of a request brings it to the replica that had its like before."""

    by: str
    """`header`, `cookie`, `client` or `body`."""
    name: str = ""
    """The header's or cookie's name; empty otherwise."""
    json_field: str = matching(_FIELD, "")
    """With `body`: the key whose value tells requests apart; empty: the body's own first bytes do."""
    prefix_bytes: int | None = ranged(1, 16_384, None)
    """With `body`: how much of it is looked at; 256 where nothing is said."""
    bound: float = ranged(1, 100, 1.25, open_low=True)
    """No replica takes a request beyond this many times the mean of requests in flight, rounded up."""

    def __post_init__(self) -> None:
        known = self.by in ("header", "cookie", "client", "body")
        named = self.by in ("header", "cookie")
        needed = "the header's or cookie's name; none with client or body"
        only = "only with `by: body`"
        refuse(
            rule(known, "by", "one of header, cookie, client, body", self.by),
            rule(not known or named == (self.name != ""), "name", needed, self.name or None),
            rule(not known or self.by == "body" or not self.json_field, "json_field", only, self.json_field),
            rule(not known or self.by == "body" or self.prefix_bytes is None, "prefix_bytes", only, self.prefix_bytes),
            *field_rules(self),
        )
