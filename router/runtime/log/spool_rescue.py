"""A spool whose file is damaged: moved aside, and what can still be read goes into a new one, loudly.

Only whoever opens the file first looks, because only then it can be exchanged; so after a crash of the whole machine the
first process does it, and while anybody has the file open nobody does. The new file is made complete before the old
one is moved, so that a crash in between leaves one of them. What was copied from Kafka is copied again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.contract.codec import encode_damaged
from router.contract.errors import Unavailable
from router.contract.events import COMPACTED, NOTICES, Damaged
from router.runtime.log.buffer import Row
from router.runtime.log.embedded_lock import SUFFIX, OpenLock
from router.runtime.log.embedded_store import Store, translated

_LOG = logging.getLogger(__name__)

FRESH = ".fresh"
"""Behind the name of the new file while it is made."""
BATCH_ROWS = 500
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_COLUMNS = "offset, topic, partition, key, writer, sequence, time_ns, compacted, outgoing, replaces, value"
# By the table itself: an index may be what is damaged.
_READ = f"SELECT {_COLUMNS} FROM messages NOT INDEXED WHERE offset >= ? ORDER BY offset LIMIT ?"  # noqa: S608 -- constants
_WRITE = f"INSERT OR IGNORE INTO messages ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 -- constants


@dataclass(frozen=True, slots=True)
class Rescue:
    """What became of a damaged file."""

    fault: str
    """What SQLite says about it."""
    aside: Path
    """The folder it was moved to."""
    rows: int
    """Messages that could be read."""
    outgoing: int
    """Of them, those that wait to be shipped."""
    expected: int
    """How many should have waited, by the file's own books; -1 when these cannot be read either."""

    @property
    def lost(self) -> int:
        """Messages that waited and cannot be read; -1 when nobody knows."""
        return -1 if self.expected < 0 else max(0, self.expected - self.outgoing)


def mend(path: Path) -> Rescue | None:
    """Make the log in `path` sound, if nobody has it open. None when there was nothing to do, or somebody has.

    Takes a second or two per GiB to look. Raises `Unavailable` when the disk does not allow it.
    """
    try:
        alone = OpenLock(path, alone=True)
    except Unavailable:
        return None
    fresh = path.with_name(path.name + FRESH)
    try:
        if not path.exists():
            if fresh.exists():  # the last one who mended it came this far
                os.replace(fresh, path)
            return None
        _remove(fresh)
        fault, rescue = _fault(path), None
        if fault:
            _LOG.error("the spool's file is damaged and is exchanged", extra={"file": str(path), "fault": fault})
            rescue = _exchange(path, fresh, fault)
    except OSError as error:
        raise Unavailable(f"embedded log {path} is damaged and cannot be exchanged: {error}") from error
    finally:
        alone.close()
    if rescue is not None:
        _LOG.error(
            "the spool was made anew from what could be read",
            extra={
                "moved_to": str(rescue.aside),
                "messages": rescue.rows,
                "waiting": rescue.outgoing,
                "lost": rescue.lost,
            },
        )
    return rescue


def _fault(path: Path) -> str:
    """What is wrong with the file; empty when nothing is."""
    try:
        with contextlib.closing(_opened(path)) as db:
            words = [row[0] for row in db.execute("PRAGMA quick_check(1)")]
            return "" if words == ["ok"] else str(words[0])
    except sqlite3.Error as error:
        # Locked, unreadable, on a full disk: whoever opens it next says so.
        return str(error) if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED else ""


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=1.0)


def _exchange(path: Path, fresh: Path, fault: str) -> Rescue:
    aside = path.with_name(time.strftime("damaged-%Y%m%dT%H%M%SZ", time.gmtime()))
    store = Store(fresh)
    try:
        rows, outgoing, expected = _salvage(path, store)
        rescue = Rescue(fault, aside, rows, outgoing, expected)
        _tell(store, rescue)
    finally:
        store.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{fresh}{SUFFIX}")
    aside.mkdir(mode=0o700, exist_ok=True)
    for part in ("-shm", "-wal", ""):
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{part}", aside / f"{path.name}{part}")
    os.replace(fresh, path)
    return rescue


def _tell(store: Store, rescue: Rescue) -> None:
    """Write the notice; on partition 0, which every topic has."""
    now_ns = time.time_ns()
    event = Damaged(now_ns, rescue.fault, str(rescue.aside), rescue.rows, rescue.outgoing, rescue.lost)
    with translated(store.path), store._writing():
        store._insert(uuid.uuid4().bytes, [Row(NOTICES, "", encode_damaged(event), 0, now_ns)], True)


def _salvage(path: Path, store: Store) -> tuple[int, int, int]:
    """Copy what can be read: (messages, of them waiting, how many should wait)."""
    rows = outgoing = 0
    with translated(store.path), contextlib.closing(_opened(path)) as db:
        db.execute("PRAGMA writable_schema = ON")  # otherwise nothing is read of a file that lost its end
        expected = _expected(db)
        for found in _readable(db):
            # A stream's row that does not wait was set aside: it is tried once more.
            kept = [(*row[:8], int(row[8] == 1 or row[1] not in COMPACTED), *row[9:]) for row in found]
            with store._writing():
                store._db.executemany(_WRITE, kept)
            rows += len(kept)
            outgoing += sum(row[8] == 1 for row in kept)
        with store._writing():
            store._recount([topic for (topic,) in store._db.execute("SELECT DISTINCT topic FROM messages")])
    return rows, outgoing, expected


def _expected(db: sqlite3.Connection) -> int:
    try:
        return int(db.execute("SELECT total(outgoing_rows) FROM usage").fetchone()[0])
    except sqlite3.Error:
        return -1


def _readable(db: sqlite3.Connection) -> Iterator[Sequence[tuple[object, ...]]]:
    """Every row that can be read, in parts. Behind a damaged place it goes on in growing steps."""
    start, step = 0, 1
    end = _highest(db)
    size = BATCH_ROWS
    while start <= end:
        try:
            found = [row for row in db.execute(_READ, (start, size)) if _is_whole(row)]
            last = db.execute(
                "SELECT max(offset) FROM (SELECT offset FROM messages NOT INDEXED WHERE offset >= ? ORDER BY offset LIMIT ?)",
                (start, size),
            ).fetchone()[0]
        except sqlite3.Error:
            if size > 1:
                size = 1  # up to the damaged place row by row
            else:
                start, step = start + step, min(2 * step, 1024)
            continue
        if last is None:
            return
        if found:
            yield found
        start, step = last + 1, 1
        size = min(2 * size, BATCH_ROWS)


def _highest(db: sqlite3.Connection) -> int:
    """The highest offset that may be there."""
    for query in (
        "SELECT seq FROM sqlite_sequence WHERE name = 'messages'",
        "SELECT max(offset) FROM messages INDEXED BY messages_by_topic",
        "SELECT max(offset) FROM messages",
    ):
        with contextlib.suppress(sqlite3.Error):
            row = db.execute(query).fetchone()
            if row is not None and row[0] is not None:
                return int(row[0])
    return -1


def _is_whole(row: Sequence[object]) -> bool:
    """Whether the columns are what they must be: a damaged page may be readable and wrong."""
    kinds = (int, str, int, str, bytes, int, int, int, int, str, bytes)
    return all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True))


def _remove(path: Path) -> None:
    for part in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}{part}")
