"""The ledger: what goes in comes out, however often names change, buffers fill and requests last."""

from __future__ import annotations

import time

from router.contract.codec import decode_requests, encode_profile
from router.contract.events import NEVER_CAME, CallProfile, Outcome, RequestRecord
from router.gateway.records import MOST, NOT_COME, PROFILE_CHARACTERS, Ledger
from router.gateway.state import Counters

HOUR_NS = 3600 * 10**9


class Kept:
    """A log that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def append(self, topic: str, key: str, value: bytes) -> int:
        assert (topic, key) == ("requests", "tides")
        self.messages.append(value)
        return len(self.messages) - 1

    @property
    def records(self) -> list[RequestRecord]:
        return [record for message in self.messages for record in decode_requests(message)]


def test_every_record_comes_out_under_its_own_names_in_order() -> None:
    kept = Kept()
    ledger = Ledger(kept, "tides", Counters())  # type: ignore[arg-type]  # append is all it needs
    start = time.monotonic_ns()
    count = 2 * MOST + 7
    for number in range(count):
        blue = number % 3 > 0
        where = ("blue" if blue else "green", f"replica-{number % 5}" if blue else "")
        begun = start + number
        ledger.add(
            number, begun, 200, 201, 0, 3, 10, 20, begun + 5_000, begun + 7_999, begun + 9_000, *where
        )  # fmt: skip
        if number in (0, 100):
            ledger.flush()
    ledger.flush()
    ledger.flush()
    found = kept.records
    assert [one.sequence for one in found] == list(range(count))
    assert [one.deployment for one in found] == ["blue" if number % 3 else "green" for number in range(count)]
    assert [one.replica for one in found] == [f"replica-{number % 5}" if number % 3 else "" for number in range(count)]
    assert {(one.wait_us, one.first_byte_us, one.total_us) for one in found} == {(5, 7, 9)}
    assert all(b - a == 1 for a, b in zip([r.start_ns for r in found], [r.start_ns for r in found][1:], strict=False))
    assert all(kept.messages)


def test_what_never_came_is_zero_and_what_lasted_too_long_for_its_field_is_the_most_it_holds() -> None:
    kept = Kept()
    ledger = Ledger(kept, "tides", Counters())  # type: ignore[arg-type]
    start = time.monotonic_ns()
    ledger.add(1, start, 503, 0, Outcome.NO_REPLICA, 0, 0, 0, 0, 0, start + 1_000_000, "blue", "")
    ledger.add(2, start, 200, 200, 0, 0, 5, 5, start + 1000, start + HOUR_NS, start + 2 * HOUR_NS, "blue", "one")
    ledger.flush()
    refused, long = kept.records
    assert (refused.wait_us, refused.first_byte_us, refused.total_us) == (0, 0, 1000)
    assert (long.wait_us, long.first_byte_us, long.total_us) == (1, 3_600_000_000, 2**32 - 1)


def test_what_requests_have_in_common_is_one_name_and_what_only_some_have_costs_only_those() -> None:
    kept = Kept()
    ledger = Ledger(kept, "tides", Counters())  # type: ignore[arg-type]
    start = time.monotonic_ns()
    common = CallProfile("POST", "/score", "HTTP/1.1", "Key", "tides/1.0")
    for number in range(1000):
        ledger.add(number, start, 200, 200, 0, 0, 5, 5, start, start, start, "blue", "one", encode_profile(common))
    ledger.flush()
    ledger.add(1000, start, 200, 200, 0, 0, 5, 5, start, start, start, "blue", "one", "", start + 7_000_000)
    ledger.add(
        1001, start, 429, 0, Outcome.QUEUE_FULL, 0, 5, 0, 0, 0, start, "blue", "", "", NOT_COME, "TooManyRequests"
    )
    ledger.add(1002, start, 200, 200, 0, 0, 5, 5, start, start, start, "blue", "one", "", start + 2 * 3600 * 10**9)
    ledger.flush()
    found = kept.records
    assert {(one.profile, one.request_us, one.refusal) for one in found[:1000]} == {(common, 0, "")}
    assert len(kept.messages[0]) < 1000 * 57 + 200
    assert [(one.request_us, one.refusal) for one in found[1000:]] == [
        (7000, ""),
        (NEVER_CAME, "TooManyRequests"),
        (2**32 - 2, ""),
    ]


def test_too_many_different_callers_in_one_message_are_counted_and_cut_to_what_has_few_values() -> None:
    kept, counters = Kept(), Counters()
    ledger = Ledger(kept, "tides", counters)  # type: ignore[arg-type]
    start = time.monotonic_ns()

    def add(number: int) -> None:
        profile = CallProfile("POST", "/score", "HTTP/1.1", "Key", f"agent-{number:060}", f"{number:040}")
        ledger.add(number, start, 200, 200, 0, 0, 5, 5, start, start, start, "blue", "one", encode_profile(profile))

    for number in range(MOST):
        add(number)
    ledger.flush()
    found = kept.records
    whole = [one for one in found if one.profile.user_agent]
    assert len(found) == MOST
    assert counters.shortened == MOST - len(whole) > 0
    assert all(one.profile.client_request_id == f"{one.sequence:040}" for one in whole)
    assert {one.profile for one in found[len(whole) :]} == {CallProfile("POST", "", "HTTP/1.1", "Key")}
    assert len(kept.messages[0]) < MOST * 57 + 2 * PROFILE_CHARACTERS
    add(0)
    ledger.flush()
    assert kept.records[-1].profile.user_agent
