"""Trace context: what makes sense comes back, what does not is none, and the other fields are left as they are."""

from __future__ import annotations

import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from router.policy.trace_context import fields_of, taken_out
from tests.support.contract_strategies import RELAXED

OTHERS = b"\r\ncontent-length: 5\r\nx-traceparent: 00-1\r\ntrace: no"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"
MEMBER = st.tuples(
    st.from_regex(r"[a-z0-9][a-z0-9_*/@-]{0,8}", fullmatch=True), st.from_regex(r"[!-+.-<>-~]{1,8}", fullmatch=True)
)


def context(*parents: str, state: str = "") -> bytes:
    lines = "".join(f"\r\nTraceparent: {one}" for one in parents)
    return (lines + (f"\r\ntracestate: {state}" if state else "")).encode("latin-1")


@RELAXED
@given(
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.integers(0, 3),
    st.lists(MEMBER, max_size=5),
    st.booleans(),
)
def test_what_we_write_is_read_as_it_was_meant(
    trace: int, span: int, flags: int, members: list[tuple[str, str]], behind: bool
) -> None:
    state = ",".join("=".join(one) for one in members).encode()
    ours = fields_of(trace, span, flags, state)
    left, parent = taken_out(OTHERS + ours if behind else ours + OTHERS)
    assert left == OTHERS
    assert parent is not None
    assert (parent.trace, parent.span, parent.flags, parent.state) == (trace, span, flags, state)


@RELAXED
@given(st.binary(max_size=120).filter(lambda one: not set(one) & set(b"\r\n")), st.booleans())
def test_anything_else_is_no_parent_and_breaks_nothing(value: bytes, named_state: bool) -> None:
    line = b"\r\ntracestate: " + value if named_state else b"\r\ntraceparent: " + value
    left, parent = taken_out(OTHERS + line)
    assert left == OTHERS
    assert parent is None or re.match(rb"[ \t]*[0-9a-f]{2}-", value)


@pytest.mark.parametrize(
    "parents",
    [
        [],
        [GOOD, GOOD],
        [f"ff-{TRACE}-{SPAN}-01"],
        [f"00-{TRACE}-{SPAN}-01-more"],
        [f"00-{TRACE}-{SPAN}-01-"],
        [f"01-{TRACE}-{SPAN}-01more"],
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [GOOD.upper()],
        [GOOD[:-1]],
        [f"00-{TRACE}-{SPAN}-0g"],
        ["00-" + TRACE[:-1] + "ä-" + SPAN + "-01"],
        [f"{GOOD},{GOOD}"],
        [""],
    ],
)
def test_a_malformed_or_doubled_parent_is_none_and_takes_the_state_with_it(parents: list[str]) -> None:
    assert taken_out(OTHERS + context(*parents, state="a=1")) == (OTHERS, None)


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    for text in (f"cc-{TRACE}-{SPAN}-09", f"01-{TRACE}-{SPAN}-01-what-the-future-will-be-like"):
        _, parent = taken_out(context(text))
        assert parent is not None
        assert (parent.trace, parent.flags) == (int(TRACE, 16), 1)


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("a=1,b=2", "a=1,b=2"),
        ("tenant@vendor=1, b=2 ,", "tenant@vendor=1, b=2 ,"),
        ("A=1", ""),
        ("a", ""),
        ("a=1=2", ""),
        ("a=\x7f", ""),
        ("a=" + "1" * 600, ""),
        (",".join(f"k{n}=1" for n in range(33)), ""),
    ],
)
def test_a_state_that_makes_no_sense_is_dropped_alone(state: str, kept: str) -> None:
    _, parent = taken_out(context(GOOD, state=state))
    assert parent is not None
    assert parent.state == kept.strip().encode()


def test_states_in_several_fields_are_one() -> None:
    _, parent = taken_out(context(GOOD, state="a=1") + b"\r\ntracestate: b=2")
    assert parent is not None
    assert parent.state == b"a=1,b=2"


def test_a_hostile_state_is_judged_in_a_moment() -> None:
    for state in ("a=" + " " * 500, ", " * 250, "a" * 500, "a=1, " * 31 + "\x01"):
        taken_out(context(GOOD, state=state))
