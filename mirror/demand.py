"""What shadows ask of one candidate, counted per window. Time is an argument: seconds of any steady clock."""

from __future__ import annotations

from router.contract.events import BUCKETS, DemandRow, bucket_of


class Meter:
    """One candidate's window; `row` reads and restarts it."""

    __slots__ = (
        "_busy", "_latency", "_since", "_wait", "arrivals", "candidate", "completions", "errors", "in_flight", "rejected",
    )  # fmt: skip

    def __init__(self, candidate: str) -> None:
        self.candidate = candidate
        self.in_flight = 0
        self.arrivals = 0
        self.completions = 0
        self.errors = 0
        self.rejected = 0
        self._busy = 0.0
        self._since = 0.0
        self._latency = [0] * BUCKETS
        self._wait = [0] * BUCKETS

    def arrived(self) -> None:
        """A shadow is ready to be sent."""
        self.arrivals += 1

    def rejected_one(self) -> None:
        """A shadow was refused or gave up waiting."""
        self.rejected += 1

    def started(self, now: float, wait_seconds: float) -> None:
        """A shadow goes to a replica."""
        self._account(now)
        self.in_flight += 1
        self._wait[bucket_of(wait_seconds)] += 1

    def ended(self, now: float, latency_seconds: float, *, failed: bool, completed: bool = True) -> None:
        """A started shadow ended; `completed` is false when it was called off."""
        self._account(now)
        self.in_flight -= 1
        if completed:
            self.completions += 1
            self.errors += int(failed)
            self._latency[bucket_of(latency_seconds)] += 1

    def active(self) -> bool:
        """Whether the window has anything to tell."""
        return bool(self.in_flight or self.arrivals or self.completions or self.rejected)

    def row(self, now: float, queued: int, oldest_wait_seconds: float) -> DemandRow:
        """The window until `now`; the next one starts."""
        self._account(now)
        row = DemandRow(
            self.candidate,
            shadow=True,
            arrivals=self.arrivals,
            completions=self.completions,
            errors=self.errors,
            rejected=self.rejected,
            in_flight=self.in_flight,
            queued=queued,
            oldest_wait_seconds=oldest_wait_seconds,
            busy_seconds=self._busy,
            latency=tuple(self._latency) if self.completions else (),
            wait=tuple(self._wait) if any(self._wait) else (),
        )
        self.arrivals = self.completions = self.errors = self.rejected = 0
        self._busy = 0.0
        self._latency, self._wait = [0] * BUCKETS, [0] * BUCKETS
        return row

    def _account(self, now: float) -> None:
        self._busy += self.in_flight * max(0.0, now - self._since)
        self._since = now
