"""Keeps the embedded log's file small: of compacted topics only the newest per key, of streams not too old and not too much.

Any process does it, one at a time, in small transactions. What waits to be shipped is not touched.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from router.contract.events import COMPACTED


@dataclass(frozen=True, slots=True)
class Retention:
    """What stays in the file. Unit, default and why under each field."""

    age_seconds: float = 86_400.0
    """Stream messages older than this go: a day of history answers "what happened last night"."""
    topic_bytes: int = 256 << 20
    """Bytes of values per stream topic; beyond it the oldest go. Four topics make 1 GiB, small for any disk."""
    interval_seconds: float = 30.0
    """Between two rounds of upkeep, over all processes: often enough that a round stays short."""
    step_rows: int = 500
    """Rows per delete transaction: a few milliseconds, so that no writer waits long for the lock."""


class Upkeep:
    """Rounds of upkeep on one connection."""

    def __init__(
        self, db: sqlite3.Connection, writing: Callable[[], AbstractContextManager[None]], retention: Retention
    ) -> None:
        """`writing`: a write transaction."""
        self._db = db
        self._writing = writing
        self._retention = retention

    def run(self, now_ns: int) -> Iterator[None]:
        """One round, a small transaction per step; nothing when any process has run one lately."""
        if not self._claim(now_ns):
            return
        topics = [topic for (topic,) in self._db.execute("SELECT topic FROM usage").fetchall()]
        for topic in topics:
            yield
            yield from self._compact(topic) if topic in COMPACTED else self._expire(topic, now_ns)

    def _claim(self, now_ns: int) -> bool:
        """Take the round, unless another process did. A clock that was set back must not stop upkeep for good."""
        due_ns = now_ns - round(self._retention.interval_seconds * 1e9)
        query = "SELECT 1 FROM upkeep WHERE claimed_ns <= ? OR claimed_ns > ?"
        if self._db.execute(query, (due_ns, now_ns)).fetchone() is None:
            return False
        with self._writing():
            update = "UPDATE upkeep SET claimed_ns = ? WHERE claimed_ns <= ? OR claimed_ns > ?"
            return self._db.execute(update, (now_ns, due_ns, now_ns)).rowcount == 1

    def _compact(self, topic: str) -> Iterator[None]:
        """Delete what has a newer message of the same key and is not on its way to anybody else."""
        query = """
            SELECT offset FROM messages WHERE topic = ? AND compacted = 1 AND outgoing = 0 AND offset NOT IN
            (SELECT max(offset) FROM messages WHERE topic = ? AND compacted = 1 GROUP BY key) ORDER BY offset
        """
        old = [offset for (offset,) in self._db.execute(query, (topic, topic)).fetchall()]
        for start in range(0, len(old), self._retention.step_rows):
            self._delete(topic, json.dumps(old[start : start + self._retention.step_rows]))
            yield

    def _expire(self, topic: str, now_ns: int) -> Iterator[None]:
        """Delete the oldest that are too old, or too much."""
        cutoff_ns = now_ns - round(self._retention.age_seconds * 1e9)
        row = self._db.execute("SELECT outgoing_rows FROM usage WHERE topic = ?", (topic,)).fetchone()
        # In a spool only what could not be shipped is at rest: looked up by name, not searched for among the others.
        named = " AND offset IN (SELECT offset FROM set_aside)" if row is not None and row[0] else ""
        # One statement, so that the interpreter is free for the event loop while SQLite searches.
        query = f"""
            WITH oldest AS (SELECT offset, time_ns, length(value) AS size FROM messages
                            WHERE topic = :topic AND outgoing = 0{named} ORDER BY offset LIMIT :rows),
                 running AS (SELECT offset, time_ns, sum(size) OVER (ORDER BY offset) - size AS before FROM oldest)
            SELECT json_group_array(offset) FROM running WHERE time_ns < :cutoff_ns
                OR (SELECT bytes - outgoing_bytes FROM usage WHERE topic = :topic) - before > :bytes
        """  # noqa: S608 -- one of two constants
        values = {
            "topic": topic,
            "rows": self._retention.step_rows,
            "cutoff_ns": cutoff_ns,
            "bytes": self._retention.topic_bytes,
        }
        while (old := self._db.execute(query, values).fetchone()[0]) != "[]":
            self._delete(topic, old)
            yield

    def _delete(self, topic: str, offsets: str) -> None:
        """Delete the messages whose offsets the JSON array names, but for those that wait to be shipped by now."""
        chosen = "FROM messages WHERE outgoing = 0 AND offset IN (SELECT value FROM json_each(?))"
        with self._writing():
            size = self._db.execute(f"SELECT total(length(value)) {chosen}", (offsets,)).fetchone()[0]
            self._db.execute(f"DELETE {chosen}", (offsets,))
            self._db.execute("UPDATE usage SET bytes = max(0, bytes - ?) WHERE topic = ?", (int(size), topic))
