"""Every finished request, counted per deployment from the packed records of `requests`. Pure.

Messages are only noted when they come and counted together, as arrays, once there are many or somebody asks: a
message of one record costs little more than its bytes, and one of thousands a few nanoseconds per record.
Messages of counts, which a full spool made of records, are counted with what they still know.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from router.contract.codec import decode_counts, is_counts, split_requests
from router.contract.events import Outcome, RequestCounts
from router.runtime.log.request_arrays import Table, table_of

Target = tuple[str, str]
"""(endpoint, deployment); an empty deployment for what was refused before one was chosen."""

OUTCOMES = (*(outcome.name.lower() for outcome in Outcome), "other")
"""Names of the counts by outcome. `other`: failures of which a fold no longer knows the kind, or this version never did."""
STATUSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx", "other")
"""The same by status class. `none`: the caller left before; `other`: no HTTP status, or a fold no longer knows it."""
_OTHER_OUTCOME = len(OUTCOMES) - 1
_OTHER_STATUS = len(STATUSES) - 1
_MOST = 2**53
SETTLE_BYTES = 4 << 20
"""Noted and not counted yet: bounds the memory and the time of one count to some milliseconds."""
SETTLE_MESSAGES = 2048
"""The same when they are small."""


class Sums(enum.IntEnum):
    """Columns of the sums; the two times miss what came folded as far as counts do not hold them."""

    REQUEST_BYTES = 0
    RESPONSE_BYTES = 1
    WAIT_US = 2
    TOTAL_US = 3


_SUMMED = ("request_bytes", "response_bytes", "wait_us", "total_us")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What finished on one deployment since this process started to read."""

    requests: int
    by_outcome: dict[str, int]
    """Every one of `OUTCOMES`."""
    by_status: dict[str, int]
    """Every one of `STATUSES`."""
    request_bytes: int
    response_bytes: int
    wait_seconds: float
    """Sum over the requests whose records came whole: `requests - folded`."""
    total_seconds: float
    """Sum over all requests, arrival → last response byte."""
    folded: int
    """Requests of which only counts came."""


class _Noted(NamedTuple):
    endpoint: str
    names: list[str]
    records: memoryview


class TrafficCounts:
    """The counts of many deployments. Structure of arrays: one row per deployment."""

    def __init__(self, most_targets: int) -> None:
        """Of more deployments than `most_targets` nothing is counted, so that memory is bounded."""
        self.skipped = 0
        """Messages that turned out unreadable only when they were counted."""
        self._most = most_targets
        self._rows: dict[Target, int] = {}
        self._free: list[int] = []
        self._outcomes: npt.NDArray[np.int64] = np.zeros((0, len(OUTCOMES)), np.int64)
        self._statuses: npt.NDArray[np.int64] = np.zeros((0, len(STATUSES)), np.int64)
        self._sums: npt.NDArray[np.float64] = np.zeros((0, len(Sums)))  # exact up to 2⁵³, as Prometheus is
        self._folded: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._noted: list[_Noted] = []
        self._noted_bytes = 0

    def note(self, endpoint: str, value: bytes) -> None:
        """Take one message of `requests` about `endpoint`. Raises `codec.Malformed` or `codec.UnknownSchema`."""
        if is_counts(value):
            for row in decode_counts(value):
                self._add_counts((endpoint, row.deployment), row)
            return
        names, records = split_requests(value)
        self._noted.append(_Noted(endpoint, names, records))
        self._noted_bytes += len(value)
        if self._noted_bytes >= SETTLE_BYTES or len(self._noted) >= SETTLE_MESSAGES:
            self.settle()

    def of(self, target: Target) -> Traffic | None:
        """What is counted of `target`; None when nothing ever came."""
        self.settle()
        row = self._rows.get(target)
        if row is None:
            return None
        outcomes, statuses, sums = self._outcomes[row], self._statuses[row], self._sums[row]
        return Traffic(
            int(outcomes.sum()),
            dict(zip(OUTCOMES, outcomes.tolist(), strict=True)),
            dict(zip(STATUSES, statuses.tolist(), strict=True)),
            int(sums[Sums.REQUEST_BYTES]),
            int(sums[Sums.RESPONSE_BYTES]),
            float(sums[Sums.WAIT_US]) / 1e6,
            float(sums[Sums.TOTAL_US]) / 1e6,
            int(self._folded[row]),
        )

    def forget(self, existing: set[Target]) -> None:
        """Drop the counts of deployments that are no longer there."""
        self.settle()
        for target in self._rows.keys() - existing:
            row = self._rows.pop(target)
            for array in (self._outcomes, self._statuses, self._sums, self._folded):
                array[row] = 0
            self._free.append(row)

    def settle(self) -> None:
        """Count everything that was noted."""
        if self._noted:
            noted, self._noted, self._noted_bytes = self._noted, [], 0
            self._count(noted)

    def _count(self, noted: Sequence[_Noted]) -> None:
        table = table_of([(one.names, one.records) for one in noted])
        if table.broken:
            self.skipped += len(table.broken)
            broken = set(table.broken)
            self._count([one for at, one in enumerate(noted) if at not in broken])
            return
        rows, groups = self._groups(noted, table)
        self._add(rows, groups[table.places], table.records)

    def _groups(self, noted: Sequence[_Noted], table: Table) -> tuple[list[int], npt.NDArray[np.int64]]:
        """The rows that the records belong to, and per place in the table of names the index of its row among them.

        What finds no row because there are too many has the index after the last.
        """
        used = np.flatnonzero(np.bincount(table.places))
        messages = np.searchsorted(table.begins, used, side="right") - 1
        groups = np.zeros(int(used[-1]) + 1 if len(used) else 0, np.int64)
        rows: dict[int, int] = {}
        left_out = []
        for place, message, begin in zip(
            used.tolist(), messages.tolist(), table.begins[messages].tolist(), strict=True
        ):
            row = self._row((noted[message].endpoint, noted[message].names[place - begin]))
            if row is None:
                left_out.append(place)
            else:
                groups[place] = rows.setdefault(row, len(rows))
        groups[left_out] = len(rows)
        return list(rows), groups

    def _add(self, rows: list[int], groups: npt.NDArray[np.int64], records: npt.NDArray[Any]) -> None:
        """Add records to `rows[groups[i]]`; a group after the last is not counted."""

        def counts(kinds: npt.NDArray[Any], names: Sequence[str]) -> npt.NDArray[Any]:
            cells = groups * len(names) + np.minimum(kinds, len(names) - 1)
            size = (len(rows) + 1) * len(names)
            return np.bincount(cells, minlength=size).reshape(-1, len(names))[:-1]

        self._outcomes[rows] += counts(records["outcome"], OUTCOMES)
        self._statuses[rows] += counts(records["status"] // 100, STATUSES)
        for column, name in enumerate(_SUMMED):
            self._sums[rows, column] += np.bincount(groups, records[name], len(rows) + 1)[:-1]

    def _add_counts(self, target: Target, counts: RequestCounts) -> None:
        row = self._row(target)
        if row is None:
            return
        # A number beyond any that can be is one that no sum of ours survives.
        requests, model_errors, failures = (
            min(count, _MOST) for count in (counts.requests, counts.model_errors, counts.failures)
        )
        self._outcomes[row, Outcome.OK] += max(0, requests - model_errors - failures)
        self._outcomes[row, Outcome.MODEL_ERROR] += model_errors
        self._outcomes[row, _OTHER_OUTCOME] += failures
        self._statuses[row, _OTHER_STATUS] += requests
        self._sums[row] += (counts.request_bytes, counts.response_bytes, 0.0, counts.total_us_sum)
        self._folded[row] += requests

    def _row(self, target: Target) -> int | None:
        """The row of `target`, made if it is new; None when there are too many."""
        row = self._rows.get(target)
        if row is None and len(self._rows) < self._most:
            if not self._free:
                self._grow()
            row = self._rows[target] = self._free.pop()
        return row

    def _grow(self) -> None:
        have = len(self._folded)
        more = max(16, have)
        self._outcomes, self._statuses, self._sums, self._folded = (
            np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)])
            for array in (self._outcomes, self._statuses, self._sums, self._folded)
        )
        self._free.extend(range(have + more - 1, have - 1, -1))
