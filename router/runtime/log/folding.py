"""Many messages of one writer and key become one that says the same in less room. Pure: no I/O, no clock.

What is folded stays countable: request records become counts per deployment and second, demand reports become one
report of their whole time, and the one message names every sequence it stands for. Folding a fold again is allowed:
the result is what folding everything at once would have made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from operator import add

from router.contract.codec import (
    Malformed,
    decode_counts,
    decode_demand,
    encode_counts,
    encode_demand,
    is_counts,
    split_requests,
)
from router.contract.events import DemandRow, Outcome, RequestCounts

MAX_REPLACES_BYTES = 8192
"""Longest `replaces`: a Kafka header and a column of every folded row, so it must stay small beside the message."""
_MAX_SEQUENCE = 2**63 - 2
"""The largest whose ranges Python can still measure; no writer gets there."""
_U32 = 2**32 - 1
_U64 = 2**64 - 1


# Sequences ---------------------------------------------------------------------------------------------------------


def sequences_in(replaces: str) -> tuple[range, ...]:
    """The ranges in a text like `3-9,12`, ascending and apart. Raises `ValueError` for any other text."""
    if not replaces:
        return ()
    if len(replaces) > MAX_REPLACES_BYTES:
        raise ValueError(f"more than {MAX_REPLACES_BYTES} bytes of sequences")
    ranges = []
    below = -1
    for part in replaces.split(","):
        first, dash, last = part.partition("-")
        start = _number(first)
        end = _number(last) if dash else start
        if start <= below or end < start:
            raise ValueError(f"sequences are not in order at {part!r}")
        ranges.append(range(start, end + 1))
        below = end
    return tuple(ranges)


def _number(digits: str) -> int:
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and int(digits) <= _MAX_SEQUENCE):
        raise ValueError(f"{digits!r:.40} is no sequence")
    return int(digits)


def join_sequences(parts: Iterable[tuple[int, str]]) -> tuple[int, str]:
    """(sequence, replaces) of the message that stands for all these (sequence, replaces): the newest, and the others.

    Raises `ValueError` when there are none, or one of the texts is none of ours.
    """
    ranges = []
    newest = -1
    for sequence, replaces in parts:
        newest = max(newest, sequence)
        ranges.append(range(sequence, sequence + 1))
        ranges.extend(sequences_in(replaces))
    if not ranges:
        raise ValueError("no message to stand for")
    return newest, _text(_without(_joined(ranges), newest))


def may_join(parts: Iterable[tuple[int, str]]) -> bool:
    """Whether one message may stand for all these (sequence, replaces): their `replaces` stays short enough."""
    return len(join_sequences(parts)[1]) <= MAX_REPLACES_BYTES


def joinable(parts: Sequence[tuple[int, str]]) -> int:
    """How many of these (sequence, replaces), from the first, one message may stand for; 0 only when there are none."""
    if not parts or may_join(parts):
        return len(parts)
    # Halving finds one good end, though a later part may fill holes and make the text shorter again.
    good, bad = 1, len(parts)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if may_join(parts[:middle]) else (good, middle)
    return good


def _joined(ranges: Iterable[range]) -> list[range]:
    """The same sequences as ranges that neither overlap nor touch."""
    joined: list[range] = []
    for one in sorted(ranges, key=lambda one: one.start):
        if joined and one.start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, one.stop))
        else:
            joined.append(one)
    return joined


def _without(ranges: Iterable[range], sequence: int) -> Iterator[range]:
    for one in ranges:
        if sequence in one:
            yield from filter(len, (range(one.start, sequence), range(sequence + 1, one.stop)))
        else:
            yield one


def _text(ranges: Iterable[range]) -> str:
    return ",".join(f"{one.start}-{one[-1]}" if len(one) > 1 else str(one.start) for one in ranges)


# Requests ----------------------------------------------------------------------------------------------------------


def fold_requests(values: Sequence[bytes]) -> bytes:
    """One message of counts that says what all these `requests` messages of one endpoint say, of either kind.

    One row per deployment and second in which requests started, sorted by both. Raises `Malformed` or
    `UnknownSchema` when one of them cannot be read: it must then stay as it is.
    """
    sums: dict[tuple[str, int], list[int]] = {}
    counts = [row for value in values if is_counts(value) for row in decode_counts(value)]
    records = _counts_of([split_requests(value) for value in values if not is_counts(value)])
    for row in (*counts, *records):
        target = (row.deployment, row.second)
        amounts = [
            row.requests, row.model_errors, row.failures, row.request_bytes, row.response_bytes, row.total_us_sum
        ]  # fmt: skip
        held = sums.get(target)
        sums[target] = amounts if held is None else [a + b for a, b in zip(held, amounts, strict=True)]
    return encode_counts(
        [
            RequestCounts(deployment, second, *(min(amount, _U64) for amount in amounts))
            for (deployment, second), amounts in sorted(sums.items())
        ]
    )


def _counts_of(messages: Sequence[tuple[list[str], memoryview]]) -> Iterator[RequestCounts]:
    """The records of split messages, counted."""
    import numpy as np

    from router.runtime.log.request_arrays import table_of

    table = table_of(messages)
    if table.broken:
        raise Malformed(f"{len(table.broken)} messages with a record whose deployment has no name")
    if not len(table.records):
        return
    names = [name for names, _ in messages for name in names]
    index = {name: at for at, name in enumerate(dict.fromkeys(names))}  # many tables hold the same name
    deployments = np.array([index[name] for name in names], np.int64)[table.places]
    seconds, second_at = np.unique(table.records["start_ns"] // 1_000_000_000, return_inverse=True)
    groups, at = np.unique(deployments * len(seconds) + second_at, return_inverse=True)
    outcomes = table.records["outcome"]
    failed = (outcomes != Outcome.OK) & (outcomes != Outcome.MODEL_ERROR)
    amounts = [np.bincount(at), np.bincount(at, outcomes == Outcome.MODEL_ERROR), np.bincount(at, failed)]
    # Sums in float64 are exact up to 2⁵³: nine petabytes per deployment and second.
    amounts += [np.bincount(at, table.records[name]) for name in ("request_bytes", "response_bytes", "total_us")]
    texts = list(index)
    for group, *row in zip(groups.tolist(), *(column.tolist() for column in amounts), strict=True):
        deployment, second = divmod(group, len(seconds))
        yield RequestCounts(texts[deployment], int(seconds[second]), *(int(amount) for amount in row))


# Demand ------------------------------------------------------------------------------------------------------------


def merge_demand(values: Sequence[bytes]) -> bytes:
    """One report for these consecutive `demand` messages of one writer and endpoint, oldest first.

    From the start of the first to the end of the last; counters, histograms and busy seconds added (32-bit counters
    stop at their largest), everything that is true of a moment – gauges, draining, revision, versions – as the last
    report has it, so a deployment that it no longer names has nothing in flight. Raises `ValueError` when they are not
    of one endpoint and kind of reporter, `Malformed` or `UnknownSchema` when one cannot be read.
    """
    reports = [decode_demand(value) for value in values]
    if len({(report.endpoint, report.shadow) for report in reports}) != 1:
        raise ValueError("only reports of one reporter about one endpoint make one report")
    sums: dict[tuple[str, bool], _Sums] = {}
    for report in reports:
        for row in report.rows:
            sums.setdefault((row.deployment, row.shadow), _Sums()).add(row)
    for row in reports[-1].rows:
        sums[row.deployment, row.shadow].now.append(row)
    rows = tuple(_row(key, one) for key, one in sums.items())
    return encode_demand(replace(reports[-1], start_ns=reports[0].start_ns, rows=rows))


class _Sums:
    """What the reports said of one deployment, and what the last one says of this moment."""

    def __init__(self) -> None:
        self.arrivals = self.completions = self.errors = self.rejected = self.tokens = 0
        self.busy_seconds = 0.0
        self.latency: Sequence[int] = ()
        self.wait: Sequence[int] = ()
        self.now: list[DemandRow] = []

    def add(self, row: DemandRow) -> None:
        self.arrivals += row.arrivals
        self.completions += row.completions
        self.errors += row.errors
        self.rejected += row.rejected
        self.tokens += row.tokens
        self.busy_seconds += row.busy_seconds
        if row.latency:
            self.latency = list(map(add, self.latency, row.latency)) if self.latency else row.latency
        if row.wait:
            self.wait = list(map(add, self.wait, row.wait)) if self.wait else row.wait


def _row(key: tuple[str, bool], sums: _Sums) -> DemandRow:
    return DemandRow(
        *key,
        arrivals=min(sums.arrivals, _U32),
        completions=min(sums.completions, _U32),
        errors=min(sums.errors, _U32),
        rejected=min(sums.rejected, _U32),
        in_flight=min(sum(row.in_flight for row in sums.now), _U32),
        queued=min(sum(row.queued for row in sums.now), _U32),
        oldest_wait_seconds=max((row.oldest_wait_seconds for row in sums.now), default=0.0),
        busy_seconds=sums.busy_seconds,
        tokens=min(sums.tokens, _U64),
        latency=tuple(min(count, _U32) for count in sums.latency),
        wait=tuple(min(count, _U32) for count in sums.wait),
    )
