"""Every finished request, counted per deployment from the packed records of `requests`. Pure.

Messages are only noted when they come and counted together, as arrays, once there are many or somebody asks: a
message of one record costs little more than its bytes, and one of thousands a few nanoseconds per record.
Messages of counts, which a full spool made of records, are counted with what they still know.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from struct import error as StructError  # noqa: N812 -- as a class is called
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from router.contract.codec import (
    DETAIL,
    REQUEST_RECORD,
    Malformed,
    decode_counts,
    is_counts,
    split_details,
)
from router.contract.events import Outcome, RequestCounts
from router.runtime.log.request_arrays import Table, table_of

Target = tuple[str, str]
"""(endpoint, deployment); an empty deployment for what was refused before one was chosen."""

OVERFLOW: Target = ("_other", "_other")
"""Where deployments are counted together that came when there were too many; no endpoint can be called so."""
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


FIRST_BYTE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
SIZE_BYTES = tuple(256 * 4**power for power in range(10))
"""256 B to 64 MiB."""
MOST_CODES = 32
"""Different codes of refusals per deployment; further ones are counted as `other`."""
_CODE_OF_OTHERS = "other"


class Sums(enum.IntEnum):
    """Columns of the sums; the times miss what came folded as far as counts do not hold them."""

    REQUEST_BYTES = 0
    RESPONSE_BYTES = 1
    WAIT_US = 2
    TOTAL_US = 3
    FIRST_BYTE_US = 4
    FOLDED_REQUEST_BYTES = 5
    FOLDED_RESPONSE_BYTES = 6


_SUMMED = ("request_bytes", "response_bytes", "wait_us", "total_us", "first_byte_us")
_EDGES = {
    "first_byte_us": np.array([seconds * 1e6 for seconds in FIRST_BYTE_SECONDS]),
    "request_bytes": np.array(SIZE_BYTES),
    "response_bytes": np.array(SIZE_BYTES),
}
"""Fields with a histogram → upper edges of its buckets; one more bucket holds the rest."""


class Histogram(NamedTuple):
    """How many had which size."""

    edges: Sequence[float]
    counts: Sequence[int]
    """One per edge, the largest that still belongs to it, and one for the rest."""
    sum: float

    def cumulative(self) -> list[tuple[str, float]]:
        """As Prometheus wants it: (upper edge, how many up to it)."""
        below = np.cumsum(self.counts).tolist()
        return [(text, float(count)) for text, count in zip((*map(str, self.edges), "+Inf"), below, strict=True)]


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
    """Requests of which only counts came: they are in none of the histograms."""
    first_byte: Histogram
    """Seconds from arrival to the first byte of the model's answer, of those that got one."""
    request_size: Histogram
    response_size: Histogram
    """Bytes of the bodies."""
    refused: dict[str, int]
    """Code of an answer in the gateway's own name → how many."""


class _Noted(NamedTuple):
    endpoint: str
    names: list[str]
    records: memoryview


class TrafficCounts:
    """The counts of many deployments. Structure of arrays: one row per deployment."""

    def __init__(self, most_targets: int) -> None:
        """More deployments than `most_targets` are counted together as `OVERFLOW`, so that memory is bounded."""
        self.skipped = 0
        """Messages that turned out unreadable only when they were counted."""
        self._most = most_targets
        self._rows: dict[Target, int] = {}
        self._free: list[int] = []
        self._outcomes: npt.NDArray[np.int64] = np.zeros((0, len(OUTCOMES)), np.int64)
        self._statuses: npt.NDArray[np.int64] = np.zeros((0, len(STATUSES)), np.int64)
        self._sums: npt.NDArray[np.float64] = np.zeros((0, len(Sums)))  # exact up to 2⁵³, as Prometheus is
        self._folded: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._histograms: dict[str, npt.NDArray[np.int64]] = {
            name: np.zeros((0, len(edges) + 1), np.int64) for name, edges in _EDGES.items()
        }
        self._refused: dict[int, dict[str, int]] = {}
        """Row → code → how many."""
        self._noted: list[_Noted] = []
        self._noted_bytes = 0

    def note(self, endpoint: str, value: bytes) -> None:
        """Take one message of `requests` about `endpoint`. Raises `codec.Malformed` or `codec.UnknownSchema`."""
        if is_counts(value):
            for row in decode_counts(value):
                self._add_counts((endpoint, row.deployment), row)
            return
        names, records, details = split_details(value)
        if details:
            self._note_refusals(endpoint, names, records, details)
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
            Histogram(FIRST_BYTE_SECONDS, self._counts("first_byte_us", row), float(sums[Sums.FIRST_BYTE_US]) / 1e6),
            Histogram(
                SIZE_BYTES,
                self._counts("request_bytes", row),
                float(sums[Sums.REQUEST_BYTES] - sums[Sums.FOLDED_REQUEST_BYTES]),
            ),
            Histogram(
                SIZE_BYTES,
                self._counts("response_bytes", row),
                float(sums[Sums.RESPONSE_BYTES] - sums[Sums.FOLDED_RESPONSE_BYTES]),
            ),
            dict(self._refused.get(row, {})),
        )

    def _counts(self, name: str, row: int) -> list[int]:
        counts: list[int] = self._histograms[name][row].tolist()
        return counts

    def forget(self, existing: set[Target]) -> None:
        """Drop the counts of deployments that are no longer there."""
        self.settle()
        for target in self._rows.keys() - existing - {OVERFLOW}:
            row = self._rows.pop(target)
            for array in (self._outcomes, self._statuses, self._sums, self._folded, *self._histograms.values()):
                array[row] = 0
            self._refused.pop(row, None)
            self._free.append(row)

    def _note_refusals(self, endpoint: str, names: list[str], records: memoryview, details: memoryview) -> None:
        """Count the codes at once: a refused request has cost more than this."""
        size, found = REQUEST_RECORD.size, []
        try:
            for record, _, code, _ in DETAIL.iter_unpack(details):
                if code:
                    *_, deployment, _ = REQUEST_RECORD.unpack_from(records, record * size)
                    found.append((names[deployment], names[code]))
        except (IndexError, StructError) as error:
            raise Malformed(str(error)) from error
        for name, code in found:
            counts = self._refused.setdefault(self._row((endpoint, name)), {})
            known = code if code in counts or len(counts) < MOST_CODES else _CODE_OF_OTHERS
            counts[known] = counts.get(known, 0) + 1

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
        """The rows that the records belong to, and per place in the table of names the index of its row among them."""
        used = np.flatnonzero(np.bincount(table.places))
        messages = np.searchsorted(table.begins, used, side="right") - 1
        groups = np.zeros(int(used[-1]) + 1 if len(used) else 0, np.int64)
        rows: dict[int, int] = {}
        for place, message, begin in zip(
            used.tolist(), messages.tolist(), table.begins[messages].tolist(), strict=True
        ):
            row = self._row((noted[message].endpoint, noted[message].names[place - begin]))
            groups[place] = rows.setdefault(row, len(rows))
        return list(rows), groups

    def _add(self, rows: list[int], groups: npt.NDArray[np.int64], records: npt.NDArray[Any]) -> None:
        """Add records to `rows[groups[i]]`."""

        def counts(groups: npt.NDArray[np.int64], kinds: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
            cells = groups * most + np.minimum(kinds, most - 1)
            return np.bincount(cells, minlength=len(rows) * most).reshape(-1, most)

        self._outcomes[rows] += counts(groups, records["outcome"], len(OUTCOMES))
        self._statuses[rows] += counts(groups, records["status"] // 100, len(STATUSES))
        for column, name in enumerate(_SUMMED):
            self._sums[rows, column] += np.bincount(groups, records[name], len(rows))
        answered = records["first_byte_us"] > 0
        for name, edges in _EDGES.items():
            which = answered if name == "first_byte_us" else slice(None)
            buckets = np.searchsorted(edges, records[name][which])
            self._histograms[name][rows] += counts(groups[which], buckets, len(edges) + 1)

    def _add_counts(self, target: Target, counts: RequestCounts) -> None:
        row = self._row(target)
        # A number beyond any that can be is one that no sum of ours survives.
        requests, model_errors, failures = (
            min(count, _MOST) for count in (counts.requests, counts.model_errors, counts.failures)
        )
        self._outcomes[row, Outcome.OK] += max(0, requests - model_errors - failures)
        self._outcomes[row, Outcome.MODEL_ERROR] += model_errors
        self._outcomes[row, _OTHER_OUTCOME] += failures
        self._statuses[row, _OTHER_STATUS] += requests
        sizes = (counts.request_bytes, counts.response_bytes)
        self._sums[row] += (*sizes, 0.0, counts.total_us_sum, 0.0, *sizes)
        self._folded[row] += requests

    def _row(self, target: Target) -> int:
        """The row of `target`, made if it is new; that of `OVERFLOW` when there are too many."""
        row = self._rows.get(target)
        if row is None:
            if len(self._rows) - (OVERFLOW in self._rows) >= self._most:
                target = OVERFLOW
                row = self._rows.get(target)
            if row is None:
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
        for name, array in self._histograms.items():
            self._histograms[name] = np.concatenate([array, np.zeros((more, array.shape[1]), np.int64)])
        self._free.extend(range(have + more - 1, have - 1, -1))
