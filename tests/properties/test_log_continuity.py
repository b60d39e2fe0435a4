"""Gaps and duplicates are counted right, whatever order messages come in."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from router.contract.events import DEMAND, SPECS
from router.runtime.log.base import ReaderStats
from router.runtime.log.continuity import GAPS_REMEMBERED, Continuity


def run(sequences: list[int], topic: str = DEMAND, writer: str = "w") -> ReaderStats:
    stats = ReaderStats()
    books = Continuity(stats)
    for sequence in sequences:
        books.saw(topic, writer, sequence)
    return stats


in_order = st.lists(st.integers(0, 200), unique=True).map(sorted)


@given(in_order)
def test_in_order_the_gaps_are_what_lies_between_first_and_last(sequences: list[int]) -> None:
    stats = run(sequences)
    missing = sequences[-1] - sequences[0] + 1 - len(sequences) if sequences else 0
    assert (stats.messages, stats.gaps, stats.duplicates) == (len(sequences), missing, 0)


@given(st.integers(0, 1 << 40), st.integers(1, 100))
def test_without_loss_nothing_is_counted_wherever_reading_starts(first: int, count: int) -> None:
    stats = run(list(range(first, first + count)))
    assert (stats.gaps, stats.duplicates) == (0, 0)
    assert stats.next_sequences == {(DEMAND, "w"): first + count}


@given(st.lists(st.integers(0, 60)).map(lambda rest: [0, *rest]))
def test_any_order_from_the_beginning_is_counted_exactly(sequences: list[int]) -> None:
    stats = run(sequences)
    distinct = set(sequences)
    assert stats.gaps == max(distinct) + 1 - len(distinct)
    assert stats.duplicates == len(sequences) - len(distinct)


@given(st.lists(st.integers(0, 60)).map(lambda rest: [0, *rest]))
def test_compaction_is_no_gap_but_a_duplicate_stays_one(sequences: list[int]) -> None:
    stats = run(sequences, topic=SPECS)
    assert (stats.gaps, stats.duplicates) == (0, len(sequences) - len(set(sequences)))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([DEMAND, "requests"]), st.integers(0, 30))))
def test_writers_and_topics_are_counted_apart(messages: list[tuple[str, str, int]]) -> None:
    stats = ReaderStats()
    books = Continuity(stats)
    apart: dict[tuple[str, str], list[int]] = {}
    for writer, topic, sequence in messages:
        books.saw(topic, writer, sequence)
        apart.setdefault((topic, writer), []).append(sequence)
    alone = [run(sequences, topic, writer) for (topic, writer), sequences in apart.items()]
    assert stats.gaps == sum(one.gaps for one in alone)
    assert stats.duplicates == sum(one.duplicates for one in alone)
    assert stats.messages == len(messages)


@given(st.lists(st.integers(0, 60), max_size=80).map(lambda rest: [0, *rest]))
def test_saw_names_the_duplicates_themselves(sequences: list[int]) -> None:
    books = Continuity(ReaderStats())
    fresh = [books.saw(DEMAND, "w", sequence) for sequence in sequences]
    assert fresh == [sequence not in sequences[:index] for index, sequence in enumerate(sequences)]


def test_what_came_before_the_first_seen_is_neither_gap_nor_duplicate() -> None:
    stats = run([5, 3, 6])
    assert (stats.messages, stats.gaps, stats.duplicates) == (3, 0, 0)


def test_open_gaps_are_bounded() -> None:
    every_other = list(range(0, 4 * GAPS_REMEMBERED, 2))
    stats = run([*every_other, 1])
    assert stats.gaps == len(every_other) - 1
    assert stats.duplicates == 1
