"""What a reader notices of each writer: kept apart for those noticed last, added up for the others, and it only grows."""

from __future__ import annotations

from router.contract.events import DEMAND, REPLICAS, REQUESTS
from router.runtime.log.base import OTHER_WRITERS, WRITERS_NOTICED, Message, Noticed, ReaderStats
from router.runtime.log.continuity import Continuity


def message(writer: str, sequence: int, topic: str = DEMAND, replaces: str = "") -> Message:
    return Message(topic, 0, 0, "shop", b"", writer, sequence, 0, replaces)


def seen(*messages: Message) -> ReaderStats:
    stats = ReaderStats()
    books = Continuity(stats)
    for one in messages:
        books.saw(one)
    return stats


def test_a_gap_a_late_message_and_a_duplicate_stand_with_their_writer() -> None:
    numbers = [0, 4, 2, 2, 5]
    stats = seen(*(message("a", one) for one in numbers), message("b", 7), message("b", 8), message("b", 8))
    assert stats.by_writer == {(DEMAND, "a"): Noticed(3, 1, 1), (DEMAND, "b"): Noticed(0, 0, 1)}
    assert (stats.gaps, stats.duplicates) == (2, 2)


def test_topics_are_apart_and_compaction_is_no_gap() -> None:
    stats = seen(
        message("a", 0), message("a", 2), message("a", 0, REQUESTS), message("a", 3, REQUESTS), message("a", 0, REPLICAS),
        message("a", 9, REPLICAS),
    )  # fmt: skip
    assert stats.by_writer == {(DEMAND, "a"): Noticed(1), (REQUESTS, "a"): Noticed(2)}


def test_a_folded_message_that_was_known_in_part_counts_that_part() -> None:
    stats = seen(message("a", 0), message("a", 1), message("a", 4, replaces="1-3"))
    assert stats.by_writer == {(DEMAND, "a"): Noticed(duplicates=1)}


def test_writers_are_bounded_and_nothing_that_was_counted_is_lost() -> None:
    stats = ReaderStats()
    books = Continuity(stats)
    for number in range(WRITERS_NOTICED + 50):
        books.saw(message(f"w{number}", 0))
        books.saw(message(f"w{number}", 2))
    assert len(stats.by_writer) == WRITERS_NOTICED + 1
    assert sum(one.gaps for one in stats.by_writer.values()) == WRITERS_NOTICED + 50
    assert stats.by_writer[DEMAND, OTHER_WRITERS].gaps >= 50
    assert (DEMAND, f"w{WRITERS_NOTICED + 49}") in stats.by_writer


def test_readers_are_added_up() -> None:
    whole = ReaderStats()
    for _ in range(2):
        whole.add(seen(message("a", 0), message("a", 3), message("a", 1)))
    assert whole.by_writer == {(DEMAND, "a"): Noticed(4, 2, 0)}
    assert (whole.gaps, whole.gaps_by_topic[DEMAND], whole.late_by_topic[DEMAND], whole.messages) == (2, 2, 2, 6)
