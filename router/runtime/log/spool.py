"""The spool: the embedded log's file as the place where messages wait for Kafka, and where the copy of its compacted
topics is kept.

A row is *outgoing* until the broker has acknowledged it: then a stream's row goes, and a compacted topic's stays as part
of the copy. What other machines wrote is copied next to it, so that order by offset is the order of arrival.

What a crash costs: a killed process only what it had accepted within the last few milliseconds and not committed; a
power cut also what was committed within the last 50 ms and the time of one sync, while a shipper runs; while none does,
what was committed since SQLite's last checkpoint (about 16 MiB of rows).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from router.contract.events import COMPACTED
from router.runtime.log import spool_link
from router.runtime.log.base import Health, Message, Position
from router.runtime.log.embedded_store import OUTGOING_ROW_BYTES, Store, translated
from router.runtime.log.kafka_messages import Outgoing
from router.runtime.log.spool_link import Link

# By the index of outgoing rows: SQLite does not know that there are few of them beside the copy.
_OUTGOING = """
SELECT offset, topic, key, writer, sequence, time_ns, value, replaces, partition
FROM messages INDEXED BY messages_outgoing WHERE outgoing = 1 AND offset >= ? {0} ORDER BY offset LIMIT ?
"""
_NOT_ON = "AND topic NOT IN (SELECT value FROM json_each(?))"
_NAMED = "offset IN (SELECT value FROM json_each(?))"
_COPY = """
INSERT INTO messages (topic, partition, key, writer, sequence, time_ns, compacted, replaces, value, checksum)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8, checksum_of(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8))
"""
_AGAIN = """
UPDATE messages SET outgoing = 1 WHERE topic = ?1 AND compacted = 1 AND outgoing = 0
AND writer IN (SELECT writer FROM writers)
AND offset IN (SELECT max(offset) FROM messages WHERE topic = ?1 AND compacted = 1 GROUP BY key)
"""


class Size(NamedTuple):
    """What waits."""

    rows: int
    bytes: int
    """Values, and what each row takes besides."""
    oldest_ns: int
    """When the oldest was appended, Unix nanoseconds; 0 when nothing waits."""


class Spool:
    """What only a spool needs, on top of one open store. Used by the store's thread."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._db = store._db
        self._path = store.path
        self._attempted: dict[str, int] = {}

    @classmethod
    def open(cls, path: Path, *, busy_seconds: float = 5.0) -> Self:
        """The spool in the file `path`, made if absent. Raises `Unavailable`."""
        return cls(Store(path, busy_seconds=busy_seconds))

    def close(self) -> None:
        """Let go of the file. May be repeated."""
        self.store.close()

    # what waits ----------------------------------------------------------------------------------------------------

    def outgoing(
        self, max_rows: int, max_bytes: int, *, start: int = 0, without: Collection[str] = ()
    ) -> list[Outgoing]:
        """The oldest rows to be shipped, from the offset `start` on and not on the topics `without`.

        Stops after the row that reaches `max_bytes` of values.
        """
        found: list[Outgoing] = []
        size = 0
        query = _OUTGOING.format(_NOT_ON if without else "")
        skipped = (json.dumps(sorted(without)),) if without else ()
        with translated(self._path):
            cursor = self._db.execute(query, (start, *skipped, max_rows))
            for offset, topic, key, writer, sequence, time_ns, value, *rest in cursor:
                found.append(Outgoing(offset, topic, key, writer.hex(), sequence, time_ns, value, *rest))
                size += len(value)
                if size >= max_bytes:
                    break
            cursor.close()
        return found

    def attempt(self, rows: Iterable[Outgoing]) -> None:
        """Note that these may reach the broker from now on, acknowledged or not: they must not be folded any more."""
        newest = {row.topic: row.offset for row in rows}
        for topic, offset in newest.items():  # also known when it cannot be written, on a full disk
            self._attempted[topic] = max(offset, self._attempted.get(topic, 0))
        update = "INSERT INTO attempted VALUES (?1, ?2) ON CONFLICT (topic) DO UPDATE SET offset = max(offset, ?2)"
        with translated(self._path), self.store._writing():
            self._db.executemany(update, list(newest.items()))

    def attempted(self, topic: str) -> int:
        """Up to which offset rows of `topic` may have reached the broker."""
        with translated(self._path):
            row = self._db.execute("SELECT offset FROM attempted WHERE topic = ?", (topic,)).fetchone()
        return max(self._attempted.get(topic, 0), 0 if row is None else int(row[0]))

    def acknowledged(self, rows: Sequence[Outgoing]) -> None:
        """The broker has these for good, in one transaction. Safe to repeat."""
        named = json.dumps([row.offset for row in rows])
        with translated(self._path), self.store._writing():
            delete = f"DELETE FROM messages WHERE {_NAMED} AND outgoing = 1 AND compacted = 0"  # noqa: S608 -- constants
            keep = f"UPDATE messages SET outgoing = 0 WHERE {_NAMED} AND outgoing = 1"  # noqa: S608 -- constants
            changed = self._db.execute(delete, (named,)).rowcount + self._db.execute(keep, (named,)).rowcount
            if changed == len(rows):
                self._no_longer_outgoing(rows, gone=True)
            else:
                self.store._recount({row.topic for row in rows})

    def _no_longer_outgoing(self, rows: Iterable[Outgoing], *, gone: bool) -> None:
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        for row in rows:
            counts[row.topic] += 1
            sizes[row.topic] += len(row.value)
        update = """UPDATE usage SET outgoing_rows = outgoing_rows - ?2, outgoing_bytes = outgoing_bytes - ?3,
                    bytes = bytes - ?4 WHERE topic = ?1"""
        freed = {topic: sizes[topic] if gone and topic not in COMPACTED else 0 for topic in counts}
        self._db.executemany(update, [(topic, counts[topic], sizes[topic], freed[topic]) for topic in counts])

    def set_aside(self, rows: Sequence[Outgoing], reason: str, now_ns: int) -> None:
        """These can never be sent: they stay in the file, marked, and hold up nothing."""
        with translated(self._path), self.store._writing():
            update = f"UPDATE messages SET outgoing = 0 WHERE {_NAMED}"  # noqa: S608 -- constants
            self._db.execute(update, (json.dumps([row.offset for row in rows]),))
            insert = "INSERT OR REPLACE INTO set_aside VALUES (?, ?, ?)"
            self._db.executemany(insert, [(row.offset, now_ns, reason) for row in rows])
            self.store._recount({row.topic for row in rows})

    def try_again(self) -> int:
        """What was set aside waits again, with the reason perhaps mended since: how many rows."""
        with translated(self._path), self.store._writing():
            update = "UPDATE messages SET outgoing = 1 WHERE offset IN (SELECT offset FROM set_aside) RETURNING topic"
            topics = [topic for (topic,) in self._db.execute(update)]
            self._db.execute("DELETE FROM set_aside")
            self.store._recount(set(topics))
        return len(topics)

    def ship_again(self, topics: Iterable[str]) -> int:
        """The newest message of each compacted key that this machine wrote waits again: how many.

        For topics that were lost on the broker and made anew.
        """
        with translated(self._path), self.store._writing():
            count = sum(self._db.execute(_AGAIN, (topic,)).rowcount for topic in topics)
            self.store._recount(set(topics))
        return count

    # the copy --------------------------------------------------------------------------------------------------------

    def copy(self, messages: Sequence[Message], positions: Iterable[Position]) -> Counter[str]:
        """Take over messages of compacted topics as read from Kafka, together with where to read on.

        Returns topic → messages that were taken over.

        Those that this machine wrote are here already. One that was copied before moves to the end, because what is
        read again comes in Kafka's order again.
        """
        with translated(self._path), self.store._writing():
            ours = {name: self._is_ours(bytes.fromhex(name)) for name in {message.writer for message in messages}}
            rows = [
                (
                    one.topic,
                    one.partition,
                    one.key,
                    bytes.fromhex(one.writer),
                    one.sequence,
                    one.time_ns,
                    one.replaces,
                    one.value,
                )
                for one in messages
                if not ours[one.writer]
            ]
            forget = "DELETE FROM messages WHERE topic = ? AND partition = ? AND writer = ? AND sequence = ?"
            known = 0
            for row in rows:
                known += self._db.execute(forget, (row[0], row[1], row[3], row[4])).rowcount
                self._db.execute(_COPY, row)
            counts = Counter(row[0] for row in rows)
            if known:
                self.store._recount(counts)
            else:
                self.store._count(counts, _sizes((row[0], row[7]) for row in rows))
            self._db.executemany("INSERT OR REPLACE INTO copied VALUES (?, ?, ?, ?)", list(positions))
        return counts

    def _is_ours(self, writer: bytes) -> bool:
        return self._db.execute("SELECT 1 FROM writers WHERE writer = ?", (writer,)).fetchone() is not None

    def copied(self) -> list[Position]:
        """Where to read on."""
        with translated(self._path):
            return [
                Position(*row) for row in self._db.execute("SELECT topic, partition, offset, incarnation FROM copied")
            ]

    def forget_copied(self, topics: Iterable[str]) -> None:
        """Read these from their beginning again."""
        with translated(self._path), self.store._writing():
            self._db.executemany("DELETE FROM copied WHERE topic = ?", [(topic,) for topic in topics])

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises `Unavailable`."""
        with translated(self._path), self.store._writing():
            yield self._db

    def topic_bytes(self, topic: str) -> int:
        """What the rows of `topic` that wait take."""
        query = "SELECT outgoing_rows, outgoing_bytes FROM usage WHERE topic = ?"
        with translated(self._path):
            rows, size = self._db.execute(query, (topic,)).fetchone() or (0, 0)
        return int(size) + int(rows) * OUTGOING_ROW_BYTES

    def rewrite(self, topic: str, offset: int, value: bytes) -> bool:
        """Give a row that waits another value, within a transaction. False when it does not wait any more."""
        query = "SELECT length(value) FROM messages WHERE offset = ? AND outgoing = 1"
        found = self._db.execute(query, (offset,)).fetchone()
        if found is None:
            return False
        self.exchange(offset, value)
        update = "UPDATE usage SET bytes = bytes + ?2, outgoing_bytes = outgoing_bytes + ?2 WHERE topic = ?1"
        self._db.execute(update, (topic, len(value) - found[0]))
        return True

    def exchange(self, offset: int, value: bytes, replaces: str = "") -> None:
        """Give a row another value, within a transaction whose books the caller keeps."""
        update = """UPDATE messages SET value = ?2, replaces = ?3,
                    checksum = checksum_of(topic, partition, key, writer, sequence, time_ns, ?3, ?2) WHERE offset = ?1"""
        self._db.execute(update, (offset, value, replaces))

    def checkpoint(self) -> None:
        """Move what is committed from the write-ahead log into the file, and empty the former if nobody reads it now."""
        with translated(self._path):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    # how it is doing -------------------------------------------------------------------------------------------------

    def size(self) -> Size:
        """What waits to be shipped."""
        with translated(self._path):
            rows, size = self._db.execute("SELECT total(outgoing_rows), total(outgoing_bytes) FROM usage").fetchone()
            query = (
                "SELECT time_ns FROM messages INDEXED BY messages_outgoing WHERE outgoing = 1 ORDER BY offset LIMIT 1"
            )
            oldest = self._db.execute(query).fetchone()
        return Size(int(rows), int(size) + int(rows) * OUTGOING_ROW_BYTES, 0 if oldest is None else int(oldest[0]))

    def last_outgoing(self, topics: Iterable[str]) -> int:
        """Offset of the newest row on `topics` that waits to be shipped; 0 when none does."""
        query = "SELECT offset FROM messages WHERE topic = ? AND outgoing = 1 ORDER BY offset DESC LIMIT 1"
        with translated(self._path):
            found = [self._db.execute(query, (topic,)).fetchone() for topic in topics]
        return max((int(row[0]) for row in found if row is not None), default=0)

    def has_outgoing(self, topics: Iterable[str], up_to_offset: int) -> bool:
        """Whether a row on `topics` with at most that offset waits to be shipped."""
        query = "SELECT 1 FROM messages WHERE topic = ? AND offset <= ? AND outgoing = 1 LIMIT 1"
        with translated(self._path):
            return any(self._db.execute(query, (topic, up_to_offset)).fetchone() for topic in topics)

    def write_link(self, body: str) -> None:
        """Tell every process of the machine how the shipper is doing: an encoded `Link`."""
        with translated(self._path), self.store._writing():
            self._db.execute("INSERT OR REPLACE INTO link VALUES (1, ?)", (body,))

    def link(self) -> Link | None:
        """What the shipper told last; None when none ever ran here."""
        with translated(self._path):
            row = self._db.execute("SELECT body FROM link").fetchone()
        return None if row is None else spool_link.decode(row[0])

    def copy_is_current(self) -> bool:
        """Whether the copy may be taken for the whole: it has caught up, or it had once and no broker is to be had."""
        link = self.link()
        if link is None or not link.alive:
            return False
        return link.state == spool_link.CURRENT or (link.copied_once and link.state != spool_link.CONNECTING)

    def health(self) -> Health:
        """The spool and its shipper in numbers."""
        size, link = self.size(), self.link()
        with translated(self._path):
            aside = self._db.execute("SELECT count(*) FROM set_aside JOIN messages USING (offset)").fetchone()[0]
        age_seconds = max(0.0, (time.time_ns() - size.oldest_ns) / 1e9) if size.oldest_ns else 0.0
        gauges = {
            ("spool_rows", ""): size.rows,
            ("spool_bytes", ""): size.bytes,
            ("spool_oldest_seconds", ""): age_seconds,
            ("log_set_aside_messages", ""): aside,
        }
        return spool_link.health_of(link, gauges)


def _sizes(values: Iterable[tuple[str, bytes]]) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for topic, value in values:
        sizes[topic] += len(value)
    return sizes
