"""SQLite's write-ahead log, looked at past SQLite: whether something in it is damaged, and the same log without that.

SQLite takes the log up to the first frame that is not whole, and everything behind it for never written: after a crash
that is right, because the rest was not committed. When committed frames follow, it is a loss without a word. Each frame's
checksum goes on from the one of the frame before it, which is stored there; so every frame can be judged by itself.
Format: https://www.sqlite.org/fileformat2.html#walformat. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_SUM = struct.Struct(">2I")
_MAGIC = 0x377F0682
"""With the lowest bit set, checksums are over big-endian words."""
_FORMAT = 3007000
_MASK = 0xFFFFFFFF


class Damage(NamedTuple):
    """A log with committed frames that are not whole."""

    frames: int
    """How many of them; 0 when only the header is damaged."""
    newest: Mapping[int, int]
    """Page → number of the newest frame that is known to be of it."""
    lost: frozenset[int]
    """Pages of which that one is damaged."""
    unknown: int
    """Number of the last frame of which nobody knows what page it was of; -1 when there is none."""
    mended: bytes
    """A log that SQLite takes as a whole: everything that was committed and is not damaged."""

    def keeps(self, page: int) -> bool:
        """Whether the newest content of `page` is known to be what the mended log leaves in the database."""
        return page not in self.lost and (self.unknown < 0 or self.newest.get(page, -1) > self.unknown)


class _Frame(NamedTuple):
    number: int
    page: int
    """0 when the frame's head is damaged."""
    pages_after: int
    """Size of the database after the commit that this frame ends; 0 when it ends none."""
    whole: bool
    content: bytes


class _Header(NamedTuple):
    order: str
    """Byte order of the words that are summed."""
    page_size: int
    checkpoints: int
    salts: tuple[int, int]
    sums: tuple[int, int] | None
    """What the first frame's checksum goes on from; None when nobody knows."""


def damage_of(wal: bytes, page_size: int) -> Damage | None:
    """What is damaged in a log that nobody has open; None when SQLite's own reading of it misses nothing.

    `page_size`: the database's, for a log whose header is damaged. A thirtieth of a second per MiB.
    """
    header, sound = _header(wal), True
    if header is None:
        header, sound = _guessed(wal, page_size), False
    if header is None:
        return None
    frames = list(_frames(wal, header))
    # Frames behind the last commit belong to one that never came to its end.
    last = max((frame.number for frame in frames if frame.pages_after), default=-1)
    committed = [frame for frame in frames if frame.number <= last]
    damaged = last + 1 - sum(frame.whole for frame in committed)
    if not committed or (sound and not damaged):
        return None
    newest = {frame.page: frame for frame in committed}
    unknown = newest.pop(0).number if 0 in newest else -1
    return Damage(
        damaged,
        {page: frame.number for page, frame in newest.items()},
        frozenset(page for page, frame in newest.items() if not frame.whole),
        unknown,
        _mended(header, [frame for frame in committed if frame.whole], committed[-1]),
    )


def _header(wal: bytes) -> _Header | None:
    """None when there is none that SQLite would take."""
    if len(wal) < _HEADER.size:
        return None
    magic, version, size, checkpoints, *rest = _HEADER.unpack_from(wal)
    if magic & ~1 != _MAGIC or version != _FORMAT:
        return None
    order = ">" if magic & 1 else "<"
    sums = _summed(order, wal[: _HEADER.size - _SUM.size], (0, 0))
    return _Header(order, size, checkpoints, (rest[0], rest[1]), sums) if sums == (rest[2], rest[3]) else None


def _guessed(wal: bytes, page_size: int) -> _Header | None:
    """What the header must have been, from the first two frames of which one goes on from the other."""
    if page_size < 512:
        return None
    step = _FRAME.size + page_size
    for start in range(_HEADER.size, len(wal) - 2 * step + 1, step):
        salts, sums = _salts_and_sums(wal, start)
        content = wal[start + step + _FRAME.size : start + 2 * step]
        for order in "<>":
            going_on = _summed(order, content, _summed(order, wal[start + step : start + step + 8], sums))
            if (salts, going_on) == _salts_and_sums(wal, start + step):
                # The first frame of all cannot be judged: what its sum went on from is gone.
                return _Header(order, page_size, 0, salts, None)
    return None


def _salts_and_sums(wal: bytes, start: int) -> tuple[tuple[int, int], tuple[int, int]]:
    _, _, *rest = _FRAME.unpack_from(wal, start)
    return (rest[0], rest[1]), (rest[2], rest[3])


def _frames(wal: bytes, header: _Header) -> Iterator[_Frame]:
    """Every frame of this generation of the log, and damaged ones between them. Older ones are behind the last."""
    step = _FRAME.size + header.page_size
    count = (len(wal) - _HEADER.size) // step
    heads = [_FRAME.unpack_from(wal, _HEADER.size + number * step) for number in range(count)]
    ours = [(head[2], head[3]) == header.salts for head in heads]
    last = max((number for number in range(count) if ours[number]), default=-1)
    before = header.sums
    for number in range(last + 1):
        page, pages_after, *_, one, two = heads[number]
        start = _HEADER.size + number * step
        content = wal[start + _FRAME.size : start + step]
        if not ours[number]:
            yield _Frame(number, 0, 0, False, content)
            before = None
            continue
        # After a frame whose head is damaged nobody knows what this one's sum goes on from.
        seed = None if before is None else _summed(header.order, wal[start : start + 8], before)
        before = one, two
        whole = seed is None or _summed(header.order, content, seed) == before
        yield _Frame(number, page, pages_after, whole, content)


def _summed(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    one, two = sums
    for first, second in struct.iter_unpack(f"{order}2I", data):
        one = (one + first + two) & _MASK
        two = (two + second + one) & _MASK
    return one, two


def _mended(header: _Header, frames: Sequence[_Frame], last: _Frame) -> bytes:
    """A log of these frames as one commit, as large as `last` left the database."""
    magic = _MAGIC | (header.order == ">")
    head = struct.pack(">6I", magic, _FORMAT, header.page_size, header.checkpoints, *header.salts)
    sums = _summed(header.order, head, (0, 0))
    parts = [head, _SUM.pack(*sums)]
    for frame in frames:
        start = _SUM.pack(frame.page, last.pages_after if frame is frames[-1] else 0)
        sums = _summed(header.order, frame.content, _summed(header.order, start, sums))
        parts += [start, _SUM.pack(*header.salts), _SUM.pack(*sums), frame.content]
    return b"".join(parts)
