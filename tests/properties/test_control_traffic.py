"""Counting many records as arrays says what counting them one by one says."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict

import hypothesis.strategies as st
import pytest
from hypothesis import given

from router.contract import codec
from router.contract.events import Flag, Outcome, RequestCounts, RequestRecord
from router.control import traffic
from router.control.traffic import OUTCOMES, OVERFLOW, STATUSES, Target, TrafficCounts
from router.runtime.log.folding import fold_requests
from tests.support.contract_samples import COUNTS, REQUEST_NAMES, REQUESTS, pack_requests
from tests.support.contract_strategies import RELAXED

NAMES = st.sampled_from(["", "blue", "green", "grün"])
ENDPOINTS = st.sampled_from(["shop", "bank"])
AMOUNT = st.integers(0, 2**40)
U32 = st.integers(0, 2**32 - 1)
RECORDS = st.lists(
    st.builds(
        RequestRecord, AMOUNT, AMOUNT, NAMES, st.integers(0, 599), st.integers(0, 599), st.sampled_from(Outcome),
        st.integers(0, 63).map(Flag), AMOUNT, AMOUNT, U32, U32, U32, NAMES,
    ),
    max_size=8,
)  # fmt: skip
MESSAGES = st.lists(st.tuples(ENDPOINTS, RECORDS, st.permutations(["blue", "green", "grün", "unused"])), max_size=8)


def taken(messages: list[tuple[str, bytes]], most: int = 100) -> TrafficCounts:
    counts = TrafficCounts(most)
    for endpoint, value in messages:
        counts.note(endpoint, value)
    return counts


@RELAXED
@given(MESSAGES, st.sampled_from([1, 400, 1 << 20]))
def test_arrays_count_what_a_loop_counts(
    messages: list[tuple[str, list[RequestRecord], list[str]]], settle_bytes: int
) -> None:
    loop: dict[Target, list[RequestRecord]] = defaultdict(list)
    for endpoint, records, _ in messages:
        for one in records:
            loop[endpoint, one.deployment].append(one)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traffic, "SETTLE_BYTES", settle_bytes)
        counts = taken([(endpoint, pack_requests(records, ["", *names])) for endpoint, records, names in messages])
    for target in [(endpoint, name) for endpoint in ("shop", "bank") for name in ("", "blue", "green", "grün")]:
        found, records = counts.of(target), loop[target]
        if not records:
            assert found is None
            continue
        assert found is not None
        assert found.requests == len(records)
        assert found.by_outcome == dict.fromkeys(OUTCOMES, 0) | Counter(one.outcome.name.lower() for one in records)
        classes = Counter("none" if one.status < 100 else f"{one.status // 100}xx" for one in records)
        assert found.by_status == dict.fromkeys(STATUSES, 0) | classes
        assert found.request_bytes == sum(one.request_bytes for one in records)
        assert found.response_bytes == sum(one.response_bytes for one in records)
        assert found.wait_seconds == sum(one.wait_us for one in records) / 1e6
        assert found.total_seconds == sum(one.total_us for one in records) / 1e6
        assert found.folded == 0


@RELAXED
@given(MESSAGES)
def test_a_fold_counts_as_much_as_what_it_was_made_of(
    messages: list[tuple[str, list[RequestRecord], list[str]]],
) -> None:
    values = [pack_requests(records, ["", *names]) for _, records, names in messages]
    whole, folded = taken([("shop", value) for value in values]), taken([("shop", fold_requests(values))])
    for name in ("", "blue", "green", "grün"):
        one, other = whole.of(("shop", name)), folded.of(("shop", name))
        if one is None or other is None:
            assert one is other
            continue
        assert other.folded == other.requests == one.requests == other.by_status["other"]
        failures = sum(count for kind, count in one.by_outcome.items() if kind not in {"ok", "model_error"})
        assert other.by_outcome["other"] == failures
        for kind in ("ok", "model_error"):
            assert other.by_outcome[kind] == one.by_outcome[kind]
        for field in ("request_bytes", "response_bytes", "total_seconds"):
            assert getattr(other, field) == getattr(one, field)
        assert other.wait_seconds == 0


def test_replicas_are_no_deployments() -> None:
    counts = taken([("shop", pack_requests(REQUESTS, REQUEST_NAMES))])
    assert counts.of(("shop", "blue-1")) is None
    assert counts.of(("bank", "blue")) is None


def test_a_message_that_cannot_be_read_harms_no_other() -> None:
    good = pack_requests(REQUESTS, REQUEST_NAMES)
    _, records = codec.split_requests(good)
    counts = TrafficCounts(100)
    for value in (b"", b"\x02" + good[1:], good[:-1], codec.encode_counts(COUNTS)[:-1], b"\x01\x03" + good[2:]):
        with pytest.raises((codec.Malformed, codec.UnknownSchema)):
            counts.note("shop", value)
    nameless = codec.encode_requests([""], records)
    for value in (nameless, good, codec.encode_requests([], b""), nameless, good):
        counts.note("shop", value)
    found = counts.of(("shop", "blue"))
    assert found is not None
    assert found.requests == 2
    assert counts.skipped == 2


def test_outcomes_and_statuses_of_a_later_version_are_counted_as_other() -> None:
    packed = codec.REQUEST_RECORD.pack(1, 1, 999, 200, 77, 0, 0, 1, 2, 3, 4, 5, 0, 0)
    found = taken([("shop", codec.encode_requests([""], packed))]).of(("shop", ""))
    assert found is not None
    assert (found.requests, found.by_outcome["other"], found.by_status["other"], found.folded) == (1, 1, 1, 0)


def test_counts_beyond_reason_break_nothing() -> None:
    wild = RequestCounts("blue", 0, *[2**64 - 1] * 6)
    counts = taken([("shop", codec.encode_counts([wild]))] * 3)
    found = counts.of(("shop", "blue"))
    assert found is not None
    assert min(dataclasses.asdict(found)["by_outcome"].values()) >= 0


def test_targets_are_bounded_and_the_known_go_on_counting() -> None:
    record = dataclasses.replace(REQUESTS[0], replica="")
    names = ["", "blue", "green"]
    many = [dataclasses.replace(record, deployment=name) for name in ("blue", "green", "blue")]
    counts = taken([("shop", pack_requests(many[:1], names)), ("shop", pack_requests(many, names))], most=1)
    blue = counts.of(("shop", "blue"))
    assert blue is not None
    assert blue.requests == 3
    assert counts.of(("shop", "green")) is None
    counts.note("shop", codec.encode_counts([RequestCounts("green", 1, 1, 0, 0, 0, 0, 0)]))
    counts.note("bank", pack_requests(many[1:2], names))
    assert counts.of(("shop", "green")) is counts.of(("bank", "green")) is None
    rest = counts.of(OVERFLOW)
    assert rest is not None
    assert (rest.requests, rest.folded) == (3, 1)
    counts.forget({("shop", "green")})
    counts.note("shop", pack_requests(many[1:2], names))
    counts.note("shop", pack_requests(many, names))
    green, rest = counts.of(("shop", "green")), counts.of(OVERFLOW)
    assert green is not None
    assert rest is not None
    assert (counts.of(("shop", "blue")), green.requests) == (None, 2), "the place of one that is gone is free"
    assert rest.requests == 3 + 2, "what was counted together is never taken back"
    assert counts.skipped == 0


@RELAXED
@given(RECORDS)
def test_histograms_count_each_record_in_the_first_bucket_that_holds_it(records: list[RequestRecord]) -> None:
    found = taken([("shop", pack_requests(records, ["", "blue", "green", "grün"]))])
    for name in {one.deployment for one in records}:
        traffic, mine = found.of(("shop", name)), [one for one in records if one.deployment == name]
        assert traffic is not None
        for histogram, values in (
            (traffic.request_size, [one.request_bytes for one in mine]),
            (traffic.response_size, [one.response_bytes for one in mine]),
            (traffic.first_byte, [one.first_byte_us / 1e6 for one in mine if one.first_byte_us]),
        ):
            assert sum(histogram.counts) == len(values)
            assert histogram.sum == pytest.approx(sum(values))
            for edge, (text, count) in zip(histogram.edges, histogram.cumulative(), strict=False):
                assert (float(text), count) == (edge, sum(value <= edge for value in values))


def test_refusals_are_counted_by_their_code_and_different_codes_are_bounded() -> None:
    refused = [
        dataclasses.replace(REQUESTS[0], replica="", refusal=code)
        for code in ("QueueTimeout", "NoReplica", "QueueTimeout")
    ]
    counts = taken([("shop", pack_requests(refused, ["", "blue", "QueueTimeout", "NoReplica"]))])
    found = counts.of(("shop", "blue"))
    assert found is not None
    assert found.refused == {"QueueTimeout": 2, "NoReplica": 1}
    codes = [f"code-{number}" for number in range(3 * traffic.MOST_CODES)]
    many = [dataclasses.replace(refused[0], refusal=code) for code in codes]
    counts.note("shop", pack_requests(many, ["", "blue", *codes]))
    found = counts.of(("shop", "blue"))
    assert found is not None
    assert len(found.refused) == traffic.MOST_CODES + 1
    assert sum(found.refused.values()) == 3 + len(many)
    counts.forget(set())
    counts.note("shop", pack_requests(many[:1], ["", "blue", codes[0]]))
    found = counts.of(("shop", "blue"))
    assert found is not None
    assert found.refused == {codes[0]: 1}
    foreign = bytearray(pack_requests(many[:1], ["", "blue", codes[0]]))
    foreign[-12:-8] = (7).to_bytes(4, "little")
    with pytest.raises(codec.Malformed):
        counts.note("shop", bytes(foreign))


def test_what_is_forgotten_starts_again_from_nothing() -> None:
    value = pack_requests(REQUESTS, REQUEST_NAMES)
    counts = taken([(f"e{number}", value) for number in range(40)])
    counts.forget({("e7", "blue")})
    for number in range(40):
        found = counts.of((f"e{number}", "blue"))
        assert (found.requests if found else 0) == (number == 7)
    counts.note("e3", value)
    found = counts.of(("e3", "blue"))
    assert found is not None
    assert (found.requests, found.request_bytes) == (1, REQUESTS[0].request_bytes)
