"""Header blocks of one direction: put together from their frames, and unpacked (RFC 9113, 4.3; the compression is `hpack`'s).

All blocks of a connection share one table, so each is unpacked in its turn or the connection is over. A block that changes
nothing in the table is remembered as long as no other does: callers repeat themselves.
"""

from __future__ import annotations

from typing import cast

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from router.runtime.http2.frames import Broken, Code, Field

_NO_FIELDS: list[Field] = []
_NO_DECODER = Decoder()
"""For connections that are over."""


class Blocks:
    """Of one connection."""

    __slots__ = (
        "_bytes", "_decoder", "_pieces", "_same_block", "_same_fields", "_stream", "ended", "list_bytes", "open",
    )  # fmt: skip

    def __init__(self, list_bytes: int) -> None:
        """`list_bytes`: how large a field section may be before it is refused."""
        self.list_bytes = list_bytes
        self.open = False
        """A block has begun whose end has not come."""
        self.ended = False
        """Whether its stream ends with it."""
        self._stream = 0
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._decoder = Decoder(2 * list_bytes)
        self._same_block = b""
        self._same_fields = _NO_FIELDS
        """Of the last block, where the next would mean the same if it were the same."""

    def begin(self, stream: int, piece: bytes, *, ended: bool) -> None:
        """The first piece of a block that has more."""
        self.open, self.ended, self._stream = True, ended, stream
        self._pieces, self._bytes = [piece], len(piece)

    def more(self, stream: int, piece: bytes) -> None:
        """The next one. Raises `Broken`."""
        if not self.open or stream != self._stream:
            raise Broken(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._pieces.append(piece)
        self._bytes += len(piece)
        # Fields of this block cannot be left out: the table that all later ones need would be another.
        if self._bytes > self.list_bytes:
            raise Broken(Code.ENHANCE_YOUR_CALM, "a header block without an end")

    def end(self) -> bytes:
        """The whole block; that was its last piece."""
        block = b"".join(self._pieces)
        self.open, self._pieces = False, []
        return block

    def fields(self, block: bytes) -> list[Field]:
        """What a whole block says: the same list for the same block, where it still means the same. Raises `Broken`."""
        return self._same_fields if block == self._same_block else self._unpacked(block)

    def _unpacked(self, block: bytes) -> list[Field]:
        table = self._decoder.header_table
        entries = table.dynamic_entries
        before = (len(entries), entries[0] if entries else None, table.maxsize)
        try:
            found = cast("list[Field]", self._decoder.decode(block, raw=True))
        except OversizedHeaderListError as excess:
            raise Broken(Code.ENHANCE_YOUR_CALM, "a field section far too large") from excess
        except HPACKError as error:
            raise Broken(Code.COMPRESSION_ERROR, "fields that cannot be unpacked") from error
        newest = entries[0] if entries else None
        same = before[0] == len(entries) and before[1] is newest and before[2] == table.maxsize
        self._same_block, self._same_fields = (block, found) if same else (b"", _NO_FIELDS)
        return found

    def close(self) -> None:
        """Keep nothing large: there will be no more."""
        self.open, self._pieces, self._decoder = False, [], _NO_DECODER
        self._same_block, self._same_fields = b"", _NO_FIELDS
