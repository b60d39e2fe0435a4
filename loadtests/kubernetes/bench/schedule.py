"""Which deployment's count changes when: the same for everybody who is measured. Pure.

One after another goes up by one, at an even rate; after a rest they go down again in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from loadtests.kubernetes.bench.sizes import Sizes


@dataclass(frozen=True, slots=True)
class Change:
    """One deployment is to have another count."""

    at_seconds: float
    """After the beginning."""
    endpoint: str
    count: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """All changes; see the module."""

    endpoints: Sequence[str]
    """Whose count changes, in this order."""
    low: int
    per_second: float
    rest_seconds: float

    @classmethod
    def of(cls, names: Sequence[str], sizes: Sizes) -> Schedule:
        """Over the first of `names`, as many as `sizes` says."""
        return cls(names[: sizes.changed], sizes.replicas, sizes.decisions_per_second, sizes.rest_seconds)

    def __iter__(self) -> Iterator[Change]:
        again = self.down_seconds
        for start, count in ((0.0, self.low + 1), (again, self.low)):
            for number, name in enumerate(self.endpoints):
                yield Change(start + number / self.per_second, name, count)

    @property
    def down_seconds(self) -> float:
        """When the first goes down again."""
        return len(self.endpoints) / self.per_second + self.rest_seconds

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the second rest."""
        return 2 * self.down_seconds


@dataclass(slots=True)
class Played:
    """What became of a schedule; times in Unix nanoseconds."""

    asked: dict[tuple[str, int], int]
    """(endpoint, count) → when the change was asked for."""
    cpu_seconds: float
    """Of the API server, from the beginning until all was done, at least to the end of the second rest."""
    seconds: float
    """So long that was."""
    created: Mapping[str, int]
    """Endpoint → when its pod beyond those of before was seen."""
    deleted: int
    """Pods that went."""

    def asked_up(self, schedule: Schedule) -> dict[str, int]:
        """Endpoint → when one more was asked for."""
        return {name: self.asked[name, schedule.low + 1] for name in schedule.endpoints}


def milliseconds(since: Mapping[str, int], until: Mapping[str, int], endpoints: Collection[str]) -> tuple[float, float]:
    """(p50, p99) from one moment to the other, over those of `endpoints` that have both; not a number when none has."""
    waits = [(until[name] - since[name]) / 1e6 for name in endpoints if name in since and name in until]
    if not waits:
        return float("nan"), float("nan")
    p50, p99 = np.percentile(waits, (50, 99))
    return float(p50), float(p99)
