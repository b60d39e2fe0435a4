"""Memory and descriptors of every process of Tidegate, once a second; and whether they are flat.

A process that is replaced begins a new series. A leak is told from noise by the Theil–Sen slope (the median of the slopes of
all pairs of points: up to 29 % of them may be anything), over the second half of a series that is long enough.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from loadtests.soak.processes import Roles, keepers

if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY_SECONDS = 1.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MOST_POINTS = 150
"""Of a series, for the slope: pairs are many."""
LEAST_SECONDS = 240.0
"""A series must be that long before its second half says anything: until then caches fill, and allocators keep what peaks took."""
GROWTH_BYTES = 8 << 20
"""What a process may have grown by over the judged half, however long that is: the longer the soak, the sharper it looks. One
moment in which the machine stands still and everybody waits takes that much for good."""
HOLDS_BYTES = {"mirror": 64 << 20}
"""More for whom it is in the nature of their work: the mirror holds the bodies of shadows that wait for slow candidates, by its
settings up to 256 MiB of them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment."""

    at: float
    resident: int
    descriptors: int
    requests: int
    """That had been asked of the whole by then."""


@dataclass(frozen=True, slots=True)
class Trend:
    """Of one process over the second half of its life."""

    name: str
    pid: int
    seconds: float
    """Of its whole series."""
    first_bytes: float
    """Median of the first tenth of the half."""
    per_hour: float
    """Bytes."""
    per_million_requests: float
    """Bytes."""
    growth: float
    """Bytes over the judged half."""

    @property
    def flat(self) -> bool:
        """Whether it has not grown beyond noise."""
        return self.growth <= HOLDS_BYTES.get(self.name, GROWTH_BYTES)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil–Sen; 0 for less than two different places."""
    step = max(1, len(points) // _MOST_POINTS)
    some = points[::step]
    slopes = [(y2 - y1) / (x2 - x1) for index, (x1, y1) in enumerate(some) for x2, y2 in some[index + 1 :] if x2 != x1]
    return statistics.median(slopes) if slopes else 0.0


def trend(name: str, pid: int, series: Sequence[Sample]) -> Trend | None:
    """What the second half of a series says; None where it is too short."""
    length = series[-1].at - series[0].at
    if length < LEAST_SECONDS:
        return None
    half = [one for one in series if one.at >= series[0].at + length / 2]
    per_second = slope([(one.at, one.resident) for one in half])
    requests = half[-1].requests - half[0].requests
    growth = per_second * (half[-1].at - half[0].at)
    first = statistics.median(one.resident for one in half[: max(1, len(half) // 10)])
    return Trend(name, pid, length, first, per_second * 3600, growth / max(1, requests) * 1e6, growth)


@dataclass(slots=True)
class Vitals:
    """The samples of one soak."""

    roles: Roles
    others: Callable[[], Mapping[str, int]]
    """Processes that are no roles: name → pid."""
    requests: Callable[[], int]
    series: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    async def watch(self) -> None:
        """For ever, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_EVERY_SECONDS)

    def look(self) -> None:
        """One sample of everybody."""
        now = time.monotonic() - self.started
        processes = dict(self.others()) | {
            name: int(one["pid"] or 0) for name, one in self.roles.read().items() if one["ready"]
        }
        processes |= {f"keeper {pid}": pid for pid in keepers(self.roles.data)}
        for name, pid in processes.items():
            try:
                resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))
            except (OSError, IndexError):
                continue  # it has just ended
            self.series.setdefault((name, pid), []).append(Sample(now, resident, descriptors, self.requests()))

    def trends(self) -> list[Trend]:
        """Of every series that is long enough."""
        found = [trend(name, pid, one) for (name, pid), one in self.series.items()]
        return [one for one in found if one is not None]

    def newest(self) -> dict[tuple[str, int], Sample]:
        """Of each process, its last sample."""
        return {who: samples[-1] for who, samples in self.series.items()}

    def timeline(self, value: Callable[[Sample], float]) -> list[tuple[float, Mapping[str, int]]]:
        """(seconds, role → value), whatever process had the role; keepers as one, the largest."""
        found: list[tuple[float, Mapping[str, int]]] = []
        for (name, _), samples in self.series.items():
            label = "keepers, largest" if name.startswith("keeper") else name
            found += [(one.at, {label: round(value(one))}) for one in samples]
        return sorted(found, key=lambda pair: pair[0])


def descriptors(pid: int) -> dict[str, int]:
    """What a process has open, by what it is: each file by its path, sockets and pipes by their kind."""
    found: dict[str, int] = {}
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{entry}").replace(f"/proc/{pid}/", "/proc/self/")
        except OSError:
            continue
        kind = link.partition(":[")[0] if ":[" in link else link
        found[kind] = found.get(kind, 0) + 1
    return found
