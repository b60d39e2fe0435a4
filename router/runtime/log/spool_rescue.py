"""A spool whose file is damaged: moved aside, and what can still be read goes into a new one, loudly.

Looked at are the write-ahead log, which SQLite reads up to its first damaged frame and no further, SQLite's own
structures, and the checksum of every message that waits. Only whoever opens the file first looks, because only then it can be exchanged; so after a crash of the whole machine the
first process does it, and while anybody has the file open nobody does. The new file is made complete before the old
one is moved, so that a crash in between leaves one of them. What was copied from Kafka is copied again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.contract.codec import encode_damaged
from router.contract.errors import Unavailable
from router.contract.events import COMPACTED, NOTICES, Damaged
from router.runtime.log.buffer import Row
from router.runtime.log.embedded_lock import SUFFIX, OpenLock
from router.runtime.log.embedded_schema import checksum_of, version
from router.runtime.log.embedded_store import Store, translated
from router.runtime.log.spool_wal import Damage, damage_of

_LOG = logging.getLogger(__name__)

FRESH = ".fresh"
"""Behind the name of the new file while it is made."""
READ = ".read"
"""Behind the name of a copy with a mended write-ahead log, from which is read what can be read."""
BATCH_ROWS = 500
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_COLUMNS = "offset, topic, partition, key, writer, sequence, time_ns, compacted, outgoing, replaces, value"
# By the table itself: an index may be what is damaged.
_READ = f"SELECT {_COLUMNS}, {{0}} FROM messages NOT INDEXED WHERE offset >= ? ORDER BY offset LIMIT ?"  # noqa: S608 -- constants
_WAITING = f"SELECT {_COLUMNS}, checksum FROM messages INDEXED BY messages_outgoing WHERE outgoing = 1"  # noqa: S608 -- constants
_WRITE = f"INSERT OR IGNORE INTO messages ({_COLUMNS}, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 -- constants


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
        _remove(path.with_name(path.name + READ))
        damage, rescue = _damage(path), None
        fault = _words(damage) if damage else _fault(path)
        if fault:
            _LOG.error("the spool's file is damaged and is exchanged", extra={"file": str(path), "fault": fault})
            rescue = _exchange(path, fresh, fault, damage)
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


def _damage(path: Path) -> Damage | None:
    """What is damaged in the write-ahead log, of which SQLite would say nothing. Before SQLite has seen it."""
    try:
        wal = Path(f"{path}-wal").read_bytes()
        with path.open("rb") as file:
            size = int.from_bytes(file.read(18)[16:], "big")
    except FileNotFoundError:
        return None
    return damage_of(wal, 65_536 if size == 1 else size)


def _words(damage: Damage) -> str:
    return f"{damage.frames} frames of the write-ahead log are damaged" if damage.frames else "its head is damaged"


def _fault(path: Path) -> str:
    """What is wrong with the file; empty when nothing is."""
    try:
        with contextlib.closing(_opened(path)) as db:
            words = [row[0] for row in db.execute("PRAGMA quick_check(1)")]
            if words != ["ok"]:
                return str(words[0])
            wrong = sum(not _is_whole(row) for row in db.execute(_WAITING)) if _has_checksums(db) else 0
            return f"{wrong} messages are not what was written" if wrong else ""
    except sqlite3.Error as error:
        # Locked, unreadable, on a full disk: whoever opens it next says so.
        return str(error) if (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED else ""


def _has_checksums(db: sqlite3.Connection) -> bool:
    try:
        return version(db) >= 3
    except sqlite3.Error:
        return False  # nothing else will be readable either


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=1.0)


def _exchange(path: Path, fresh: Path, fault: str, damage: Damage | None) -> Rescue:
    aside = path.with_name(time.strftime("damaged-%Y%m%dT%H%M%SZ", time.gmtime()))
    store = Store(fresh)
    source = path if damage is None else path.with_name(path.name + READ)
    try:
        if damage is not None:
            shutil.copyfile(path, source)
            Path(f"{source}-wal").write_bytes(damage.mended)
        rows, outgoing, expected = _salvage(source, store, damage)
        rescue = Rescue(fault, aside, rows, outgoing, expected)
        _tell(store, rescue)
    finally:
        store.close()
        if source is not path:
            _remove(source)
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


def _salvage(path: Path, store: Store, damage: Damage | None) -> tuple[int, int, int]:
    """Copy what can be read: (messages, of them waiting, how many should wait)."""
    rows = outgoing = 0
    with translated(store.path), contextlib.closing(_opened(path)) as db:
        db.execute("PRAGMA writable_schema = ON")  # otherwise nothing is read of a file that lost its end
        expected = _expected(db, damage)
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


def _expected(db: sqlite3.Connection, damage: Damage | None) -> int:
    """By the books, or, where these are damaged themselves, by the index of what waits."""
    try:
        books = int(db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'usage'").fetchone()[0])
        if damage is not None and not damage.keeps(books):
            return -1
        return int(db.execute("SELECT total(outgoing_rows) FROM usage").fetchone()[0])
    except (sqlite3.Error, TypeError):
        pass
    try:
        query = "SELECT count(*) FROM messages INDEXED BY messages_outgoing WHERE outgoing = 1"
        return -1 if damage is not None else int(db.execute(query).fetchone()[0])
    except sqlite3.Error:
        return -1


def _readable(db: sqlite3.Connection) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Every row that can be read, in parts. Behind a damaged place it goes on in growing steps.

    Pages that were in use before may show rows of then: these are out of order.
    """
    query = _READ.format("checksum" if _has_checksums(db) else "NULL")
    start, step, before = 0, 1, -1
    end = _highest(db)
    size = BATCH_ROWS
    while True:
        try:
            found = db.execute(query, (start, size)).fetchall()
        except sqlite3.Error:
            if start > end:
                return
            if size > 1:
                size = 1  # up to the damaged place row by row
            else:
                start, step = start + step, min(2 * step, 1024)
            continue
        offsets = [row[0] for row in found if row[0] > before]
        if not offsets:
            return
        yield [row for row in _ascending(found, before) if _is_whole(row)]
        before = max(offsets)
        start, step = before + 1, 1
        size = min(2 * size, BATCH_ROWS)


def _ascending(rows: Iterable[tuple[Any, ...]], before: int) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        if row[0] > before:
            before = row[0]
            yield row


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


def _is_whole(row: Sequence[Any]) -> bool:
    """Whether the columns are what was written: a damaged page may be readable and wrong."""
    kinds = (int, str, int, str, bytes, int, int, int, int, str, bytes)
    if not all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=False)):
        return False
    _, topic, partition, key, writer, sequence, time_ns, _, _, replaces, value, checksum = row
    written = checksum_of(topic, partition, key, writer, sequence, time_ns, replaces, value)
    return checksum is None or checksum == written


def _remove(path: Path) -> None:
    for part in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{path}{part}")
