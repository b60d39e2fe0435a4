"""The spool: what waits, what is gone, what is copied, and books that add up whatever happens."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.contract.errors import Unavailable
from router.contract.events import DEMAND, REPLICAS, REQUESTS, SPECS
from router.runtime.log import embedded_schema, spool_link
from router.runtime.log.base import Message, Position
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.log.embedded_store import OUTGOING_ROW_BYTES, Retention, Store
from router.runtime.log.embedded_writer import WriterSettings
from router.runtime.log.spool import Spool
from router.runtime.log.spool_disk import BALLAST_BYTES, PLENTY
from router.runtime.log.spool_link import Link
from tests.support.spool_filling import NOW, WRITER, fill, rows_of

OTHER = "ab" * 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    one = Spool.open(path)
    yield one
    one.close()


def books(spool: Spool) -> dict[str, tuple[int, int, int]]:
    rows = spool._db.execute("SELECT * FROM usage WHERE bytes OR outgoing_rows OR outgoing_bytes").fetchall()
    return {topic: tuple(rest) for topic, *rest in rows}


def truth(spool: Spool) -> dict[str, tuple[int, int, int]]:
    rows = spool._db.execute(
        "SELECT topic, sum(length(value)), sum(outgoing), sum(length(value) * outgoing) FROM messages GROUP BY topic"
    ).fetchall()
    return {topic: tuple(rest) for topic, *rest in rows if any(rest)}


def foreign(topic: str, key: str, value: bytes, sequence: int, writer: str = OTHER) -> Message:
    return Message(topic, 3, 100 + sequence, key, value, writer, sequence, NOW)


def newest(spool: Spool, topic: str) -> dict[str, bytes]:
    messages, _ = spool.store.read({topic: 0}, 10_000, 1 << 30)
    return {message.key: message.value for message in messages}


def test_outgoing_rows_come_in_order_and_within_bounds(spool: Spool) -> None:
    fill(spool, rows_of(DEMAND, [b"x" * 100] * 10))
    fill(spool, rows_of(SPECS, [b"y" * 100], partition=7))
    rows = spool.outgoing(100, 1 << 20)
    assert [row.sequence for row in rows] == [*range(10), 0]
    assert (rows[-1].topic, rows[-1].partition, rows[-1].writer) == (SPECS, 7, WRITER.hex())
    assert len(spool.outgoing(4, 1 << 20)) == 4
    assert len(spool.outgoing(100, 250)) == 3
    assert len(spool.outgoing(100, 1)) == 1
    assert [row.topic for row in spool.outgoing(100, 1 << 20, without=[DEMAND])] == [SPECS]
    assert [row.sequence for row in spool.outgoing(100, 1 << 20, start=rows[8].offset)] == [8, 9, 0]


def test_acknowledged_streams_go_and_compacted_messages_stay_as_the_copy(spool: Spool) -> None:
    fill(spool, [*rows_of(DEMAND, [b"a", b"b"]), *rows_of(SPECS, [b"c"])])
    rows = spool.outgoing(100, 1 << 20)
    spool.acknowledged(rows[1:])
    assert [row.value for row in spool.outgoing(100, 1 << 20)] == [b"a"]
    spool.acknowledged(rows)
    spool.acknowledged(rows)
    assert spool.outgoing(100, 1 << 20) == []
    assert newest(spool, SPECS) == {"e": b"c"}
    assert newest(spool, DEMAND) == {}
    assert spool.size() == (0, 0, 0)
    assert books(spool) == truth(spool) == {SPECS: (1, 0, 0)}


def test_the_size_counts_what_waits_and_since_when(spool: Spool) -> None:
    fill(spool, rows_of(DEMAND, [b"x" * 100] * 3))
    assert spool.size() == (3, 300 + 3 * OUTGOING_ROW_BYTES, NOW)
    spool.acknowledged(spool.outgoing(1, 1 << 20))
    assert spool.size() == (2, 200 + 2 * OUTGOING_ROW_BYTES, NOW + 1)
    assert spool.store.outgoing_size() == spool.size().bytes


def test_a_repeated_insert_counts_once(spool: Spool) -> None:
    rows = rows_of(DEMAND, [b"x" * 10] * 4)
    fill(spool, rows[:2])
    fill(spool, rows)
    fill(spool, rows)
    assert books(spool) == truth(spool) == {DEMAND: (40, 4, 40)}


def test_what_is_set_aside_holds_up_nothing_and_is_tried_again(spool: Spool) -> None:
    fill(spool, [*rows_of(DEMAND, [b"a", b"b"]), *rows_of(SPECS, [b"c"])])
    rows = spool.outgoing(100, 1 << 20)
    spool.set_aside([rows[0], rows[2]], "too large", NOW)
    assert [row.value for row in spool.outgoing(100, 1 << 20)] == [b"b"]
    assert spool.health().gauges["log_set_aside_messages", ""] == 2
    assert books(spool) == truth(spool)
    assert spool.try_again() == 2
    assert [row.value for row in spool.outgoing(100, 1 << 20)] == [b"a", b"b", b"c"]
    assert spool.health().gauges["log_set_aside_messages", ""] == 0
    assert books(spool) == truth(spool)


def test_copying_skips_what_this_machine_wrote(spool: Spool) -> None:
    fill(spool, rows_of(SPECS, [b"ours"]))
    ours = foreign(SPECS, "e", b"ours", 0, WRITER.hex())
    counts = spool.copy([ours, foreign(SPECS, "f", b"theirs", 0)], [Position(SPECS, 3, 101)])
    assert dict(counts) == {SPECS: 1}
    assert newest(spool, SPECS) == {"e": b"ours", "f": b"theirs"}
    assert spool.copied() == [Position(SPECS, 3, 101)]
    assert len(spool.outgoing(100, 1 << 20)) == 1
    assert books(spool) == truth(spool)


def test_copying_again_keeps_the_order_of_kafka(spool: Spool) -> None:
    history = [foreign(SPECS, "e", b"old", 0), foreign(SPECS, "e", b"new", 1)]
    spool.copy(history, [Position(SPECS, 3, 102)])
    for _ in spool.store.upkeep(NOW, Retention(interval_seconds=0)):
        pass
    assert newest(spool, SPECS) == {"e": b"new"}
    spool.forget_copied([SPECS])
    assert spool.copied() == []
    for message in history:
        spool.copy([message], [Position(SPECS, 3, message.offset + 1)])
    assert newest(spool, SPECS) == {"e": b"new"}
    assert books(spool) == truth(spool)


def test_of_topics_made_anew_the_newest_of_each_of_our_keys_is_shipped_again(spool: Spool) -> None:
    fill(spool, [*rows_of(SPECS, [b"1", b"2"]), *rows_of(SPECS, [b"3"], key="f", first=2), *rows_of(REPLICAS, [b"4"])])
    spool.acknowledged(spool.outgoing(100, 1 << 20))
    spool.copy([foreign(SPECS, "g", b"theirs", 0), foreign(SPECS, "f", b"newer", 1)], [])
    assert spool.ship_again([SPECS]) == 1
    assert [row.value for row in spool.outgoing(100, 1 << 20)] == [b"2"]
    assert books(spool) == truth(spool)


def test_what_was_attempted_is_remembered_over_restarts(spool: Spool, path: Path) -> None:
    fill(spool, [*rows_of(DEMAND, [b"a"] * 5), *rows_of(REQUESTS, [b"b"] * 5)])
    rows = spool.outgoing(7, 1 << 20)
    spool.attempt(rows)
    spool.attempt(rows[:1])
    with contextlib.closing(Spool.open(path)) as other:
        assert other.attempted(DEMAND) == rows[4].offset
        assert other.attempted(REQUESTS) == rows[6].offset
        assert other.attempted(SPECS) == 0


def test_waiting_rows_of_a_topic_are_found_up_to_an_offset(spool: Spool) -> None:
    fill(spool, [*rows_of(DEMAND, [b"a"] * 2), *rows_of(REQUESTS, [b"b"])])
    mark = spool.last_outgoing([DEMAND])
    assert spool.last_outgoing([DEMAND, REQUESTS]) == mark + 1
    assert spool.last_outgoing([SPECS]) == 0
    rows = spool.outgoing(100, 1 << 20)
    spool.acknowledged(rows[:1])
    assert spool.has_outgoing([DEMAND], mark)
    spool.acknowledged(rows[:2])
    assert not spool.has_outgoing([DEMAND], mark)
    assert spool.has_outgoing([DEMAND, REQUESTS], mark + 1)


def test_upkeep_of_any_process_leaves_what_waits(spool: Spool) -> None:
    fill(spool, [*rows_of(SPECS, [b"1", b"2", b"3"]), *rows_of(DEMAND, [b"x" * 1000] * 20)])
    spool.acknowledged(spool.outgoing(2, 1 << 20))
    tight = Retention(age_seconds=1, topic_bytes=10, interval_seconds=0)
    for _ in spool.store.upkeep(time.time_ns(), tight):
        pass
    assert spool.size().rows == 21
    assert newest(spool, SPECS) == {"e": b"3"}
    messages, _ = spool.store.read({SPECS: 0}, 100, 1 << 20)
    assert len(messages) == 1
    spool.set_aside(spool.outgoing(100, 1 << 20)[1:4], "never", NOW)
    for _ in spool.store.upkeep(time.time_ns() + 10**9, tight):
        pass
    assert spool.size().rows == 18
    assert spool.health().gauges["log_set_aside_messages", ""] == 0
    assert books(spool) == truth(spool)


def test_the_books_add_up_whatever_happens(spool: Spool) -> None:
    chance = random.Random(7)
    sequences = dict.fromkeys((DEMAND, REQUESTS, SPECS), 0)
    for turn in range(300):
        topic = chance.choice(list(sequences))
        count = chance.randrange(1, 5)
        rows = rows_of(topic, [b"x" * chance.randrange(50)] * count, key=str(turn % 3), first=sequences[topic])
        sequences[topic] += count
        fill(spool, rows)
        waiting = spool.outgoing(20, 1 << 20)
        chosen = [row for row in waiting if chance.random() < 0.5]
        match chance.randrange(5):
            case 0:
                spool.set_aside(chosen, "?", NOW)
            case 1:
                spool.try_again()
            case 2:
                spool.ship_again([SPECS])
            case 3:
                spool.copy([foreign(SPECS, "z", b"z" * turn, chance.randrange(5))], [])
            case _:
                spool.acknowledged(chosen)
        assert books(spool) == truth(spool)
    assert spool.size().rows == spool._db.execute("SELECT count(*) FROM messages WHERE outgoing").fetchone()[0]


# the link ------------------------------------------------------------------------------------------------------------


def test_a_spool_without_a_shipper_says_so(spool: Spool) -> None:
    health = spool.health()
    assert (health.state, health.message) == ("unreachable", "no shipper has run in this data folder")
    assert not spool.copy_is_current()


def test_the_link_is_read_as_it_was_written(spool: Spool) -> None:
    link = Link(state=spool_link.CURRENT, copied_once=True, shipped_bytes=9, copied=3)
    link.shipped["demand"] = 5
    link.restarts["Stalled"] = 1
    spool.write_link(link.encode())
    assert spool.link() == link
    health = spool.health()
    assert health.state == "current"
    assert health.counters["log_shipped_messages", "demand"] == 5
    assert health.counters["log_producer_restarts", "Stalled"] == 1
    assert spool.copy_is_current()


@pytest.mark.parametrize(
    ("state", "copied_once", "current"),
    [
        ("current", True, True),
        ("connecting", True, False),
        ("unreachable", True, True),
        ("unreachable", False, False),
        ("refused", True, True),
        ("refused", False, False),
    ],
)
def test_the_copy_is_current_or_better_than_nothing(spool: Spool, state: str, copied_once: bool, current: bool) -> None:
    spool.write_link(Link(state=state, copied_once=copied_once).encode())
    assert spool.copy_is_current() is current


def test_a_link_of_a_dead_shipper_counts_for_nothing(spool: Spool) -> None:
    link = Link(state=spool_link.CURRENT, copied_once=True)
    spool.write_link(Link(state=link.state, copied_once=True, process=(link.process[0], 1)).encode())
    assert not spool.copy_is_current()
    assert (spool.health().state, spool.health().message) == ("unreachable", "no shipper runs")


def test_a_link_of_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    body = Link(message="m").encode().replace("{", '{"future":1,', 1)
    assert spool_link.decode(body).message == "m"


# versions ------------------------------------------------------------------------------------------------------------

_VERSION_1 = """
CREATE TABLE messages (
    offset INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, key TEXT NOT NULL, writer BLOB NOT NULL,
    sequence INTEGER NOT NULL, time_ns INTEGER NOT NULL, compacted INTEGER NOT NULL, value BLOB NOT NULL
);
CREATE UNIQUE INDEX messages_by_id ON messages (topic, writer, sequence);
CREATE INDEX messages_by_topic ON messages (topic, offset);
CREATE INDEX messages_by_key ON messages (topic, key, offset) WHERE compacted = 1;
CREATE TABLE usage (topic TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE upkeep (id INTEGER PRIMARY KEY CHECK (id = 1), claimed_ns INTEGER NOT NULL);
INSERT INTO upkeep VALUES (1, 0);
INSERT INTO messages VALUES (7, 'specs', 'e', x'77777777777777777777777777777777', 4, 5, 1, x'616263');
INSERT INTO usage VALUES ('specs', 3);
PRAGMA user_version = 1;
"""


def test_a_file_of_the_first_version_becomes_one_of_this_in_place(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(_VERSION_1)
    with contextlib.closing(Spool.open(path)) as old, contextlib.closing(Spool.open(path.with_name("new.db"))) as new:
        assert old.store.read({SPECS: 0}, 10, 1 << 20)[0] == [Message(SPECS, 0, 7, "e", b"abc", WRITER.hex(), 4, 5)]
        assert old.size().rows == 0
        fill(old, rows_of(SPECS, [b"d"], first=5, partition=2))
        assert [row.offset for row in old.outgoing(10, 1 << 20)] == [8]
        assert books(old) == truth(old) == {SPECS: (4, 1, 1)}
        shape = "SELECT type, name FROM sqlite_master ORDER BY name"
        assert old._db.execute(shape).fetchall() == new._db.execute(shape).fetchall()
        for table in ("messages", "usage"):
            columns = f"SELECT name, type FROM pragma_table_info('{table}') ORDER BY name"
            assert old._db.execute(columns).fetchall() == new._db.execute(columns).fetchall()
        assert embedded_schema.version(old._db) == embedded_schema.VERSION


# the cap -------------------------------------------------------------------------------------------------------------


async def test_a_full_spool_refuses_streams_and_takes_compacted_messages(tmp_path: Path) -> None:
    settings = WriterSettings(outgoing=True, spool_bytes=20_000, spool_check_seconds=0.01)
    log = EmbeddedLog(tmp_path, settings=settings)
    accepted = refused = 0
    while not refused:
        if log.append(DEMAND, "e", b"x" * 800) < 0:
            refused += 1
        else:
            accepted += 1
        await log.flush()
    assert log.append(SPECS, "e", b"x" * 800) == 0
    await log.flush()
    assert accepted == 20
    assert dict(log.dropped()) == {DEMAND: 1}
    with contextlib.closing(Spool.open(tmp_path / "log.db")) as spool:
        assert spool.size().rows == 21
        spool.acknowledged(spool.outgoing(15, 1 << 20))
    deadline = time.monotonic() + 60
    while (sequence := log.append(DEMAND, "e", b"")) < 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sequence == accepted
    await log.close()


async def test_writers_leave_the_shipper_its_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tuple(os.statvfs(tmp_path))
    enough = 16 * PLENTY * BALLAST_BYTES // (10 * disk[1])  # but not so much that nobody looks for a while
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*disk[:3], enough, enough, *disk[5:])))
    log = EmbeddedLog(tmp_path, settings=WriterSettings(outgoing=True, retry_seconds=0.01, retry_limit_seconds=0.02))
    log.append(DEMAND, "e", b"first")
    await log.flush()
    with monkeypatch.context() as full:
        full.setattr(os, "statvfs", lambda _: os.statvfs_result((*disk[:3], 5, 5, *disk[5:])))
        log.append(DEMAND, "e", b"second")
        log.append(SPECS, "e", b"third")
        with pytest.raises(Unavailable, match="disk is almost full"):
            await log.flush()
    await log.flush()
    with contextlib.closing(Spool.open(tmp_path / "log.db")) as spool:
        assert [row.value for row in spool.outgoing(10, 1 << 20)] == [b"first", b"second", b"third"]
    await log.close()


def test_free_pages_in_the_file_are_room_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(Spool.open(path)) as spool:
        fill(spool, rows_of(DEMAND, [os.urandom(60_000) for _ in range(400)]))
        spool.acknowledged(spool.outgoing(1000, 1 << 30))
        disk = os.statvfs(path.parent)
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*tuple(disk)[:3], 5, 5, *tuple(disk)[5:])))
        fill(spool, rows_of(DEMAND, [b"fits"], first=400))
        assert spool.size().rows == 1


def test_who_opens_the_file_while_it_is_repaired_is_told(path: Path) -> None:
    from router.runtime.log.embedded_lock import OpenLock

    lock = OpenLock(path, alone=True)
    with pytest.raises(Unavailable, match="being repaired"):
        Store(path, busy_seconds=0.02)
    lock.close()
    with contextlib.closing(Store(path)), pytest.raises(Unavailable, match="in use"):
        OpenLock(path, alone=True)
