"""What the embedded log adds to the contract: bounds, failures, upkeep, wake-ups that do not rely on polling."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from router.contract.errors import InvalidSpec, Unavailable
from router.contract.events import DEMAND, REQUESTS, SPECS
from router.runtime.clock import ManualClock
from router.runtime.log import embedded_reader
from router.runtime.log.base import Position
from router.runtime.log.buffer import ROW_BYTES, Row
from router.runtime.log.embedded import FILE, EmbeddedLog
from router.runtime.log.embedded_store import Retention, Store
from router.runtime.log.embedded_writer import WriterSettings
from router.runtime.log.opening import open_log
from tests.support.log_reading import read, read_all
from tests.support.log_writing import ROOT

Opener = Callable[..., EmbeddedLog]
SOON = WriterSettings(retry_seconds=0.01, retry_limit_seconds=0.02, close_seconds=0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
async def opener(folder: Path) -> AsyncIterator[Opener]:
    logs: list[EmbeddedLog] = []

    def again(**options: object) -> EmbeddedLog:
        logs.append(EmbeddedLog(folder, **options))  # type: ignore[arg-type]
        return logs[-1]

    yield again
    for log in logs:
        with contextlib.suppress(Unavailable):
            await log.close()


@contextlib.contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Nobody else can commit."""
    other = sqlite3.connect(folder / FILE, isolation_level=None, timeout=30)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def sql(folder: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(folder / FILE, isolation_level=None, timeout=30)) as other:
        return other.execute(statement).fetchall()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_full_buffer_drops_and_counts_streams_but_never_compacted_messages(
    opener: Opener, folder: Path
) -> None:
    log = opener(settings=WriterSettings(buffer_bytes=10 * (ROW_BYTES + 100), retry_seconds=0.01))
    with write_lock(folder):
        demand = [log.append(DEMAND, "e", b"x" * 100) for _ in range(15)]
        specs = [log.append(SPECS, f"e{n}", b"x" * 100) for n in range(5)]
        assert not await (await log.reader([SPECS])).caught_up()
    assert demand == [*range(10), *[-1] * 5]
    assert specs == list(range(5))
    assert dict(log.dropped()) == {DEMAND: 5}
    await log.flush()
    assert log.append(DEMAND, "e", b"again") == 10
    reader = await log.reader([DEMAND, SPECS])
    messages = await read(reader, 16)
    assert [m.sequence for m in messages if m.topic == DEMAND] == list(range(11))
    assert reader.stats.gaps == 0


async def test_an_append_does_not_wait_for_a_locked_file(opener: Opener, folder: Path) -> None:
    log = opener()
    with write_lock(folder):
        assert [log.append(DEMAND, "e", b"") for _ in range(100)] == list(range(100))
        assert not await (await log.reader([DEMAND])).caught_up()
    await log.flush()
    assert len(await read_all(await log.reader([DEMAND]))) == 100


async def test_flush_says_when_it_cannot_and_the_messages_stay(opener: Opener, folder: Path) -> None:
    log = opener(settings=SOON, busy_seconds=0.01)
    with write_lock(folder):
        log.append(DEMAND, "e", b"kept")
        with pytest.raises(Unavailable, match=r"log\.db is locked by another process"):
            await log.flush()
        with pytest.raises(Unavailable):
            await log.flush()
    await log.flush()
    assert [m.value for m in await read_all(await log.reader([DEMAND]))] == [b"kept"]


async def test_close_gives_up_in_the_end_and_says_what_is_lost(opener: Opener, folder: Path) -> None:
    log = opener(settings=SOON, busy_seconds=0.01)
    with write_lock(folder):
        log.append(DEMAND, "e", b"")
        log.append(SPECS, "e", b"")
        with pytest.raises(Unavailable, match="'demand': 1, 'specs': 1"):
            await log.close()
        with pytest.raises(Unavailable):
            await log.flush()


async def test_a_wake_up_arrives_without_polling(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_reader, "POLL_SECONDS", 3600.0)
    reader, writer = await opener().reader([DEMAND, SPECS]), opener()
    for number in range(100):
        pending = asyncio.create_task(reader.next())
        await asyncio.wait({pending}, timeout=0)
        writer.append((DEMAND, SPECS)[number % 2], "e", b"")
        async with asyncio.timeout(30):
            assert len(await pending) == 1


async def test_a_lost_wake_up_costs_only_a_poll(opener: Opener, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_reader, "POLL_SECONDS", 0.02)
    log = opener()
    reader = await log.reader([DEMAND])
    for name in os.listdir(folder / "wake"):
        (folder / "wake" / name).unlink()
    log.append(DEMAND, "e", b"")
    assert len(await read(reader, 1)) == 1


async def test_the_same_id_is_never_stored_twice(opener: Opener, folder: Path) -> None:
    log = opener()
    now_ns = time.time_ns()
    rows = [Row(DEMAND, "e", b"first", 0, now_ns), Row(DEMAND, "e", b"second", 1, now_ns)]
    with contextlib.closing(Store(folder / FILE)) as store:
        for _ in range(3):  # as after a commit whose outcome was not known
            store.insert(b"w" * 16, rows)
    assert [m.value for m in await read_all(await log.reader([DEMAND]))] == [b"first", b"second"]
    columns = "topic, key, writer, sequence, time_ns, compacted, value"
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        sql(folder, f"INSERT INTO messages ({columns}) SELECT {columns} FROM messages")


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200, 1000])
async def test_however_many_are_committed_together_each_is_there_once_and_in_its_order(
    opener: Opener, folder: Path, count: int
) -> None:
    log, now_ns = opener(), time.time_ns()
    rows = [
        Row((DEMAND, REQUESTS)[number % 2], "e", b"%d" % number, number // 2, now_ns) for number in range(2 * count)
    ]
    with contextlib.closing(Store(folder / FILE)) as store:
        for together in (count, 2 * count, count):  # as after commits whose outcome was not known
            store.insert(b"w" * 16, rows[:together])
    found = await read_all(await log.reader([DEMAND, REQUESTS]))
    assert [(m.topic, m.value, m.sequence) for m in found] == [(row.topic, row.value, row.sequence) for row in rows]
    assert sql(folder, "SELECT sum(bytes) FROM usage") == [(sum(len(row.value) for row in rows),)]


async def test_a_missing_stream_message_is_a_gap_for_readers_that_pass_it(opener: Opener, folder: Path) -> None:
    log = opener()
    for _ in range(10):
        log.append(DEMAND, "e", b"")
        log.append(SPECS, "e", b"")
    await log.flush()
    sql(folder, "DELETE FROM messages WHERE sequence IN (0, 3, 4)")
    reader = await log.reader([DEMAND, SPECS])
    await read(reader, 14)
    assert (reader.stats.messages, reader.stats.gaps, reader.stats.duplicates) == (14, 2, 0)


async def test_upkeep_keeps_the_newest_of_each_key_and_streams_whole(opener: Opener, folder: Path) -> None:
    log = opener(
        retention=Retention(interval_seconds=0, step_rows=10), settings=WriterSettings(upkeep_check_seconds=0.01)
    )
    for number in range(200):
        log.append(SPECS, f"e{number % 4}", str(number).encode())
        log.append(DEMAND, f"e{number % 4}", b"")
    await log.flush()
    await until(lambda: sql(folder, "SELECT count(*) FROM messages WHERE topic = 'specs'") == [(4,)])
    messages = await read_all(await log.reader([SPECS, DEMAND]))
    assert {m.key: m.value for m in messages if m.topic == SPECS} == {f"e{k}": str(196 + k).encode() for k in range(4)}
    assert len(messages) == 204
    assert sql(folder, "SELECT bytes FROM usage WHERE topic = 'specs'") == [(12,)]


async def test_old_stream_messages_go_and_old_compacted_ones_stay(opener: Opener, folder: Path) -> None:
    clock = ManualClock()
    retention = Retention(age_seconds=60, interval_seconds=0, step_rows=7)
    log = opener(clock=clock, retention=retention, settings=WriterSettings(upkeep_check_seconds=0.01))
    log.append(SPECS, "e", b"spec")
    for _ in range(50):
        log.append(DEMAND, "e", b"old")
    await log.flush()
    clock.advance(61)
    log.append(DEMAND, "e", b"new")
    await log.flush()
    await until(lambda: sql(folder, "SELECT count(*) FROM messages WHERE topic = 'demand'") == [(1,)])
    assert {m.value for m in await read_all(await log.reader([SPECS, DEMAND]))} == {b"spec", b"new"}


async def test_a_stream_beyond_its_bytes_loses_its_oldest(opener: Opener, folder: Path) -> None:
    retention = Retention(topic_bytes=10_000, interval_seconds=0, step_rows=7)
    log = opener(retention=retention, settings=WriterSettings(upkeep_check_seconds=0.01))
    for _ in range(50):
        log.append(DEMAND, "e", b"x" * 1000)
    log.append(REQUESTS, "e", b"x" * 1000)
    await log.flush()
    await until(lambda: sql(folder, "SELECT bytes FROM usage WHERE topic = 'demand'") == [(10_000,)])
    assert [m.sequence for m in await read_all(await log.reader([DEMAND]))] == list(range(40, 50))
    assert len(await read_all(await log.reader([REQUESTS]))) == 1


async def test_a_reader_overtaken_by_retention_counts_what_it_missed(opener: Opener, folder: Path) -> None:
    log = opener()
    reader = await log.reader([DEMAND])
    log.append(DEMAND, "e", b"")
    await read(reader, 1)
    for _ in range(5):
        log.append(DEMAND, "e", b"")
    await log.flush()
    sql(folder, "DELETE FROM messages WHERE sequence < 4")
    await read_all(reader)
    assert (reader.stats.messages, reader.stats.gaps) == (3, 3)


async def test_one_process_at_a_time_takes_the_upkeep(opener: Opener, folder: Path) -> None:
    log = opener()
    await until(lambda: sql(folder, "SELECT claimed_ns > 0 FROM upkeep") == [(1,)])
    (before,) = sql(folder, "SELECT claimed_ns FROM upkeep")
    other = opener()
    other.append(DEMAND, "e", b"")
    await other.flush()
    await log.flush()
    assert sql(folder, "SELECT claimed_ns FROM upkeep") == [before]


async def test_a_position_beyond_the_end_means_another_file_and_reads_from_the_start(opener: Opener) -> None:
    log = opener()
    log.append(DEMAND, "e", b"")
    await log.flush()
    assert len(await read(await log.reader([DEMAND], [Position(DEMAND, 0, 5_000)]), 1)) == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda file: file.write_bytes(b"certainly not a database, whatever else" * 200),
            "is not a database; move it away",
        ),
        (lambda file: os.truncate(file, 4096 * 3), "is damaged; stop every process, move it away"),
        (lambda file: file.unlink() or file.mkdir(), "cannot be opened"),
    ],
    ids=["not a database", "truncated", "a folder"],
)
async def test_a_file_that_cannot_be_used_is_named_with_the_fix(
    folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    log = EmbeddedLog(folder)
    for number in range(300):
        log.append(SPECS, str(number), b"x" * 300)
    await log.close()
    damage(folder / FILE)
    with pytest.raises(Unavailable) as caught:
        again = EmbeddedLog(folder)
        try:
            await read_all(await again.reader([SPECS]))
        finally:
            await again.close()
    assert words in caught.value.message
    assert str(folder / FILE) in caught.value.message


async def test_a_file_that_another_program_keeps_locked_is_named(folder: Path) -> None:
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / FILE, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match=r"log\.db is locked by another process"):
            EmbeddedLog(folder, busy_seconds=0.05)
    await EmbeddedLog(folder).close()


async def test_a_file_of_a_newer_version_is_left_alone(folder: Path) -> None:
    await EmbeddedLog(folder).close()
    sql(folder, "PRAGMA user_version = 99")
    with pytest.raises(Unavailable, match="newer version"):
        EmbeddedLog(folder)


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="file/log cannot be made"):
        EmbeddedLog(tmp_path / "file" / "log")


async def test_a_path_longer_than_a_socket_address_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_reader, "POLL_SECONDS", 3600.0)
    log = EmbeddedLog(tmp_path / ("long" * 40) / "log")
    reader = await log.reader([DEMAND])
    log.append(DEMAND, "e", b"")
    assert len(await read(reader, 1)) == 1
    await log.close()


async def test_closing_leaves_no_thread_and_no_socket_behind(folder: Path) -> None:
    before = set(threading.enumerate())
    log = EmbeddedLog(folder)
    readers = [await log.reader([DEMAND]) for _ in range(3)]
    log.append(DEMAND, "e", b"")
    await read(readers[0], 1)
    await readers[1].close()
    await log.close()
    await until(lambda: set(threading.enumerate()) <= before)
    assert os.listdir(folder / "wake") == []


_FILL_THE_DISK = """
import asyncio, resource, signal, sys
from pathlib import Path
from router.contract.errors import Unavailable
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.log.embedded_writer import WriterSettings

async def main():
    log = EmbeddedLog(Path(sys.argv[1]), settings=WriterSettings(retry_seconds=0.01, retry_limit_seconds=0.02))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    refused = 0
    for _ in range(400):
        log.append("requests", "e", b"x" * 10_000)
        try:
            await log.flush()
        except Unavailable as error:
            assert "log.db" in error.message, error
            refused += 1
            if refused == 3:
                break
    assert refused == 3
    accepted = [log.append("requests", "e", b"x" * 10_000) for _ in range(10)][-1] + 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    await log.flush()
    reader = await log.reader(["requests"])
    sequences = []
    while not await reader.caught_up():
        sequences += [m.sequence for m in await reader.next(1)]
    assert sequences == list(range(accepted)), sequences
    await log.close()
    print("kept", accepted)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
asyncio.run(main())
"""


def test_a_full_disk_costs_nothing_but_time(folder: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    assert signal.SIGXFSZ
    done = subprocess.run(
        [sys.executable, "-c", _FILL_THE_DISK, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 20


async def test_the_url_names_the_log(folder: Path) -> None:
    log = open_log(f"embedded:{folder}")
    assert (folder / FILE).exists()
    await log.close()
    for wrong in ("redis://x", "", "embedded:", "embedded"):
        with pytest.raises(InvalidSpec, match="embedded:DIR") as caught:
            open_log(wrong)
        assert caught.value.problems[0].field == "log"
