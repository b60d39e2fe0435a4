"""Which messages of one writer about one endpoint have been counted, when each may come by the log and directly.

The log brings them in order, some of them again. The direct way brings them soon, some not at all, some twice, and some
late. Bounded: when the log stays away for thousands of messages, the older half of what came directly is taken for
everything there was until then, so of those only what the direct way lost is lost, and nothing counts twice.
"""

from __future__ import annotations

import enum
from array import array
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field

MOST_DIRECT = 8192
"""Ids kept of messages that came directly and not yet by the log, per writer and endpoint: at ten reports a second,
a quarter of an hour."""


class Verdict(enum.Enum):
    """What a message is."""

    NEW = enum.auto()
    AGAIN = enum.auto()
    """It came the same way before."""
    ECHO = enum.auto()
    """It came the other way before."""


def _none() -> array[int]:
    return array("q")


@dataclass(slots=True)
class Ids:
    """The sequences that have been counted."""

    until: int = -1
    """By the log, or given up: everything up to and with this sequence counts as heard."""
    beyond: array[int] = field(default_factory=_none)
    """Sequences above `until` that came directly, ascending."""

    def logged(self, sequence: int) -> Verdict:
        """Note a message that came by the log."""
        if sequence <= self.until:
            return Verdict.AGAIN
        self.until = sequence
        if not self.beyond:
            return Verdict.NEW
        below = bisect_right(self.beyond, sequence)
        known = below > 0 and self.beyond[below - 1] == sequence
        del self.beyond[:below]
        return Verdict.ECHO if known else Verdict.NEW

    def direct(self, sequence: int) -> Verdict:
        """Note a message that was handed over past the log."""
        if sequence <= self.until:
            return Verdict.ECHO
        beyond = self.beyond
        at = bisect_left(beyond, sequence)
        if at < len(beyond) and beyond[at] == sequence:
            return Verdict.AGAIN
        insort(beyond, sequence)
        if len(beyond) > MOST_DIRECT:
            half = len(beyond) // 2
            self.until = beyond[half - 1]
            del beyond[:half]
        return Verdict.NEW
