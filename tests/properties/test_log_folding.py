"""Folding loses no count, and a fold of folds is the fold of everything."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from router.contract import codec
from router.contract.events import (
    BUCKETS,
    DemandReport,
    DemandRow,
    Flag,
    Outcome,
    RequestCounts,
    RequestRecord,
)
from router.runtime.log import folding
from router.runtime.log.folding import (
    MAX_REPLACES_BYTES,
    fold_requests,
    join_sequences,
    joinable,
    may_join,
    merge_demand,
    sequences_in,
)
from tests.support.contract_samples import REQUEST_NAMES, REQUESTS, pack_requests
from tests.support.contract_strategies import RELAXED

NAMES = st.sampled_from(["", "blue", "green", "grün"])
SMALL = st.integers(0, 2**40)
U32 = st.integers(0, 2**32 - 1)
RECORDS = st.lists(
    st.builds(
        RequestRecord, SMALL, st.integers(-5, 5).map(lambda tenths: tenths * 100_000_000), NAMES, st.integers(0, 599),
        st.integers(0, 599), st.sampled_from(Outcome), st.integers(0, 63).map(Flag), SMALL, SMALL, U32, U32, U32, NAMES,
    ),
    max_size=12,
)  # fmt: skip
COUNTS = st.lists(
    st.builds(RequestCounts, NAMES, st.integers(-2, 2), SMALL, SMALL, SMALL, SMALL, SMALL, SMALL), max_size=4
)
TABLE = ["", "green", "unused", "blue", "grün"]


def packed(records: list[RequestRecord]) -> bytes:
    return pack_requests(records, TABLE)


def told(value: bytes) -> dict[tuple[str, int], tuple[int, ...]]:
    """What a message of either kind says, one record at a time."""
    sums: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0] * 6)
    if codec.is_counts(value):
        rows = codec.decode_counts(value)
    else:
        rows = [
            RequestCounts(
                one.deployment,
                one.start_ns // 10**9,
                1,
                one.outcome is Outcome.MODEL_ERROR,
                one.outcome not in (Outcome.OK, Outcome.MODEL_ERROR),
                one.request_bytes,
                one.response_bytes,
                one.total_us,
            )
            for one in codec.decode_requests(value)
        ]
    for row in rows:
        deployment, second, *amounts = dataclasses.astuple(row)
        held = sums[deployment, second]
        held[:] = [a + b for a, b in zip(held, amounts, strict=True)]
    return {target: tuple(amounts) for target, amounts in sums.items()}


def all_told(values: list[bytes]) -> dict[tuple[str, int], tuple[int, ...]]:
    sums: dict[tuple[str, int], tuple[int, ...]] = {}
    for value in values:
        for target, amounts in told(value).items():
            sums[target] = tuple(a + b for a, b in zip(sums.get(target, (0,) * 6), amounts, strict=True))
    return sums


MESSAGES = st.lists(RECORDS.map(packed) | COUNTS.map(codec.encode_counts), max_size=6)


@RELAXED
@given(MESSAGES)
def test_a_fold_of_any_mixture_says_what_all_of_it_says_in_order(values: list[bytes]) -> None:
    folded = codec.decode_counts(fold_requests(values))
    assert told(fold_requests(values)) == all_told(values)
    targets = [(row.deployment, row.second) for row in folded]
    assert targets == sorted(set(targets))


@RELAXED
@given(MESSAGES, MESSAGES, MESSAGES)
def test_a_fold_of_folds_is_the_fold_of_everything(one: list[bytes], two: list[bytes], three: list[bytes]) -> None:
    whole = fold_requests([*one, *two, *three])
    assert fold_requests([fold_requests([*one, *two]), *three]) == whole
    assert fold_requests([*three, fold_requests(two), *one]) == whole
    assert fold_requests([whole]) == whole


def test_a_name_twice_in_a_table_is_one_deployment() -> None:
    record = dataclasses.replace(REQUESTS[0], replica="")
    _, first = codec.split_requests(pack_requests([record], ["", "blue", "x"]))
    _, second = codec.split_requests(pack_requests([record], ["", "x", "blue"]))
    value = codec.encode_requests(["", "blue", "blue"], bytes(first) + bytes(second))
    (row,) = codec.decode_counts(fold_requests([value]))
    assert (row.deployment, row.requests) == ("blue", 2)


def test_sums_stop_at_the_largest_number_there_is_room_for() -> None:
    row = RequestCounts("blue", 7, 2**64 - 1, 2**64 - 1, 1, 2**63, 2**63, 2**63)
    (folded,) = codec.decode_counts(fold_requests([codec.encode_counts([row, row])]))
    assert folded == RequestCounts("blue", 7, 2**64 - 1, 2**64 - 1, 2, 2**64 - 1, 2**64 - 1, 2**64 - 1)


def test_what_cannot_be_read_is_not_folded() -> None:
    good = pack_requests(REQUESTS, REQUEST_NAMES)
    nameless = codec.encode_requests([""], codec.split_requests(good)[1])
    for broken in (b"", b"\x02" + good[1:], good[:-1], codec.encode_counts([])[:-1], nameless):
        with pytest.raises((codec.Malformed, codec.UnknownSchema)):
            fold_requests([good, broken])


# Demand

WHOLE = st.integers(0, 2**31).map(float)
HISTOGRAM = st.just(()) | st.lists(st.integers(0, 1000), min_size=BUCKETS, max_size=BUCKETS).map(tuple)
ROWS = st.lists(
    st.builds(
        DemandRow, NAMES, st.booleans(), U32, U32, U32, U32, U32, U32, WHOLE, WHOLE, SMALL, HISTOGRAM, HISTOGRAM
    ),
    max_size=4,
    unique_by=lambda row: (row.deployment, row.shadow),
).map(tuple)  # fmt: skip
REPORTS = st.lists(
    st.builds(
        DemandReport, st.just("shop"), SMALL, SMALL, SMALL, SMALL, st.just(False), ROWS,
        st.lists(st.tuples(NAMES, U32), max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=5,
)  # fmt: skip
MOST = 2**32 - 1


def merged(reports: list[DemandReport]) -> DemandReport:
    return codec.decode_demand(merge_demand([codec.encode_demand(report) for report in reports]))


def rows_of(report: DemandReport) -> dict[tuple[str, bool], DemandRow]:
    return {(row.deployment, row.shadow): row for row in report.rows}


@RELAXED
@given(REPORTS)
def test_a_merged_report_adds_what_was_counted_and_keeps_the_last_of_what_is_momentary(
    reports: list[DemandReport],
) -> None:
    whole, last = merged(reports), reports[-1]
    assert (whole.start_ns, whole.end_ns) == (reports[0].start_ns, last.end_ns)
    assert dataclasses.replace(whole, start_ns=0, rows=()) == dataclasses.replace(last, start_ns=0, rows=())
    rows, now = rows_of(whole), rows_of(last)
    assert rows.keys() == {key for report in reports for key in rows_of(report)}
    for key, row in rows.items():
        parts = [rows_of(report)[key] for report in reports if key in rows_of(report)]
        for name in ("arrivals", "completions", "errors", "rejected"):
            assert getattr(row, name) == min(MOST, sum(getattr(part, name) for part in parts))
        assert row.tokens == sum(part.tokens for part in parts)
        assert row.busy_seconds == sum(part.busy_seconds for part in parts)
        for name in ("latency", "wait"):
            told = [getattr(part, name) for part in parts if getattr(part, name)]
            assert getattr(row, name) == tuple(sum(column) for column in zip(*told, strict=True))
        gauges = now.get(key, DemandRow(key[0]))
        for name in ("in_flight", "queued", "oldest_wait_seconds"):
            assert getattr(row, name) == getattr(gauges, name)


@RELAXED
@given(REPORTS, REPORTS)
def test_merging_what_is_merged_is_merging_everything(one: list[DemandReport], two: list[DemandReport]) -> None:
    assert merged([merged(one), *two]) == merged([*one, *two]) == merged([*one, merged(two)])
    assert merged([one[0]]) == one[0]


def test_reports_of_different_endpoints_or_reporters_are_not_merged() -> None:
    report = DemandReport("shop", 0, 1, 1, 1)
    for other in (dataclasses.replace(report, endpoint="bank"), dataclasses.replace(report, shadow=True)):
        with pytest.raises(ValueError, match="one endpoint"):
            merged([report, other])
    with pytest.raises(ValueError, match="one endpoint"):
        merge_demand([])
    with pytest.raises(codec.UnknownSchema):
        merge_demand([codec.encode_demand(report), b""])


# Sequences

SETS = st.sets(st.integers(0, 60) | st.integers(2**62, 2**62 + 3), min_size=1)


def standing_for(sequence: int, replaces: str) -> set[int]:
    return {sequence}.union(*sequences_in(replaces))


@given(st.lists(SETS, min_size=1, max_size=5))
def test_the_joined_message_stands_for_exactly_what_its_parts_stood_for(sets: list[set[int]]) -> None:
    parts = [join_sequences((one, "") for one in numbers) for numbers in sets]
    sequence, replaces = join_sequences(parts)
    assert sequence == max(set().union(*sets))
    assert standing_for(sequence, replaces) == set().union(*sets)
    assert all(sequence not in one for one in sequences_in(replaces))
    assert join_sequences([*parts, (sequence, replaces)]) == (sequence, replaces)


@given(SETS)
def test_the_text_is_as_short_as_can_be_and_reads_back(numbers: set[int]) -> None:
    _, replaces = join_sequences((one, "") for one in [*numbers, 2**63 - 2])
    ranges = sequences_in(replaces)
    assert all(one.stop < other.start for one, other in pairwise(ranges))
    assert sequences_in("") == ()


@pytest.mark.parametrize(
    ("sequences", "text"), [([7], ""), ([3, 4], "3"), ([3, 4, 5], "3-4"), ([12, 3, 9, 8, 10, 1], "1,3,8-10")]
)
def test_the_text_is_what_the_interface_says(sequences: list[int], text: str) -> None:
    assert join_sequences((one, "") for one in sequences) == (max(sequences), text)


@pytest.mark.parametrize(
    "text", [" 1", "1 ", "+1", "-1", "1-", "2-1", "1,1", "2,1", "1-3,3", "a", "²", "1,", "9" * 21, str(2**63 - 1)]
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="sequence"):
        sequences_in(text)


def test_nothing_stands_for_nothing() -> None:
    with pytest.raises(ValueError, match="no message"):
        join_sequences([])
    assert joinable([]) == 0


def test_messages_join_until_their_text_grows_too_long() -> None:
    in_a_row = [(at, "") for at in range(100_000)]
    assert may_join(in_a_row)
    assert joinable(in_a_row) == len(in_a_row)
    apart = [(at, "") for at in range(0, 20_000, 2)]
    most = joinable(apart)
    assert not may_join(apart)
    assert may_join(apart[:most])
    assert not may_join(apart[: most + 1])
    _, replaces = join_sequences(apart[:most])
    assert MAX_REPLACES_BYTES - 10 < len(replaces) <= MAX_REPLACES_BYTES
    assert sum(len(one) for one in sequences_in(replaces)) == most - 1


def test_a_text_longer_than_any_of_ours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, replaces = join_sequences((at, "") for at in range(0, 40, 2))
    assert len(sequences_in(replaces)) == 19
    monkeypatch.setattr(folding, "MAX_REPLACES_BYTES", len(replaces) - 1)
    with pytest.raises(ValueError, match="bytes of sequences"):
        sequences_in(replaces)
