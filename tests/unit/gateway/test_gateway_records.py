"""The ledger: what goes in comes out, however often names change, buffers fill and requests last."""

from __future__ import annotations

import time

from router.contract.codec import decode_requests, encode_profile
from router.contract.events import NEVER_CAME, CallProfile, Outcome, RequestRecord
from router.gateway.records import AT_ONCE, MOST, NOT_COME, PATIENCE, PROFILE_CHARACTERS, Flushing, Ledger
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


class Many:
    """Ledgers of many endpoints on one log, which keeps whose records it got."""

    def __init__(self, count: int) -> None:
        self.keys: list[str] = []
        self.records = 0
        due: list[Ledger] = []
        self.flushing = Flushing(due)
        self.ledgers = [Ledger(self, f"e{number}", Counters(), due) for number in range(count)]  # type: ignore[arg-type]

    def append(self, _: str, key: str, value: bytes) -> int:
        self.keys.append(key)
        self.records += len(decode_requests(value))
        return len(self.keys)

    def finish(self, number: int) -> None:
        start = time.monotonic_ns()
        self.ledgers[number].add(number, start, 200, 200, 0, 0, 5, 5, start, start, start, "blue", "one")

    def turn(self, *, everything: bool = False) -> list[str]:
        self.keys.clear()
        for _ in self.flushing.turn(everything=everything):
            pass
        return list(self.keys)


def test_few_endpoints_have_their_records_on_the_log_with_the_next_turn() -> None:
    many = Many(AT_ONCE)
    for number in range(AT_ONCE):
        many.finish(number)
    assert many.turn() == [f"e{number}" for number in range(AT_ONCE)]
    assert many.turn() == []


def test_of_many_endpoints_each_gathers_records_for_a_bounded_number_of_turns() -> None:
    count = 12 * AT_ONCE
    many, waiting, finished = Many(count), dict[str, int](), 0
    for turn in range(5 * PATIENCE):
        for number in range(turn % 3, count, 3):
            many.finish(number)
            finished += 1
            waiting.setdefault(f"e{number}", turn)
        told = many.turn()
        assert len(told) >= AT_ONCE
        assert all(turn - waiting.pop(name) <= PATIENCE for name in told)
    rest = many.turn(everything=True)
    assert set(rest) == set(waiting)
    assert many.records == finished
    assert many.turn() == []


def test_what_is_left_over_goes_first_when_it_gets_calmer() -> None:
    many = Many(2 * AT_ONCE + 1)
    for number in range(len(many.ledgers)):
        many.finish(number)
    first = many.turn()
    many.finish(0)
    second, third = many.turn(), many.turn()
    assert (len(first), len(second)) == (AT_ONCE, AT_ONCE)
    assert third == [f"e{2 * AT_ONCE}", "e0"]


def test_a_full_ledger_does_not_wait_for_its_turn() -> None:
    many = Many(1)
    for _ in range(MOST + 1):
        many.finish(0)
    assert many.records == MOST
    many.turn()
    assert many.records == MOST + 1


def test_what_a_turn_that_was_broken_off_has_left_comes_with_the_next() -> None:
    many = Many(AT_ONCE)
    for number in range(AT_ONCE):
        many.finish(number)
    next(many.flushing.turn())
    assert 0 < len(many.keys) < AT_ONCE
    told = list(many.keys)
    assert told + many.turn() == [f"e{number}" for number in range(AT_ONCE)]
