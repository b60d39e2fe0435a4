"""The shelf of a reader: places that are true at every moment, also while a topic gives way to another of its name."""

from __future__ import annotations

import pytest

pytest.importorskip("aiokafka")

from aiokafka import TopicPartition

from router.contract.events import DEMAND
from router.runtime.log.base import Message
from router.runtime.log.kafka_shelf import SHELF_BYTES, Place, Shelf

HERE, THERE = TopicPartition("p.demand", 0), TopicPartition("p.demand", 1)
OLD, NEW = "a" * 32, "b" * 32


def messages(first: int, count: int, value: bytes = b"") -> list[Message]:
    return [Message(DEMAND, 0, first + n, "e", value, "w", first + n, 0) for n in range(count)]


@pytest.fixture
def shelf() -> Shelf:
    made = Shelf([HERE, THERE])
    made.start({HERE: Place(10)})
    assert not made.identify(HERE, OLD)
    assert not made.identify(THERE, OLD)
    return made


def test_a_place_moves_when_what_is_before_it_is_taken(shelf: Shelf) -> None:
    shelf.put(HERE, messages(10, 3), 15)
    assert (shelf.cursors[HERE], shelf.ahead[HERE]) == (Place(10, OLD), Place(15, OLD))
    assert [one.offset for one in shelf.take(2)] == [10, 11]
    assert shelf.cursors[HERE] == Place(12, OLD)
    assert [one.offset for one in shelf.take(2)] == [12]
    assert shelf.cursors[HERE] == Place(15, OLD), "past what was skipped too"
    assert shelf.cursors[THERE] == Place(0, OLD)


def test_what_is_left_of_an_old_topic_is_taken_before_the_new_one_begins(shelf: Shelf) -> None:
    shelf.put(HERE, messages(10, 2), 12)
    assert shelf.identify(HERE, NEW)
    assert shelf.ahead[HERE] == Place(0, NEW)
    shelf.put(HERE, messages(0, 1), 1)
    assert [one.offset for one in shelf.take(1)] == [10]
    assert shelf.cursors[HERE] == Place(11, OLD)
    assert [one.offset for one in shelf.take(9)] == [11, 0]
    assert shelf.cursors[HERE] == Place(1, NEW)


def test_a_goal_in_one_topic_is_not_reached_by_a_place_in_another(shelf: Shelf) -> None:
    goal = {HERE: Place(10, OLD)}
    assert shelf.is_about(goal)
    assert shelf.reached(goal)
    shelf.identify(HERE, NEW)
    assert not shelf.is_about(goal)
    assert not shelf.reached({HERE: Place(3, NEW)})
    shelf.put(HERE, messages(0, 3), 3)
    shelf.take(9)
    assert shelf.reached({HERE: Place(3, NEW)})


def test_without_ids_what_begins_anew_has_not_reached_an_earlier_place() -> None:
    shelf = Shelf([HERE])
    shelf.start({HERE: Place(50)})
    shelf.begin_anew(HERE, "")
    assert not shelf.reached({HERE: Place(3)})
    shelf.take(9)
    assert shelf.cursors[HERE] == Place(0)


def test_there_is_no_room_for_more_until_half_is_taken(shelf: Shelf) -> None:
    shelf.put(HERE, messages(10, 4, bytes(SHELF_BYTES // 4)), 14)
    assert not shelf.room.is_set()
    shelf.take(2)
    assert not shelf.room.is_set()
    shelf.take(1)
    assert shelf.room.is_set()
