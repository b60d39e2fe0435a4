"""Damaged spools: what can be read is saved, what cannot is counted, and nobody's file is exchanged under him."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.contract.codec import decode_notice
from router.contract.errors import Unavailable
from router.contract.events import DEMAND, NOTICES, SPECS, Damaged
from router.runtime.log.base import Message, Position
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.log.embedded_writer import WriterSettings
from router.runtime.log.spool import Spool
from router.runtime.log.spool_rescue import FRESH, mend
from tests.support.spool_filling import NOW, WRITER, fill, rows_of

ROWS = 2_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "log.db"
    with contextlib.closing(Spool.open(file)) as spool:
        fill(spool, rows_of(SPECS, [b"spec"]))
        for first in range(0, ROWS, 100):
            values = [f"{first + n}:".encode() + b"x" * 500 for n in range(100)]
            fill(spool, rows_of(DEMAND, values, first=first, partition=3))
        spool.copy([Message(SPECS, 0, 9, "f", b"copied", "ab" * 16, 0, NOW)], [Position(SPECS, 0, 10)])
    return file


def contents(path: Path) -> dict[int, bytes]:
    with contextlib.closing(Spool.open(path)) as spool:
        rows = spool.outgoing(100_000, 1 << 40)
    assert all(row.writer == WRITER.hex() and row.partition == 3 for row in rows if row.topic == DEMAND)
    found = {row.sequence: row.value for row in rows if row.topic == DEMAND}
    assert all(value.startswith(f"{sequence}:".encode()) for sequence, value in found.items())
    return found


def notice(path: Path) -> Damaged:
    with contextlib.closing(Spool.open(path)) as spool:
        (row,) = [row for row in spool.outgoing(100_000, 1 << 40) if row.topic == NOTICES]
    event = decode_notice(row.value)
    assert isinstance(event, Damaged)
    return event


def overwrite(path: Path, start: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(random.Random(start).randbytes(size))


def test_a_sound_file_is_left_alone(path: Path) -> None:
    before = path.read_bytes()
    assert mend(path) is None
    assert path.read_bytes() == before
    assert mend(path.with_name("absent.db")) is None


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_lost_its_end_keeps_its_beginning(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share) // 4096 * 4096)
    rescue = mend(path)
    assert rescue is not None
    found = contents(path)
    assert len(found) >= ROWS * share * 0.7
    assert rescue.outgoing == len(found) + 1 or rescue.outgoing == len(found)
    assert (rescue.aside / "log.db").exists()
    assert mend(path) is None
    event = notice(path)
    assert (event.waiting, event.messages) == (rescue.outgoing, rescue.rows)
    if rescue.expected >= 0:
        assert rescue.lost == ROWS + 1 - rescue.outgoing


def test_a_hole_in_the_middle_costs_only_what_was_there(path: Path) -> None:
    pages = path.stat().st_size // 4096
    overwrite(path, pages // 2 * 4096, 3 * 4096)
    assert mend(path) is not None
    found = contents(path)
    assert len(found) >= ROWS - 100
    assert ROWS - 1 in found
    assert 0 in found
    assert notice(path).lost in (-1, ROWS + 1 - len(found), ROWS - len(found))


def test_a_damaged_index_costs_nothing(path: Path) -> None:
    with contextlib.closing(Spool.open(path)) as spool:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'messages_by_topic'"
        root = spool._db.execute(query).fetchone()[0]
    overwrite(path, (root - 1) * 4096, 4096)
    rescue = mend(path)
    assert rescue is not None
    assert (rescue.rows, rescue.outgoing, rescue.lost) == (ROWS + 2, ROWS + 1, 0)
    assert sorted(contents(path)) == list(range(ROWS))


def test_a_file_that_is_no_database_any_more_starts_anew(path: Path) -> None:
    overwrite(path, 0, 8192)
    rescue = mend(path)
    assert rescue is not None
    assert (rescue.rows, rescue.expected, rescue.lost) == (0, -1, -1)
    assert contents(path) == {}
    assert notice(path).lost == -1


def test_the_copy_is_made_again_after_a_rescue(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 9 // 10)
    mend(path)
    with contextlib.closing(Spool.open(path)) as spool:
        assert spool.copied() == []
        assert not spool.copy_is_current()
        ours = Message(SPECS, 0, 0, "e", b"spec", WRITER.hex(), 0, NOW)
        spool.copy([ours], [])
        assert spool.size().rows == len(spool.outgoing(100_000, 1 << 40))


def test_a_file_in_use_is_never_exchanged(path: Path) -> None:
    with contextlib.closing(Spool.open(path)):
        os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
        before = path.stat().st_ino
        assert mend(path) is None
        assert path.stat().st_ino == before
    assert mend(path) is not None
    assert path.stat().st_ino != before


def test_a_rescue_that_was_killed_between_its_two_steps_is_finished(path: Path) -> None:
    whole = contents(path)
    os.rename(path, path.with_name(path.name + FRESH))
    assert mend(path) is None
    assert contents(path) == whole


def test_what_a_killed_rescue_began_is_begun_again(path: Path) -> None:
    path.with_name(path.name + FRESH).write_bytes(b"half a file")
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    assert mend(path) is not None
    assert contents(path)
    assert not path.with_name(path.name + FRESH).exists()


COMMITS = 20
STEP = 24 + 4096
"""Of a frame of the write-ahead log."""
LAST_COMMIT = 16
"""Frames of one commit at most. When the newest ones are damaged, the books are too."""


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """What a crash leaves: the files as they are while somebody has them open. The values are longer than a page."""
    live = tmp_path / "live" / "log.db"
    live.parent.mkdir()
    with contextlib.closing(Spool.open(live)) as spool:
        spool._db.execute("PRAGMA wal_autocheckpoint = 0")
        for first in range(0, 10 * COMMITS, 10):
            values = [f"{first + n}:".encode() + b"x" * 700 * (n % 8) for n in range(10)]
            fill(spool, rows_of(DEMAND, values, first=first, partition=3))
        for part in ("", "-wal"):
            (tmp_path / f"log.db{part}").write_bytes(Path(f"{live}{part}").read_bytes())
    return tmp_path / "log.db"


def wal_of(path: Path) -> Path:
    return Path(f"{path}-wal")


@pytest.mark.parametrize(
    "damage",
    [
        lambda wal: os.truncate(wal, wal.stat().st_size - 1234),
        lambda wal: wal.write_bytes(wal.read_bytes() + random.Random(1).randbytes(9999)),
        lambda wal: wal.write_bytes(wal.read_bytes()[:-STEP]),
    ],
    ids=["cut within the last frame", "garbage behind", "cut before it"],
)
def test_a_commit_that_never_came_to_its_end_is_no_damage(crashed: Path, damage: Callable[[Path], object]) -> None:
    damage(wal_of(crashed))
    assert mend(crashed) is None
    found = contents(crashed)
    assert list(found) == list(range(len(found)))
    assert len(found) >= 10 * COMMITS - 10


@given(start=st.floats(0, 1), size=st.integers(1, 3 * STEP))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_of_a_damaged_write_ahead_log_everything_else_is_kept_and_the_rest_is_counted(
    crashed: Path, tmp_path: Path, start: float, size: int
) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    path = folder / "log.db"
    for part in ("", "-wal"):
        shutil.copyfile(f"{crashed}{part}", f"{path}{part}")
    length = wal_of(path).stat().st_size
    at = int(start * (length - size - LAST_COMMIT * STEP))
    overwrite(wal_of(path), at, size)
    rescue = mend(path)
    assert rescue is not None
    found = contents(path)
    assert rescue.outgoing == len(found)
    assert len(found) >= 10 * COMMITS - 40
    assert rescue.lost == 10 * COMMITS - len(found)
    assert notice(path).lost == rescue.lost
    assert mend(path) is None


def test_a_write_ahead_log_that_lost_its_head_loses_nothing(crashed: Path) -> None:
    overwrite(wal_of(crashed), 0, 32)
    rescue = mend(crashed)
    assert rescue is not None
    assert (rescue.outgoing, rescue.lost) == (10 * COMMITS, 0)
    assert sorted(contents(crashed)) == list(range(10 * COMMITS))


def test_when_the_books_went_with_the_last_commit_nobody_says_how_much_is_lost(crashed: Path) -> None:
    frames = (wal_of(crashed).stat().st_size - 32) // STEP
    overwrite(wal_of(crashed), 32 + (frames - 12) * STEP, 11 * STEP)
    rescue = mend(crashed)
    assert rescue is not None
    assert rescue.lost == -1
    assert len(contents(crashed)) >= 10 * COMMITS - 60


@pytest.mark.parametrize("mark", [b"1234:", b"7:"], ids=["in a page of the table", "in a page behind it"])
def test_a_value_that_is_not_what_was_written_is_lost_and_counted(path: Path, mark: bytes) -> None:
    with contextlib.closing(Spool.open(path)) as spool:
        fill(spool, rows_of(DEMAND, [b"7:" + b"y" * 9000], first=ROWS, key="long", partition=3))
    content = path.read_bytes()
    at = content.index(mark + b"x" * 100) if mark != b"7:" else content.rindex(b"y" * 100)
    overwrite(path, at + 50, 1)
    rescue = mend(path)
    assert rescue is not None
    assert rescue.fault == "1 messages are not what was written"
    assert (rescue.outgoing, rescue.lost) == (ROWS + 1, 1)
    assert mend(path) is None


async def test_whoever_opens_a_damaged_spool_first_mends_it(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    log = EmbeddedLog(path.parent, settings=WriterSettings(outgoing=True))
    log.append(DEMAND, "e", b"after", 5)
    await log.flush()
    await log.close()
    assert notice(path).waiting > 0


async def test_a_log_that_is_no_spool_stays_as_it_is(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    inode = path.stat().st_ino
    with contextlib.suppress(Unavailable):
        await EmbeddedLog(path.parent).close()
    assert path.stat().st_ino == inode
