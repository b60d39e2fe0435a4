"""Demand that was handed over directly, kept for a moment for whoever on this machine wants to see it too.

The control plane asks for what came after the place it has; bounded, so one that asks too seldom misses the oldest. Places
count up from the time of the start: they go on over a restart.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from router.contract.handover import REQUEST_BYTES, Handed, handed_bytes

KEPT_BYTES = 2 << 20
"""Half a minute of a hundred endpoints and a few gateways: the control plane asks twice a second."""


class Passing:
    """The newest messages, each with its place."""

    def __init__(self) -> None:
        self._kept: deque[Handed] = deque()
        self._bytes = 0
        self._end = time.time_ns()
        """Place behind the newest message."""

    def put(self, messages: Iterable[Handed]) -> None:
        """Keep these; the oldest go when there is no room."""
        for one in messages:
            self._kept.append(one)
            self._bytes += handed_bytes(one)
            self._end += 1
        while self._bytes > KEPT_BYTES:
            self._bytes -= handed_bytes(self._kept.popleft())

    def after(self, place: int) -> tuple[int, list[Handed]]:
        """(place to ask for next, messages from `place` on that fit into one answer)."""
        begin = self._end - len(self._kept)
        skipped = min(max(place - begin, 0), len(self._kept))
        found: list[Handed] = []
        size = 0
        for number in range(skipped, len(self._kept)):
            size += handed_bytes(self._kept[number])
            if size > REQUEST_BYTES // 2:
                return begin + number, found
            found.append(self._kept[number])
        return self._end, found
