"""The shape of the embedded log's file and how an older file becomes a newer one, in place and in one transaction.

Version 2 added what a spool needs: rows on their way to Kafka (`outgoing`), the partition that their sequences are
counted in, rows that stand for others (`replaces`), and the tables of the shipper. Version 3 knows which topic a place in
the copy belongs to, and has a checksum in each row, because SQLite has none in its pages.
"""

from __future__ import annotations

import sqlite3
import zlib

VERSION = 3

_MESSAGES = """
CREATE TABLE messages (
    offset INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL DEFAULT 0,
    key TEXT NOT NULL,
    writer BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    compacted INTEGER NOT NULL,
    outgoing INTEGER NOT NULL DEFAULT 0,
    replaces TEXT NOT NULL DEFAULT '',
    value BLOB NOT NULL
)
"""
_USAGE = """
CREATE TABLE usage (
    topic TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL,
    outgoing_rows INTEGER NOT NULL DEFAULT 0,
    outgoing_bytes INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
"""
_FRESH = (
    _MESSAGES,
    "CREATE UNIQUE INDEX messages_by_id ON messages (topic, partition, writer, sequence)",
    "CREATE INDEX messages_by_topic ON messages (topic, offset)",
    "CREATE INDEX messages_by_key ON messages (topic, key, offset) WHERE compacted = 1",
    _USAGE,
    "CREATE TABLE upkeep (id INTEGER PRIMARY KEY CHECK (id = 1), claimed_ns INTEGER NOT NULL)",
    "INSERT INTO upkeep VALUES (1, 0)",
)
_FROM_1 = (
    "ALTER TABLE messages ADD COLUMN partition INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE messages ADD COLUMN outgoing INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE messages ADD COLUMN replaces TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE usage ADD COLUMN outgoing_rows INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE usage ADD COLUMN outgoing_bytes INTEGER NOT NULL DEFAULT 0",
    "DROP INDEX messages_by_id",
    "CREATE UNIQUE INDEX messages_by_id ON messages (topic, partition, writer, sequence)",
)
_SPOOL = (
    # By offset, because an index ends with the row's own number.
    "CREATE INDEX messages_outgoing ON messages (outgoing) WHERE outgoing = 1",
    "CREATE TABLE writers (writer BLOB PRIMARY KEY, opened_ns INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE copied (topic TEXT, partition INTEGER, offset INTEGER, PRIMARY KEY (topic, partition)) WITHOUT ROWID",
    "CREATE TABLE attempted (topic TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE set_aside (offset INTEGER PRIMARY KEY, at_ns INTEGER NOT NULL, reason TEXT NOT NULL)",
    "CREATE TABLE link (id INTEGER PRIMARY KEY CHECK (id = 1), body TEXT NOT NULL)",
)
_FROM_2 = (
    "ALTER TABLE copied ADD COLUMN incarnation TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE messages ADD COLUMN checksum INTEGER",  # of rows that were there before, nobody knows it
)
_STEPS = {0: _FRESH + _SPOOL + _FROM_2, 1: _FROM_1 + _SPOOL + _FROM_2, 2: _FROM_2}


def checksum_of(  # noqa: PLR0917 -- SQLite calls it too, and knows no keywords
    topic: str, partition: int, key: str, writer: bytes, sequence: int, time_ns: int, replaces: str, value: bytes
) -> int:
    """CRC-32 of what a row says, without where it is on its way."""
    words = f"{topic} {partition} {sequence} {time_ns} {replaces} {key}"
    return zlib.crc32(value, zlib.crc32(words.encode(), zlib.crc32(writer)))


def version(db: sqlite3.Connection) -> int:
    """The version of the file; 0 when it is new."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def upgrade(db: sqlite3.Connection) -> None:
    """Bring the file to `VERSION`. The caller holds the write transaction; another process may have been faster."""
    for statement in _STEPS.get(version(db), ()):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION}")
