"""Which column of the board has which name, and which workers hold it: found in one or two looks, however many there are.

Columns are given one after the other; beside them stands an index, a table by the name's digest (open addressing, linear
probing, twice as many slots as columns). A name stays until its column is wanted for another one, so that what comes back
finds its balance; columns that nobody holds are retaken in turn. All of this is done by whoever holds the board's table
lock, and marked while it is done: the next one who finds the mark, because a worker was killed there, makes the index anew.
"""

from __future__ import annotations

from array import array

DIGEST_BYTES = 15
NAME_BYTES = 16
"""Digest of the name, then what kind of quantity it is; a kind of 0 is a column that was never given."""
_HEADER_BYTES = 48
_USED, _HAND, _TORN = 0, 1, 2
"""Of the header's cells: columns given so far, where the next one that nobody holds is looked for, whether somebody is
at work."""
_ALL_ROWS = (1 << 64) - 1
_AHEAD = 4096
"""Columns that are looked at together."""


class Names:
    """Over `memory`, `size(columns)` bytes that all workers share and that began as zeros.

    Whoever changes something holds the table's lock. `kind` and `used` need none.
    """

    def __init__(self, memory: memoryview, columns: int) -> None:
        self._columns = columns
        holders = _HEADER_BYTES + columns * NAME_BYTES
        slots = holders + columns * 8
        self._memory = memory
        self._header = memory[:_HEADER_BYTES].cast("q")
        self._names = memory[_HEADER_BYTES:holders]
        self._holders = memory[holders:slots].cast("Q")
        """Of each column: a bit per row."""
        self._slots = memory[slots : slots + 2 * columns * 4].cast("I")
        """Columns plus one, by their names' digests; 0 is an empty slot, and at least half are."""
        self._count = 2 * columns

    @staticmethod
    def size(columns: int) -> int:
        """Bytes that `columns` take, without their cells."""
        return _HEADER_BYTES + columns * (NAME_BYTES + 8 + 2 * 4)

    def release(self) -> None:
        """Let go of the memory."""
        for view in (self._header, self._names, self._holders, self._slots, self._memory):
            view.release()

    def used(self) -> int:
        """All columns below were given at some time, none from here on."""
        return int(self._header[_USED])

    def kind(self, column: int) -> int:
        """Of the column's quantity."""
        return int(self._names[column * NAME_BYTES + DIGEST_BYTES])

    def find(self, key: bytes) -> int | None:
        """The column that has the name."""
        if self._header[_TORN]:
            self._mend()
        slot = self._home(key)
        while column := self._slots[slot]:
            if self._name(column - 1) == key:
                return int(column) - 1
            slot = (slot + 1) % self._count
        return None

    def free(self) -> int | None:
        """A column that was never given, else one that nobody holds; None where all are held."""
        used = self.used()
        if used < self._columns:
            return used
        hand = int(self._header[_HAND]) % used
        for first, last in ((hand, used), (0, hand)):
            for start in range(first, last, _AHEAD):
                piece = array("Q", self._holders[start : min(start + _AHEAD, last)].tobytes())
                if 0 in piece:
                    return start + piece.index(0)
        return None

    def give(self, column: int, key: bytes) -> None:
        """Name a column that `free` told; its former name is forgotten."""
        self._header[_TORN] = 1
        if column < self.used():
            self._remove(self._name(column))
            self._header[_HAND] = column + 1
        self._names[column * NAME_BYTES : (column + 1) * NAME_BYTES] = key
        self._header[_USED] = max(self.used(), column + 1)
        self._insert(key, column)
        self._header[_TORN] = 0

    def hold(self, column: int, row: int) -> None:
        """The worker of `row` uses the column: it is nobody else's until it is let go."""
        self._holders[column] |= 1 << row

    def let_go(self, column: int, row: int) -> None:
        """It does no longer."""
        self._holders[column] &= ~(1 << row)

    def let_go_all(self, row: int) -> None:
        """The worker of `row` uses nothing any more."""
        others = int.from_bytes((~(1 << row) & _ALL_ROWS).to_bytes(8, "little") * _AHEAD, "little")
        first = _HEADER_BYTES + self._columns * NAME_BYTES
        last = first + 8 * self.used()
        # As one number, because it takes a hundredth of the time that one column after the other does.
        for start in range(first, last, 8 * _AHEAD):
            piece = self._memory[start : min(start + 8 * _AHEAD, last)]
            piece[:] = (int.from_bytes(piece, "little") & others).to_bytes(len(piece), "little")

    def _name(self, column: int) -> bytes:
        return bytes(self._names[column * NAME_BYTES : (column + 1) * NAME_BYTES])

    def _home(self, key: bytes) -> int:
        """The first slot where it may stand: the digest is as good as chance."""
        return int.from_bytes(key[:8], "little") % self._count

    def _insert(self, key: bytes, column: int) -> None:
        slot = self._home(key)
        while self._slots[slot]:
            slot = (slot + 1) % self._count
        self._slots[slot] = column + 1

    def _remove(self, key: bytes) -> None:
        """Empty the name's slot and close the gap: what stands behind it may have been pushed there."""
        slots, count = self._slots, self._count
        gap = self._home(key)
        while self._name(slots[gap] - 1) != key:
            gap = (gap + 1) % count
        at = (gap + 1) % count
        while column := slots[at]:
            home = self._home(self._name(column - 1))
            if (at - home) % count >= (at - gap) % count:
                slots[gap] = column
                gap = at
            at = (at + 1) % count
        slots[gap] = 0

    def _mend(self) -> None:
        """Make the index anew: a worker was killed while it changed it."""
        step = 1 << 16
        for start in range(0, self._count, step):
            stop = min(start + step, self._count)
            self._slots[start:stop] = memoryview(bytes((stop - start) * 4)).cast("I")
        for column in range(self.used()):
            self._insert(self._name(column), column)
        self._header[_TORN] = 0
