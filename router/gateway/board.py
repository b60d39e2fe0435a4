"""What the gateway workers of one machine share: a file of 64-bit cells, mapped by all, one writer per cell.

A column is a named quantity, a row a worker. A worker stores into its own row and reads the column's sum: no lock on the
request path, and a worker that is killed leaves nothing half-written. Gauges (in flight, waiting) of a worker that died
are zeroed by whoever notices, proved by the row's lock that the kernel let go; balances stay, so that sums stay exact.
Columns are taken one beside the other, so that the file, which has room for many, takes the memory of few.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import hashlib
import mmap
import os
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path

from router.contract.errors import Unavailable
from router.gateway.columns import DIGEST_BYTES, Names

ROWS = 64
COLUMNS = 1 << 18
"""For 10,000 endpoints with three deployments of a replica each, and as many again; of them only those in use take memory."""
_MAGIC = b"tidegate-board-3"
_NAMES = len(_MAGIC)
_CELLS = _NAMES + Names.size(COLUMNS)
_ABOUT = _CELLS + ROWS * COLUMNS * 8
_COUNTS, _SEEN, _USED = 1, 1 + ROWS, 1 + 2 * ROWS
"""Of the cells about rows: a version, then whether each row counts, then which version its worker has seen, then whether
a worker has used it since somebody cleared it."""
_SIZE = _ABOUT + (1 + 3 * ROWS) * 8
_TABLE_LOCK = 0
_ROW_LOCK = 1
"""Byte offsets of the locks: the table's, then one per row. Locks belong to the open file, not to the process."""
_FLOCK = struct.Struct("hhqqi4x")
_PIECE = 512
"""Cells that are looked at together."""
_ZEROS = bytes(8 * _PIECE)
_SLICE = 16 * _PIECE
"""Columns of a row that are taken over in one go: milliseconds, whatever stands in them."""


class Quantity(enum.IntEnum):
    """What a column holds, which decides what a death does to it."""

    GAUGE = 1
    """Belongs to requests inside the worker: gone with it."""
    BALANCE = 2
    """Accounts for the past: stays."""
    LATEST = 3
    """The same, but of all rows the largest counts and not the sum."""


class Board:
    """One worker's view. `cells` is the whole table; `row` is its row's offset, to be added to a column."""

    def __init__(self, path: Path, worker: int, workers: int, *, beside: bool = False) -> None:
        """Waits for predecessors of the same index, unless it may stand `beside` one that still lives."""
        if not 0 <= worker < workers <= ROWS:
            raise ValueError(f"worker {worker} of {workers}: at most {ROWS}")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._family = tuple(range(worker, ROWS, workers))
        self._columns: dict[bytes, int] = {}
        self._more_uses: dict[bytes, int] = {}
        """Of columns that are asked for twice and more in this worker: beyond the first."""
        self.steps: list[int] = []
        """From a cell of ours to those of all other workers in the same column: always the same list, which changes with the
        workers, so that who counts costs the same however many columns there are.
        """
        self._others: list[int] = []
        self._elders: list[int] = []
        """Rows of the same index that count beside ours: of a predecessor."""
        self._inheriting: dict[int, int] = {}
        """Of those the ones that have gone, locked by us: up to which column we have what they left."""
        self._version = -1
        with self._table():
            if os.fstat(self._file).st_size != _SIZE:
                os.ftruncate(self._file, 0)
                os.ftruncate(self._file, _SIZE)
            self._map = mmap.mmap(self._file, _SIZE)
            if self._map[: len(_MAGIC)] != _MAGIC:
                self._map[: len(_MAGIC)] = _MAGIC
            self._names = Names(memoryview(self._map)[_NAMES:_CELLS], COLUMNS)
        self.cells = memoryview(self._map)[_CELLS:_ABOUT].cast("q")
        self._about = memoryview(self._map)[_ABOUT:].cast("q")
        self.number = self._own_row(beside=beside)
        """Of its row."""
        self.row = self.number * COLUMNS
        self._clear(self.number)
        self._let_go_all(self.number)
        self._about[_USED + self.number] = 1
        with self._table():
            self._count(self.number, counts=True)
        self.renew()

    def _own_row(self, *, beside: bool) -> int:
        """The first free row of its index, locked."""
        if beside:
            for row in self._family:
                if self._lock(_ROW_LOCK + row, wait=False):
                    return row
        for row in self._family:
            self._lock(_ROW_LOCK + row, wait=True)
        for row in self._family[1:]:
            self._unlock(_ROW_LOCK + row)
        return self._family[0]

    # Who counts -----------------------------------------------------------------------------------------------------

    def _count(self, row: int, *, counts: bool) -> None:
        """Say whether `row` counts. The caller holds the table."""
        if bool(self._about[_COUNTS + row]) != counts:
            self._about[_COUNTS + row] = int(counts)
            self._about[0] += 1

    def renew(self) -> None:
        """Count by the rows that count now, and take over what a predecessor that has gone left. For many times a second."""
        for row in self._elders:
            self._inherit(row)
        version = self._about[0]
        if version == self._version:
            return
        self._version = version
        self._others = [row for row in range(ROWS) if row != self.number and self._about[_COUNTS + row]]
        self._elders = [row for row in self._others if row in self._family]
        self.steps[:] = [(row - self.number) * COLUMNS for row in self._others]
        self._about[_SEEN + self.number] = version

    def _inherit(self, row: int) -> None:
        """Add the balances of a row to ours, if its worker has gone: only who has the lock of a row writes to it.

        A slice at a time, so that requests are answered in between. The row counts until it is empty.
        """
        if row not in self._inheriting:
            if not self._lock(_ROW_LOCK + row, wait=False):
                return
            self._inheriting[row] = 0
            self._clear(row)
        first = self._inheriting[row]
        last = self._inheriting[row] = min(first + _SLICE, self._names.used())
        cells, step = self.cells, (self.number - row) * COLUMNS
        for at, left in self._nonzero(row, first, last):
            own = at + step
            latest = self._names.kind(at - row * COLUMNS) == Quantity.LATEST
            cells[own] = max(cells[own], left) if latest else cells[own] + left
            cells[at] = 0
        if last == self._names.used():
            self._let_go_all(row)
            with self._table():
                self._count(row, counts=False)
            del self._inheriting[row]
            self._unlock(_ROW_LOCK + row)

    def others(self) -> tuple[int, ...]:
        """The rows of all other workers."""
        return tuple(self._others)

    def is_seen(self) -> bool:
        """Whether all workers that live count by the rows that count now."""
        self.renew()
        late = [row for row in self._others if self._about[_SEEN + row] < self._version]
        return all(self._is_gone(row) for row in late)

    def _is_gone(self, row: int) -> bool:
        if row in self._inheriting:
            return True
        if not self._lock(_ROW_LOCK + row, wait=False):
            return False
        self._unlock(_ROW_LOCK + row)
        return True

    # Columns --------------------------------------------------------------------------------------------------------

    def column(self, name: str, quantity: Quantity) -> int:
        """The column of `name`, held by this worker until it is let go as often as it was asked for.

        Raises `Unavailable` when the board is full.
        """
        key = _key(name, quantity)
        known = self._columns.get(key)
        if known is not None:
            self._more_uses[key] = self._more_uses.get(key, 0) + 1
            return known
        with self._table():
            column = self._names.find(key)
            if column is None:
                column = self._take(key)
            self._names.hold(column, self.number)
        self._columns[key] = column
        return column

    def let_go(self, name: str, quantity: Quantity) -> None:
        """One user in this worker is done with the column; when no worker uses it, another name may take it."""
        key = _key(name, quantity)
        more = self._more_uses.pop(key, 0)
        if more:
            if more > 1:
                self._more_uses[key] = more - 1
            return
        column = self._columns.pop(key, None)
        if column is not None:
            if quantity is Quantity.GAUGE:
                self.cells[self.row + column] = 0
            with self._table():
                self._names.let_go(column, self.number)

    def total(self, column: int) -> int:
        """The column's sum over all workers."""
        cells, own = self.cells, self.row + column
        return cells[own] + sum([cells[own + step] for step in self.steps])

    @staticmethod
    def row_at(offset: int) -> int:
        """The number of the row that a cell is in."""
        return offset // COLUMNS

    def reap(self) -> bool:
        """Zero the gauges of workers that are no longer alive; whether there were any."""
        found = False
        for other in self._others:
            if other not in self._inheriting and self._lock(_ROW_LOCK + other, wait=False):
                try:
                    found |= self._clear(other)
                finally:
                    self._unlock(_ROW_LOCK + other)
        return found

    def close(self) -> None:
        """Zero this worker's gauges and let go of the file."""
        self._clear(self.number)
        self._let_go_all(self.number)
        self.cells.release()
        self._names.release()
        self._about.release()
        self._map.close()
        os.close(self._file)

    def _take(self, key: bytes) -> int:
        """A column that was never given, or one that nobody holds any more, zeroed. The caller holds the table."""
        column = self._names.free()
        if column is None:
            raise Unavailable(f"the gateway's board is full: {COLUMNS} replicas and deployments on one machine")
        if column < self._names.used():
            for at in range(column, ROWS * COLUMNS, COLUMNS):
                self.cells[at] = 0
        self._names.give(column, key)
        return column

    def _clear(self, row: int) -> bool:
        """Zero a row's gauges; whether any was not zero. The caller holds the row's lock."""
        if not self._about[_USED + row]:
            return False
        found = False
        for at, _ in self._nonzero(row, 0, self._names.used()):
            if self._names.kind(at - row * COLUMNS) == Quantity.GAUGE:
                self.cells[at] = 0
                found = True
        self._about[_USED + row] = 0
        return found

    def _nonzero(self, row: int, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Of the columns from `first` up to `last` the cells of a row that are not zero, and their values."""
        end = row * COLUMNS + last
        for start in range(row * COLUMNS + first, end, _PIECE):
            piece = self.cells[start : min(start + _PIECE, end)].tobytes()
            if not _ZEROS.startswith(piece):
                for at, value in enumerate(array("q", piece), start):
                    if value:
                        yield at, value

    def _let_go_all(self, row: int) -> None:
        """No column is held by `row` any more. The caller holds the row's lock."""
        with self._table():
            self._names.let_go_all(row)

    @contextlib.contextmanager
    def _table(self) -> Iterator[None]:
        self._lock(_TABLE_LOCK, wait=True)
        try:
            yield
        finally:
            self._unlock(_TABLE_LOCK)

    def _lock(self, byte: int, *, wait: bool) -> bool:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, asked)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def _unlock(self, byte: int) -> None:
        asked = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0)
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, asked)


def _key(name: str, quantity: Quantity) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES).digest() + bytes([quantity])
