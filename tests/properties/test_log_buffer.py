"""The buffer against a model: whatever happens, nothing accepted is lost, reordered or numbered with a hole."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from hypothesis import given

from router.contract.errors import Unavailable
from router.contract.events import DEMAND, SPECS
from router.runtime.log.buffer import ROW_BYTES, Buffer, Row

puts = st.tuples(st.just("put"), st.sampled_from([DEMAND, SPECS]), st.integers(0, 200))
commits = st.tuples(st.just("commit"), st.just(""), st.integers(1, 5))
failures = st.tuples(st.just("fail"), st.just(""), st.integers(1, 5))
flushes = st.tuples(st.just("flush"), st.just(""), st.just(0))


@given(st.lists(st.one_of(puts, puts, commits, failures, flushes)))
def test_what_is_accepted_is_committed_once_and_in_order(steps: list[tuple[str, str, int]]) -> None:
    bound = 5 * ROW_BYTES
    buffer = Buffer(bound)
    committed: list[Row] = []
    accepted: list[tuple[str, int]] = []
    dropped: Counter[str] = Counter()
    for action, topic, number in steps:
        if action == "put":
            sequence = buffer.put(topic, "k", b"x" * number, 0)
            if sequence < 0:
                assert topic == DEMAND
                dropped[topic] += 1
            else:
                accepted.append((topic, sequence))
        elif action == "commit":
            rows = buffer.take(number, 1 << 20)
            buffer.committed(rows)
            committed.extend(rows)
        elif action == "fail":
            waiting = buffer.flush()
            assert waiting.done() == (len(committed) == len(accepted))
            buffer.failed(Unavailable("no"))
            assert waiting.done()
        else:
            assert buffer.flush().done() == (len(committed) == len(accepted))
    committed.extend(buffer.take(1 << 20, 1 << 20))
    assert [(row.topic, row.sequence) for row in committed] == accepted
    for topic in (DEMAND, SPECS):
        sequences = [row.sequence for row in committed if row.topic == topic]
        assert sequences == list(range(len(sequences)))
    assert buffer.dropped == dropped


@given(st.lists(st.integers(0, 500), min_size=1), st.integers(1, 10), st.integers(0, 1000))
def test_take_is_bounded_and_never_empty_handed(sizes: list[int], max_rows: int, max_bytes: int) -> None:
    buffer = Buffer(1 << 30)
    for size in sizes:
        buffer.put(DEMAND, "k", b"x" * size, 0)
    rows = buffer.take(max_rows, max_bytes)
    assert 1 <= len(rows) <= max_rows
    assert len(rows) == 1 or sum(len(row.value) for row in rows) <= max_bytes
    assert list(rows) == list(buffer.take(1 << 20, 1 << 20))[: len(rows)]


def test_a_stream_message_larger_than_the_whole_buffer_is_dropped() -> None:
    buffer = Buffer(1_000)
    assert buffer.put(DEMAND, "k", b"x" * 1_001, 0) == -1
    assert buffer.put(SPECS, "k", b"x" * 1_001, 0) == 0
