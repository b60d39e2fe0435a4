"""Gaps and duplicates are counted right, whatever order messages come in and whatever was folded on their way."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from router.contract.events import DEMAND, REQUESTS, SNAPSHOTS, SPECS
from router.runtime.log import continuity
from router.runtime.log.base import Message, ReaderStats
from router.runtime.log.continuity import GAPS_REMEMBERED, Continuity
from router.runtime.log.folding import join_sequences


def message(sequence: int, topic: str = DEMAND, writer: str = "w", partition: int = 0, replaces: str = "") -> Message:
    return Message(topic, partition, 0, "shop", b"", writer, sequence, 0, replaces)


def standing_for(*sequences: int, topic: str = DEMAND) -> Message:
    newest, replaces = join_sequences((one, "") for one in sequences)
    return message(newest, topic, replaces=replaces)


def run(messages: list[Message]) -> ReaderStats:
    stats = ReaderStats()
    books = Continuity(stats)
    for one in messages:
        books.saw(one)
    return stats


def plain(sequences: list[int], topic: str = DEMAND) -> ReaderStats:
    return run([message(one, topic) for one in sequences])


in_order = st.lists(st.integers(0, 200), unique=True).map(sorted)
batches = st.lists(st.sets(st.integers(0, 40), min_size=1, max_size=8), max_size=30)
"""What each message stands for: mostly folded ones, in any order, overlapping as they like."""


@given(in_order)
def test_in_order_the_gaps_are_what_lies_between_first_and_last(sequences: list[int]) -> None:
    stats = plain(sequences)
    missing = sequences[-1] - sequences[0] + 1 - len(sequences) if sequences else 0
    assert (stats.messages, stats.gaps, stats.duplicates) == (len(sequences), missing, 0)


@given(st.integers(0, 1 << 40), st.integers(1, 100))
def test_without_loss_nothing_is_counted_wherever_reading_starts(first: int, count: int) -> None:
    stats = plain(list(range(first, first + count)))
    assert (stats.gaps, stats.duplicates) == (0, 0)
    assert stats.next_sequences == {(DEMAND, 0, "w"): first + count}


@given(st.lists(st.integers(0, 60)).map(lambda rest: [0, *rest]))
def test_any_order_from_the_beginning_is_counted_exactly(sequences: list[int]) -> None:
    stats = plain(sequences)
    distinct = set(sequences)
    assert stats.gaps == max(distinct) + 1 - len(distinct)
    assert stats.duplicates == len(sequences) - len(distinct)


@pytest.mark.parametrize("topic", [SPECS, SNAPSHOTS])
@given(sequences=st.lists(st.integers(0, 60)).map(lambda rest: [0, *rest]))
def test_compaction_is_no_gap_but_a_duplicate_stays_one(topic: str, sequences: list[int]) -> None:
    stats = plain(sequences, topic=topic)
    assert (stats.gaps, stats.duplicates) == (0, len(sequences) - len(set(sequences)))


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from([DEMAND, REQUESTS]), st.integers(0, 2), st.integers(0, 30))
    )
)
def test_writers_topics_and_partitions_are_counted_apart(seen: list[tuple[str, str, int, int]]) -> None:
    stats = run([message(sequence, topic, writer, partition) for writer, topic, partition, sequence in seen])
    apart: dict[tuple[str, str, int], list[int]] = {}
    for writer, topic, partition, sequence in seen:
        apart.setdefault((topic, writer, partition), []).append(sequence)
    alone = {source: plain(sequences, source[0]) for source, sequences in apart.items()}
    assert stats.gaps == sum(one.gaps for one in alone.values())
    assert stats.duplicates == sum(one.duplicates for one in alone.values())
    assert stats.messages == len(seen)
    for topic in (DEMAND, REQUESTS):
        of_topic = [one for source, one in alone.items() if source[0] == topic]
        assert stats.gaps_by_topic.get(topic, 0) == sum(one.gaps for one in of_topic)
        assert stats.duplicates_by_topic.get(topic, 0) == sum(one.duplicates for one in of_topic)


@given(st.lists(st.integers(0, 60), max_size=80).map(lambda rest: [0, *rest]))
def test_saw_names_the_duplicates_themselves(sequences: list[int]) -> None:
    books = Continuity(ReaderStats())
    fresh = [books.saw(message(sequence)) for sequence in sequences]
    assert fresh == [sequence not in sequences[:index] for index, sequence in enumerate(sequences)]


@given(batches)
def test_folded_in_any_order_from_the_beginning_is_counted_exactly(rest: list[set[int]]) -> None:
    stats = ReaderStats()
    books = Continuity(stats)
    seen: set[int] = set()
    total = 0
    for batch in [{0}, *rest]:
        assert books.saw(standing_for(*batch)) is bool(batch - seen)
        seen |= batch
        total += len(batch)
        assert stats.gaps == max(seen) + 1 - len(seen)
        assert stats.duplicates == total - len(seen)
    assert (stats.gaps_by_topic.get(DEMAND, 0), stats.duplicates_by_topic.get(DEMAND, 0)) == (
        stats.gaps, stats.duplicates,
    )  # fmt: skip


@given(st.sets(st.integers(1, 40), min_size=1), batches)
def test_what_the_first_message_leaves_open_is_unknown_not_missing(first: set[int], rest: list[set[int]]) -> None:
    stats = ReaderStats()
    books = Continuity(stats)
    assert books.saw(standing_for(*first))
    assert (stats.gaps, stats.duplicates) == (0, 0)
    assert not books.saw(standing_for(*first))
    assert (stats.gaps, stats.duplicates) == (0, len(first))
    for batch in rest:
        books.saw(standing_for(*batch))
    seen = first.union(*rest)
    assert stats.gaps == len(set(range(max(first) + 1, max(seen) + 1)) - seen)


@given(st.lists(st.sets(st.integers(0, 30), min_size=1), min_size=1, max_size=6), st.permutations(range(31)))
def test_any_folding_of_everything_leaves_no_gap(batches: list[set[int]], order: list[int]) -> None:
    """Whatever is folded, and in whatever order it arrives: from the beginning, all sequences means no gap."""
    left = set(range(31)) - {0}.union(*batches)
    stats = run(
        [message(0), *(standing_for(*batch) for batch in batches), *(message(at) for at in order if at in left)]
    )
    assert stats.gaps == 0


def test_a_message_of_which_a_part_is_new_is_taken_and_the_rest_counted() -> None:
    stats = ReaderStats()
    books = Continuity(stats)
    for sequence in (0, 1, 2):
        assert books.saw(message(sequence))
    assert books.saw(message(5, replaces="1-4"))
    assert (stats.gaps, stats.duplicates, stats.duplicates_by_topic) == (0, 2, {DEMAND: 2})
    assert not books.saw(message(5, replaces="1-4"))
    assert not books.saw(message(3))
    assert (stats.gaps, stats.duplicates, stats.next_sequences) == (0, 8, {(DEMAND, 0, "w"): 6})


@pytest.mark.parametrize("text", ["x", "4-2", "3,2", "-1", "1-", ",", "1,,2", "١", "1" * 9000])
def test_a_replaces_that_makes_no_sense_counts_as_none(text: str) -> None:
    stats = run([message(0), message(3, replaces=text)])
    assert (stats.messages, stats.gaps, stats.duplicates) == (2, 2, 0)


def test_the_longest_range_there_can_be_is_counted_too() -> None:
    stats = run([message(0), message(2**63 - 2, replaces=f"0-{2**63 - 3}")])
    assert (stats.gaps, stats.duplicates) == (0, 1)


def test_what_came_late_is_told_apart_from_what_never_did() -> None:
    stats = run([message(0), message(9), message(8, replaces="3-5"), message(3)])
    assert (stats.gaps_by_topic, stats.late_by_topic) == ({DEMAND: 4}, {DEMAND: 4})
    assert (stats.gaps, stats.duplicates_by_topic) == (4, {DEMAND: 1})


def test_what_came_before_the_first_seen_is_neither_gap_nor_duplicate() -> None:
    stats = plain([5, 3, 6])
    assert (stats.messages, stats.gaps, stats.duplicates) == (3, 0, 0)
    books = Continuity(ReaderStats())
    assert [books.saw(one) for one in (message(5), message(3), message(4, replaces="1-2"))] == [True] * 3
    assert not books.saw(message(5))


def test_open_gaps_are_bounded() -> None:
    every_other = list(range(0, 4 * GAPS_REMEMBERED, 2))
    stats = plain([*every_other, 1])
    assert stats.gaps == len(every_other) - 1
    assert stats.duplicates == 1


def test_writers_are_bounded_and_a_forgotten_one_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuity, "SOURCES_REMEMBERED", 3)
    stats = run([message(0, writer=writer) for writer in "abcd"])
    assert [writer for _, _, writer in stats.next_sequences] == ["b", "c", "d"]
    books = Continuity(stats := ReaderStats())
    for writer in "abcd":
        books.saw(message(0, writer=writer))
        books.saw(message(2, writer=writer))
    assert stats.gaps == 4
    assert books.saw(message(7, writer="a"))
    assert (stats.gaps, stats.duplicates, len(stats.next_sequences)) == (4, 0, 3)
