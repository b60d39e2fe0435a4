"""What is held of an exchange: request bodies for sending, response bodies for comparing, both within budgets."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mirror.budget import Budget, Grant
from mirror.comparison import KEEP_BYTES, Body

_CHUNK = 256 << 10
AT_ONCE_BYTES = 32 << 10
"""A request body up to this size is sent with its head."""


class Refused(Exception):
    """There is no room for more; `reason` is the word under which the shadow is dropped."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _grow(grant: Grant, size: int) -> None:
    refusal = grant.grow(size)
    if refusal:
        raise Refused(refusal)


class ResponseCapture:
    """A response body as it comes: kept while it is small, only hashed once it is not."""

    __slots__ = ("_first", "_grant", "_hash", "_keep_bytes", "_kept", "length")

    def __init__(self, grant: Grant, keep_bytes: int = KEEP_BYTES) -> None:
        self._grant = grant
        self._keep_bytes = keep_bytes
        self._first = b""
        """What came first: often it is all."""
        self._kept = bytearray()
        """What came then, all of it together: the sender may cut as small as it likes."""
        self._hash: hashlib._Hash | None = None
        self.length = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises `Refused` when the memory budget is spent."""
        self.length += len(data)
        if self._hash is not None:
            self._hash.update(data)
        elif self.length > self._keep_bytes:
            self._grant.shrink(self.length - len(data))
            self._hash = hashlib.sha256(self._first + self._kept)
            self._hash.update(data)
            self._first, self._kept = b"", bytearray()
        else:
            _grow(self._grant, len(data))
            if self._first:
                self._kept += data
            else:
                self._first = data

    def body(self, content_type: str, content_encoding: str) -> Body:
        """What was seen, as a value."""
        if self._hash is None:
            kept = self._first + self._kept if self._kept else self._first
            return Body(self.length, kept, "", content_type, content_encoding)
        return Body(self.length, None, self._hash.hexdigest(), content_type, content_encoding)


class Spill:
    """Where and how much may go to disk: request bodies above `memory_bytes` do, those above `exchange_bytes` are dropped
    as `too_large`.
    """

    __slots__ = ("budget", "exchange_bytes", "folder", "memory_bytes")

    def __init__(self, folder: Path, budget: Budget, exchange_bytes: int, memory_bytes: int = 1 << 20) -> None:
        self.folder = folder
        self.budget = budget
        self.exchange_bytes = exchange_bytes
        self.memory_bytes = memory_bytes


class RequestBody:
    """A request body: in memory while it is small, in an unlinked temporary file once it is not.

    Several candidates read it at the same time, each from its own offset.
    """

    __slots__ = ("_disk", "_file", "_pieces", "grant", "length", "spill")

    def __init__(self, grant: Grant, spill: Spill) -> None:
        self.grant = grant
        self.spill = spill
        self.length = 0
        self._pieces: list[bytes] = []
        self._file: int | None = None
        self._disk: Grant | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises `Refused` when a bound is met or the disk fails."""
        length = self.length + len(data)
        if length > self.spill.exchange_bytes:
            raise Refused("too_large")
        if self._file is None and length > self.spill.memory_bytes:
            self._open()
        if self._file is None:
            _grow(self.grant, len(data))
            if data:
                self._pieces.append(data)
        else:
            self._write(data)
        self.length = length

    def _open(self) -> None:
        disk = self.spill.budget.admit(0)
        if isinstance(disk, str):
            raise Refused(disk)
        self._disk = disk
        try:
            handle, path = tempfile.mkstemp(prefix="shadow-", dir=self.spill.folder)
        except OSError as error:
            raise Refused("spill_failed") from error
        self._file = handle
        os.unlink(path)
        for piece in self._pieces:
            self._write(piece)
        self.grant.shrink(self.length)
        self._pieces.clear()

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        assert self._disk is not None
        _grow(self._disk, len(data))
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._file, view)  # not within the slice: compiled, it would be written twice
                view = view[written:]
        except OSError as error:
            raise Refused("spill_failed") from error

    def whole(self) -> bytes | None:
        """The body, where it is short and in memory; else `pieces` gives it."""
        if self.length > AT_ONCE_BYTES or self._file is not None or (self.length and not self._pieces):
            return None
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def pieces(self) -> Iterator[bytes]:
        """The whole body, from the start, in pieces of at most 1 MiB; raises `OSError` when it is closed meanwhile."""
        at = index = 0
        while at < self.length:
            if self._file is not None:
                piece = os.pread(self._file, _CHUNK, at)
            elif index < len(self._pieces):
                piece, index = self._pieces[index], index + 1
            else:
                piece = b""
            if not piece:  # better a broken request than one that looks whole
                raise OSError("the request body is gone")
            at += len(piece)
            yield piece

    def close(self) -> None:
        """Let go of memory and file; the second time does nothing."""
        if self._pieces:
            self.grant.shrink(self.length)
            self._pieces.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._disk is not None:
            self._disk.release()
            self._disk = None
