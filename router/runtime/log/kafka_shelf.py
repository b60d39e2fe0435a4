"""What a reader has fetched and not handed out yet, and its two sets of places: where it fetches, and where it hands out.

A place is an offset in one incarnation of a topic. When a topic was made anew, fetching begins again at its start, and a
mark on the shelf says where what is handed out changes over: so whoever stores a place always stores a true one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from aiokafka import TopicPartition

from router.runtime.log.base import Message

SHELF_BYTES = 16 << 20
"""Fetched and not handed out yet: bounds the memory of a reader that falls behind."""


class Place(NamedTuple):
    """Where to read on in one partition."""

    offset: int
    incarnation: str = ""
    """See `Position.incarnation`."""


class _Anew(NamedTuple):
    """From here on, what came from `partition` is of another topic of the same name."""

    partition: TopicPartition
    incarnation: str


class Shelf:
    """Filled by the task that fetches, emptied by whoever reads."""

    def __init__(self, partitions: Iterable[TopicPartition]) -> None:
        self.cursors: dict[TopicPartition, Place] = dict.fromkeys(partitions, Place(0))
        """After everything that was handed out."""
        self.ahead: Mapping[TopicPartition, Place] = {}
        """After everything that was fetched."""
        self.news = asyncio.Event()
        """Set when there may be something."""
        self.room = asyncio.Event()
        """Set while there is room for more."""
        self.room.set()
        self._ahead: dict[TopicPartition, Place] = {}
        self._entries: deque[tuple[TopicPartition, Message] | _Anew] = deque()
        self._marks = 0
        self._bytes = 0

    def start(self, places: Mapping[TopicPartition, Place]) -> None:
        """Begin there; nothing may be on the shelf."""
        self.cursors.update(places)
        self.ahead = self._ahead = dict(self.cursors)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._entries

    # the fetching side -----------------------------------------------------------------------------------------

    def put(self, partition: TopicPartition, messages: Sequence[Message], next_offset: int) -> None:
        """Messages that were fetched, and where that goes on."""
        self._entries.extend((partition, message) for message in messages)
        self._bytes += sum(len(message.value) for message in messages)
        self._ahead[partition] = self._ahead[partition]._replace(offset=next_offset)
        if self._bytes >= SHELF_BYTES:
            self.room.clear()
        self.news.set()

    def identify(self, partition: TopicPartition, incarnation: str) -> bool:
        """Say which topic it is that is there now; True when it was another one before, and begins anew."""
        known = self._ahead[partition].incarnation
        if known == incarnation:
            return False
        if not known:
            self._ahead[partition] = self._ahead[partition]._replace(incarnation=incarnation)
            if not self.cursors[partition].incarnation:
                self.cursors[partition] = self.cursors[partition]._replace(incarnation=incarnation)
            return False
        self.begin_anew(partition, incarnation)
        return True

    def begin_anew(self, partition: TopicPartition, incarnation: str) -> None:
        """What is fetched next is the beginning of another topic of that name."""
        self._ahead[partition] = Place(0, incarnation)
        self._entries.append(_Anew(partition, incarnation))
        self._marks += 1
        self.news.set()

    # the reading side ------------------------------------------------------------------------------------------

    def take(self, most: int) -> list[Message]:
        """The next messages, in the order in which they were fetched."""
        found: list[Message] = []
        while self._entries and len(found) < most:
            entry = self._entries.popleft()
            if isinstance(entry, _Anew):
                self.cursors[entry.partition] = Place(0, entry.incarnation)
                self._marks -= 1
                continue
            partition, message = entry
            self._bytes -= len(message.value)
            self.cursors[partition] = Place(message.offset + 1, self.cursors[partition].incarnation)
            found.append(message)
        self.level()
        if self._bytes < SHELF_BYTES // 2:
            self.room.set()
        return found

    def level(self) -> None:
        """Move past what was skipped, when nothing that was fetched is left to take."""
        if not self._entries:
            self.cursors.update(self._ahead)

    def is_about(self, goal: Mapping[TopicPartition, Place]) -> bool:
        """Whether the topics that are fetched now are those of `goal`."""
        return all(self._ahead[partition].incarnation == place.incarnation for partition, place in goal.items())

    def reached(self, goal: Mapping[TopicPartition, Place]) -> bool:
        """Whether everything before `goal` was taken. Only of one that `is_about` these topics."""
        self.level()
        return not self._marks and all(self.cursors[one].offset >= place.offset for one, place in goal.items())
