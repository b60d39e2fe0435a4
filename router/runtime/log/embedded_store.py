"""The embedded log's file: one SQLite database in WAL mode, and every statement that touches it.

A `Store` is one connection and belongs to one thread. Write transactions exclude each other over all processes, so
offsets are handed out in commit order: a reader that asks for `offset >= n` never misses a message.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.contract.errors import Unavailable
from router.contract.events import COMPACTED
from router.runtime.log.base import Message
from router.runtime.log.buffer import Row

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    writer BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    compacted INTEGER NOT NULL,
    value BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS messages_by_id ON messages (topic, writer, sequence);
CREATE INDEX IF NOT EXISTS messages_by_topic ON messages (topic, offset);
CREATE INDEX IF NOT EXISTS messages_by_key ON messages (topic, key, offset) WHERE compacted = 1;
CREATE TABLE IF NOT EXISTS usage (topic TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS upkeep (id INTEGER PRIMARY KEY CHECK (id = 1), claimed_ns INTEGER NOT NULL);
INSERT OR IGNORE INTO upkeep VALUES (1, 0);
"""
_INSERT = """
INSERT INTO messages (topic, key, writer, sequence, time_ns, compacted, value) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (topic, writer, sequence) DO NOTHING
"""
_READ = """
SELECT offset, key, writer, sequence, time_ns, value FROM messages
WHERE topic = ? AND offset >= ? ORDER BY offset LIMIT ?
"""


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


def _reason(error: sqlite3.Error, path: Path) -> str:
    """What to tell a person, with the fix."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    fixes = {
        sqlite3.SQLITE_CORRUPT: "is damaged; stop every process, move it away with its -wal and -shm files, start again",
        sqlite3.SQLITE_NOTADB: "is not a database; move it away and start again, or name another folder",
        sqlite3.SQLITE_BUSY: "is locked by another process; end the program that holds it open (fuser shows which)",
        sqlite3.SQLITE_FULL: "cannot grow because the disk is full; free some space, nothing accepted is lost meanwhile",
        sqlite3.SQLITE_READONLY: "cannot be written; give this user write permission on it and its folder",
        sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that its folder exists and this user may write there",
        sqlite3.SQLITE_IOERR: "cannot be read or written; check the disk and its free space",
    }
    fix = fixes.get(code & 0xFF, "failed; see the reason behind this")
    return f"embedded log {path} {fix} ({error})"


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as `Unavailable` that names the file and the fix."""
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable(_reason(error, path)) from error


class Store:
    """One connection to `path`, made with its schema if absent. Used by one thread."""

    def __init__(self, path: Path, *, busy_seconds: float = 5.0) -> None:
        """Raises `Unavailable`. `busy_seconds`: how long a transaction waits for another process's."""
        self.path = path
        with translated(path):
            self._db = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, cached_statements=32)
            try:
                self._prepare(time.monotonic() + busy_seconds)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, deadline: float) -> None:
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                # Two processes turning the same new file to WAL: this one lock is not waited for by SQLite itself.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        # A commit survives the death of every process; only a power cut may take the last moments, never the order.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA journal_size_limit = 67108864")
        self._db.execute("PRAGMA cache_size = -1024")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise Unavailable(
                f"embedded log {self.path} was written by a newer version; upgrade, or name another folder"
            )
        if version < _VERSION:
            with self._writing():
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {_VERSION}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def insert(self, writer: bytes, rows: Sequence[Row]) -> None:
        """Commit `rows` in order, all or none. Safe to repeat: a row that is there already is not added again."""
        sizes: dict[str, int] = {}
        for row in rows:
            sizes[row.topic] = sizes.get(row.topic, 0) + len(row.value)
        values = [
            (row.topic, row.key, writer, row.sequence, row.time_ns, row.topic in COMPACTED, row.value) for row in rows
        ]
        with translated(self.path), self._writing():
            self._db.executemany(_INSERT, values)
            self._db.executemany(
                "INSERT INTO usage VALUES (?, ?) ON CONFLICT (topic) DO UPDATE SET bytes = bytes + excluded.bytes",
                list(sizes.items()),
            )

    def read(self, cursors: Mapping[str, int], max_rows: int, max_bytes: int) -> tuple[list[Message], bool]:
        """Messages from the given offset of each topic on, by offset, and whether there may be more.

        Per topic at most `max_rows`, and it stops after the one that reaches `max_bytes`.
        """
        found: list[Message] = []
        more = False
        with translated(self.path):
            for topic, start in cursors.items():
                count = size = 0
                cursor = self._db.execute(_READ, (topic, start, max_rows))
                for offset, key, writer, sequence, time_ns, value in cursor:
                    found.append(Message(topic, 0, offset, key, value, writer.hex(), sequence, time_ns))
                    count, size = count + 1, size + len(value)
                    if size >= max_bytes:
                        break
                cursor.close()
                more = more or count == max_rows or size >= max_bytes
        found.sort(key=lambda message: message.offset)
        return found, more

    def unread(self, cursors: Mapping[str, int]) -> bool:
        """Whether a topic has a message at or after its cursor."""
        query = "SELECT 1 FROM messages WHERE topic = ? AND offset >= ? LIMIT 1"
        with translated(self.path):
            return any(self._db.execute(query, pair).fetchone() for pair in cursors.items())

    def next_offset(self) -> int:
        """The offset that the next message will have at the earliest."""
        with translated(self.path):
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchone()
        return 1 if row is None else int(row[0]) + 1

    def upkeep(self, now_ns: int, retention: Retention) -> Iterator[None]:
        """One round of compaction and retention, a small transaction per step; nothing when a round was run lately."""
        with translated(self.path):
            if not self._claim(now_ns, retention):
                return
            topics = [topic for (topic,) in self._db.execute("SELECT topic FROM usage").fetchall()]
            for topic in topics:
                yield
                steps = (
                    self._compact(topic, retention) if topic in COMPACTED else self._expire(topic, now_ns, retention)
                )
                yield from steps

    def _claim(self, now_ns: int, retention: Retention) -> bool:
        """Take the round, unless another process did. A clock that was set back must not stop upkeep for good."""
        due_ns = now_ns - round(retention.interval_seconds * 1e9)
        query = "SELECT 1 FROM upkeep WHERE claimed_ns <= ? OR claimed_ns > ?"
        if self._db.execute(query, (due_ns, now_ns)).fetchone() is None:
            return False
        with self._writing():
            update = "UPDATE upkeep SET claimed_ns = ? WHERE claimed_ns <= ? OR claimed_ns > ?"
            return self._db.execute(update, (now_ns, due_ns, now_ns)).rowcount == 1

    def _compact(self, topic: str, retention: Retention) -> Iterator[None]:
        """Delete what has a newer message of the same key."""
        query = """
            SELECT offset FROM messages WHERE topic = ? AND compacted = 1 AND offset NOT IN
            (SELECT max(offset) FROM messages WHERE topic = ? AND compacted = 1 GROUP BY key) ORDER BY offset
        """
        old = [offset for (offset,) in self._db.execute(query, (topic, topic)).fetchall()]
        for start in range(0, len(old), retention.step_rows):
            self._delete(topic, json.dumps(old[start : start + retention.step_rows]))
            yield

    def _expire(self, topic: str, now_ns: int, retention: Retention) -> Iterator[None]:
        """Delete the oldest that are too old, or too much."""
        cutoff_ns = now_ns - round(retention.age_seconds * 1e9)
        # One statement, so that the interpreter is free for the event loop while SQLite searches.
        query = """
            WITH oldest AS (SELECT offset, time_ns, length(value) AS size FROM messages
                            WHERE topic = :topic ORDER BY offset LIMIT :rows),
                 running AS (SELECT offset, time_ns, sum(size) OVER (ORDER BY offset) - size AS before FROM oldest)
            SELECT json_group_array(offset) FROM running WHERE time_ns < :cutoff_ns
                OR (SELECT bytes FROM usage WHERE topic = :topic) - before > :bytes
        """
        values = {
            "topic": topic,
            "rows": retention.step_rows,
            "cutoff_ns": cutoff_ns,
            "bytes": retention.topic_bytes,
        }
        while (old := self._db.execute(query, values).fetchone()[0]) != "[]":
            self._delete(topic, old)
            yield

    def _delete(self, topic: str, offsets: str) -> None:
        """Delete the messages whose offsets the JSON array names."""
        chosen = "FROM messages WHERE offset IN (SELECT value FROM json_each(?))"
        with self._writing():
            size = self._db.execute(f"SELECT total(length(value)) {chosen}", (offsets,)).fetchone()[0]
            self._db.execute(f"DELETE {chosen}", (offsets,))
            self._db.execute("UPDATE usage SET bytes = max(0, bytes - ?) WHERE topic = ?", (int(size), topic))

    def close(self) -> None:
        """Let go of the file. May be repeated."""
        self._db.close()
