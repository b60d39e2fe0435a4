"""The store's tables. A change of this text is a new `VERSION` and a migration, never an edit of what is out there."""

from __future__ import annotations

VERSION = 1

TABLES = """
CREATE TABLE endpoints (
    name TEXT PRIMARY KEY,              -- canonical, lower case
    revision INTEGER NOT NULL,          -- newest; goes on counting over deletion and re-creation
    published INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE revisions (
    endpoint TEXT NOT NULL,
    revision INTEGER NOT NULL,
    at_ns INTEGER NOT NULL,
    change TEXT NOT NULL,
    content TEXT NOT NULL,              -- JSON of the whole endpoint: never half a revision
    key_hashes TEXT NOT NULL,
    deleted INTEGER NOT NULL,
    PRIMARY KEY (endpoint, revision)
);
CREATE TABLE keys (
    endpoint TEXT PRIMARY KEY,
    primary_key TEXT NOT NULL,
    secondary_key TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE operations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    deployment TEXT,
    revision INTEGER NOT NULL,
    status TEXT NOT NULL,
    phase TEXT NOT NULL,
    progress REAL NOT NULL,
    message TEXT NOT NULL,
    started_ns INTEGER NOT NULL,
    finished_ns INTEGER,
    error TEXT,                         -- JSON {code, message, log_tail}
    all_traffic INTEGER NOT NULL,       -- 1 = traffic still to be set when it is ready
    await_revision INTEGER NOT NULL     -- not over before this revision is published
);
CREATE INDEX operations_of ON operations (endpoint, deployment, number);
CREATE INDEX operations_open ON operations (number) WHERE status = 'InProgress';
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint TEXT NOT NULL,
    revision INTEGER NOT NULL
);
"""
