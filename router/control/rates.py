"""Demand of one deployment as rates and quantiles over the last ten seconds. Pure: time is an argument.

Reports are summed into buckets of one second by the end of their window, so that memory is bounded whatever the
number of reporters. A gauge belongs to its reporter and is forgotten when the reporter falls silent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from router.contract.events import BUCKETS, DemandRow, bucket_seconds, quantile_seconds

WINDOW_SECONDS = 10
_SECOND = 1_000_000_000


@dataclass(slots=True)
class _Second:
    arrivals: int = 0
    failures: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * BUCKETS)


@dataclass(slots=True)
class Totals:
    """Counts since this process started to read; what Prometheus wants."""

    arrivals: int = 0
    completions: int = 0
    errors: int = 0
    rejected: int = 0
    tokens: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    wait: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def latency_sum_seconds(self) -> float:
        """Sum of the latencies, each counted with the geometric middle of its bucket: within 12 %."""
        return _sum_seconds(self.latency)

    def wait_sum_seconds(self) -> float:
        """The same of the waits; those of the first bucket, most of which did not wait at all, count as nothing."""
        return _sum_seconds([0, *self.wait[1:]])


def _sum_seconds(counts: list[int]) -> float:
    return sum(count * bucket_seconds(index) / math.sqrt(1.25) for index, count in enumerate(counts))


class Demand:
    """What is known of one deployment's live (or shadow) demand."""

    def __init__(self) -> None:
        self.totals = Totals()
        self._first_ns = self._newest_ns = 0
        self._seconds: dict[int, _Second] = {}
        self._gauges: dict[str, tuple[int, int, int]] = {}

    def fold(self, reporter: str, start_ns: int, end_ns: int, row: DemandRow) -> None:
        """Add one reporter's window."""
        self._first_ns = min(self._first_ns or start_ns, start_ns)
        second = self._seconds.setdefault(end_ns // _SECOND, _Second())
        second.arrivals += row.arrivals
        second.failures += row.errors + row.rejected
        for name in ("arrivals", "completions", "errors", "rejected", "tokens"):
            setattr(self.totals, name, getattr(self.totals, name) + getattr(row, name))
        for index, count in enumerate(row.latency):
            if count:
                second.latency[index] += count
                self.totals.latency[index] += count
        for index, count in enumerate(row.wait):
            self.totals.wait[index] += count
        known = self._gauges.get(reporter)
        if known is None or end_ns >= known[0]:  # what came directly may be newer than what the log brings now
            self._gauges[reporter] = (end_ns, row.in_flight, row.queued)
        self._newest_ns = max(self._newest_ns, end_ns)
        self._forget(self._newest_ns)

    def view(self, now_ns: int) -> View:
        """Rates per second over the window that ends now, gauges, and the latency histogram."""
        first = now_ns // _SECOND - WINDOW_SECONDS + 1
        recent = [one for second, one in self._seconds.items() if second >= first]
        # The current second has only begun: divide by the time that was really seen.
        seen = min(now_ns - first * _SECOND, max(now_ns - self._first_ns, _SECOND)) / _SECOND
        fresh = [gauge for gauge in self._gauges.values() if gauge[0] > now_ns - WINDOW_SECONDS * _SECOND]
        latency = [sum(column) for column in zip(*(one.latency for one in recent), strict=True)] or [0] * BUCKETS
        return View(
            sum(one.arrivals for one in recent) / seen,
            sum(one.failures for one in recent) / seen,
            sum(gauge[1] for gauge in fresh),
            sum(gauge[2] for gauge in fresh),
            tuple(latency),
        )

    def _forget(self, end_ns: int) -> None:
        oldest = end_ns // _SECOND - 2 * WINDOW_SECONDS
        if len(self._seconds) > 2 * WINDOW_SECONDS:
            self._seconds = {second: one for second, one in self._seconds.items() if second >= oldest}
        if len(self._gauges) > 64:
            self._gauges = {name: gauge for name, gauge in self._gauges.items() if gauge[0] >= oldest * _SECOND}


@dataclass(frozen=True, slots=True)
class View:
    """Demand at one moment."""

    requests_per_second: float
    errors_per_second: float
    """Failed by the model plus refused by the gateway."""
    in_flight: int
    queued: int
    latency: tuple[int, ...]
    """Histogram over `events.bucket_of`."""

    def quantile_ms(self, q: float) -> float | None:
        """The q-quantile of the latency in milliseconds; None when nothing was answered."""
        seconds = quantile_seconds(self.latency, q)
        return None if math.isnan(seconds) else round(seconds * 1000, 3)

    def plus(self, other: View) -> View:
        """Both together."""
        return View(
            self.requests_per_second + other.requests_per_second,
            self.errors_per_second + other.errors_per_second,
            self.in_flight + other.in_flight,
            self.queued + other.queued,
            tuple(a + b for a, b in zip(self.latency, other.latency, strict=True)),
        )
