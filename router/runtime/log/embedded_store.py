"""The embedded log's file: one SQLite database in WAL mode, and every statement that touches it.

A `Store` is one connection and belongs to one thread. Write transactions exclude each other over all processes, so
offsets are handed out in commit order: a reader that asks for `offset >= n` never misses a message.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from router.contract.errors import Unavailable
from router.contract.events import COMPACTED
from router.runtime.log import embedded_schema, spool_disk
from router.runtime.log.base import Message
from router.runtime.log.buffer import Row
from router.runtime.log.embedded_lock import OpenLock
from router.runtime.log.embedded_upkeep import Retention, Upkeep

__all__ = ["OUTGOING_ROW_BYTES", "Retention", "Store", "translated"]

OUTGOING_ROW_BYTES = 200
"""What a row takes in the file besides its value: its other columns, and its places in the indexes."""
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT = """
INSERT INTO messages (topic, partition, key, writer, sequence, time_ns, compacted, outgoing, value, checksum)
VALUES {} ON CONFLICT (topic, partition, writer, sequence) DO NOTHING
"""
_COLUMNS = _ROW.count("?")
_TOGETHER = 64
"""Rows of one statement. Each statement lets other threads run and has to wait until one of them lets go again, which costs
more than a row; and each reads and writes the highest offset.
"""
_INSERT_ONE, _INSERT_SOME = _INSERT.format(_ROW), _INSERT.format(", ".join([_ROW] * _TOGETHER))
_COUNT = """
INSERT INTO usage VALUES (?1, ?2, ?3, ?4) ON CONFLICT (topic) DO UPDATE SET bytes = bytes + ?2,
outgoing_rows = outgoing_rows + ?3, outgoing_bytes = outgoing_bytes + ?4
"""
_RECOUNT = """
INSERT INTO usage SELECT topic, sum(length(value)), sum(outgoing), sum(length(value) * outgoing)
FROM messages WHERE topic = ? GROUP BY topic
"""
_READ = """
SELECT offset, partition, key, writer, sequence, time_ns, value, replaces FROM messages
WHERE topic = ? AND offset >= ? ORDER BY offset LIMIT ?
"""


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
        self._noted = b""
        """The writer that this connection has noted as one of this machine."""
        self._room_bytes = 0
        """What may still be committed before the disk is looked at again."""
        self._lock = OpenLock(path, wait_seconds=busy_seconds)
        try:
            with translated(path):
                self._db = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, cached_statements=32)
                try:
                    self._prepare(time.monotonic() + busy_seconds)
                except BaseException:
                    self._db.close()
                    raise
        except BaseException:
            self._lock.close()
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
        # Some builds write zeros over what is deleted: as much work, and room on a full disk, as it took to write it.
        self._db.execute("PRAGMA secure_delete = OFF")
        self._db.create_function("checksum_of", 8, embedded_schema.checksum_of, deterministic=True)
        version = embedded_schema.version(self._db)
        if version > embedded_schema.VERSION:
            raise Unavailable(
                f"embedded log {self.path} was written by a newer version; upgrade, or name another folder"
            )
        if version < embedded_schema.VERSION:
            with self._writing():
                embedded_schema.upgrade(self._db)

    def leave_checkpoints(self) -> None:
        """Let another process, the shipper, move what is committed from the write-ahead log into the file.

        It does so with the deletes of what it has shipped. While it does not, the write-ahead log grows to four times its
        usual size (16 MiB) before this connection does it after all; on a small disk it never grows beyond the usual.
        """
        with translated(self.path):
            if spool_disk.reserve_bytes(self.path.parent) >= spool_disk.BALLAST_BYTES:
                self._db.execute("PRAGMA wal_autocheckpoint = 4000").fetchone()

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

    def insert(self, writer: bytes, rows: Sequence[Row], outgoing: bool = False) -> int:
        """Commit `rows` in order, all or none. Safe to repeat: a row that is there already is not added again.

        `outgoing` rows wait to be shipped, and their writer is noted as one of this machine; returns the size of all
        that wait, as `outgoing_size`.
        """
        with translated(self.path), self._writing():
            if outgoing:
                self._keep_the_reserve(sum(len(row.value) + OUTGOING_ROW_BYTES for row in rows))
            size = self._insert(writer, rows, outgoing)
        if outgoing:
            self._noted = writer
        return size

    def _keep_the_reserve(self, size: int) -> None:
        """Raise `Unavailable` when a commit of `size` bytes would take the room that is needed to make room again.

        Within its transaction, or several writers would each find the same room. What is committed stands in the
        write-ahead log first; if the disk cannot take it into the file then, nothing can be removed any more either.
        """
        self._room_bytes -= size
        if self._room_bytes > 0:
            return
        folder = self.path.parent
        try:
            free, reserve = spool_disk.free_bytes(folder), spool_disk.reserve_bytes(folder)
            if free >= spool_disk.PLENTY * reserve:
                self._room_bytes = reserve if free >= 2 * spool_disk.PLENTY * reserve else 0
                return
            held = self.path.stat().st_size
        except OSError:
            return  # the commit itself will say what is wrong
        names = ("page_count", "freelist_count", "page_size")
        pages, unused, page = (int(self._db.execute(f"PRAGMA {name}").fetchone()[0]) for name in names)
        size += size // 4 + 16 * page
        to_come = max(0, pages * page - held)
        if free >= reserve + to_come + 2 * size:
            return
        if unused * page >= size and (not to_come or free >= reserve // 4 + to_come + size):
            return  # it fits into pages that are free, so the file need not grow any further
        raise Unavailable(
            f"embedded log {self.path} cannot grow because the disk is almost full ({free >> 20} MiB are left); "
            "free some space, nothing accepted is lost meanwhile"
        )

    def _insert(self, writer: bytes, rows: Sequence[Row], outgoing: bool) -> int:
        counts: Counter[str] = Counter()
        sizes: Counter[str] = Counter()
        values: list[Any] = []
        for topic, key, value, sequence, time_ns, partition in rows:
            counts[topic] += 1
            sizes[topic] += len(value)
            checksum = embedded_schema.checksum_of(topic, partition, key, writer, sequence, time_ns, "", value)
            values += (
                topic, partition, key, writer, sequence, time_ns, topic in COMPACTED, outgoing, value, checksum
            )  # fmt: skip
        added = self._insert_values(values)
        if added == len(rows):
            self._count(counts, sizes, outgoing)
        elif added:
            self._recount(counts)
        if not outgoing:
            return 0
        # In the same transaction: nothing of a writer can come back as a copy before it is known as one of ours.
        if writer != self._noted:
            self._db.execute("INSERT OR IGNORE INTO writers VALUES (?, ?)", (writer, rows[0].time_ns))
        return self._outgoing_size()

    def _insert_values(self, values: list[Any]) -> int:
        """Insert rows, whose values stand one behind the other; how many were new."""
        step = _TOGETHER * _COLUMNS
        together = len(values) // step * step
        added = 0
        for at in range(0, together, step):
            added += self._db.execute(_INSERT_SOME, values[at : at + step]).rowcount
        rest = [values[at : at + _COLUMNS] for at in range(together, len(values), _COLUMNS)]
        return added + (self._db.executemany(_INSERT_ONE, rest).rowcount if rest else 0)

    def _count(self, counts: Mapping[str, int], sizes: Mapping[str, int], outgoing: bool = False) -> None:
        """Keep the books of rows that were added: topic → how many, topic → bytes of their values."""
        self._db.executemany(
            _COUNT, [(topic, sizes[topic], rows * outgoing, sizes[topic] * outgoing) for topic, rows in counts.items()]
        )

    def _recount(self, topics: Iterable[str]) -> None:
        """Make the books of `topics` anew, when what happened to their rows is not known one by one."""
        named = [(topic,) for topic in topics]
        self._db.executemany("DELETE FROM usage WHERE topic = ?", named)
        self._db.executemany(_RECOUNT, named)

    def _outgoing_size(self) -> int:
        query = "SELECT total(outgoing_rows), total(outgoing_bytes) FROM usage"
        rows, size = self._db.execute(query).fetchone()
        return int(rows) * OUTGOING_ROW_BYTES + int(size)

    def outgoing_size(self) -> int:
        """Bytes that rows still to be shipped take: their values and what each row costs besides."""
        with translated(self.path):
            return self._outgoing_size()

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
                for offset, partition, key, writer, sequence, time_ns, value, replaces in cursor:
                    found.append(
                        Message(topic, partition, offset, key, value, writer.hex(), sequence, time_ns, replaces)
                    )
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
            yield from Upkeep(self._db, self._writing, retention).run(now_ns)

    def close(self) -> None:
        """Let go of the file. May be repeated."""
        self._db.close()
        self._lock.close()
