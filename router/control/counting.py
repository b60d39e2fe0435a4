"""Which demand messages have been counted, when each may come by the log and directly. Pure."""

from __future__ import annotations

from autoscaler.policy.heard import Ids, Verdict

MOST = 16_384
"""Pairs of endpoint and writer; beyond it the one known longest is forgotten, most likely a dead process."""


class CountedOnce:
    """By (endpoint, writer): how far the log came, and what came directly beyond that."""

    def __init__(self) -> None:
        self.counted = {"log": 0, "direct": 0}
        """Way → messages that were new."""
        self._ids: dict[tuple[str, str], Ids] = {}

    def logged(self, endpoint: str, writer: str, sequence: int) -> bool:
        """Note a message that came by the log; whether it is new."""
        return self._new("log", self._of(endpoint, writer).logged(sequence))

    def direct(self, endpoint: str, writer: str, sequence: int) -> bool:
        """Note a message that came directly; whether it is new."""
        return self._new("direct", self._of(endpoint, writer).direct(sequence))

    def _new(self, way: str, verdict: Verdict) -> bool:
        self.counted[way] += verdict is Verdict.NEW
        return verdict is Verdict.NEW

    def _of(self, endpoint: str, writer: str) -> Ids:
        found = self._ids.get((endpoint, writer))
        if found is None:
            if len(self._ids) >= MOST:
                del self._ids[next(iter(self._ids))]
            found = self._ids[endpoint, writer] = Ids()
        return found
