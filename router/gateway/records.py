"""One packed record per finished exchange, in a buffer per endpoint, flushed to the log a few times per second."""

from __future__ import annotations

import time
from struct import error as StructError  # noqa: N812 -- as a class is called
from typing import TYPE_CHECKING

from router.contract.codec import REQUEST_RECORD, encode_requests
from router.contract.events import REQUESTS

if TYPE_CHECKING:
    from router.runtime.log.base import Log

_SIZE = REQUEST_RECORD.size
_PACK = REQUEST_RECORD.pack_into
MOST = 4096
"""Records per message: a full buffer is flushed before its time."""
_FIRST = 64
_U32 = 0xFFFFFFFF


class Ledger:
    """The records of one endpoint since the last flush."""

    __slots__ = ("_at", "_buffer", "_end", "_log", "_names", "endpoint")

    def __init__(self, log: Log, endpoint: str) -> None:
        self._log = log
        self.endpoint = endpoint
        self._buffer = bytearray(_FIRST * _SIZE)
        self._end = len(self._buffer)
        self._at = 0
        self._names: dict[str, int] = {"": 0}

    def add(  # noqa: PLR0917 -- once per request: keywords would cost a quarter of the call
        self, sequence: int, start: int, status: int, model_status: int, outcome: int, flags: int, received: int,
        sent: int, dispatched: int, first: int, end: int, deployment: str, replica: str,
    ) -> None:  # fmt: skip
        """Note one exchange. `start`, `dispatched`, `first` and `end` are monotonic nanoseconds; 0 = never came."""
        at = self._at
        if at == self._end:
            at = self._grow()
        names = self._names
        # Written for the common case, the uncommon ones raise: a name that is new, a time of more than an hour.
        try:
            _PACK(
                self._buffer, at, sequence, start + _UNIX.offset, status, model_status, outcome, flags, 0, received, sent,
                (dispatched - start) // 1000 if dispatched else 0, (first - start) // 1000 if first else 0,
                (end - start) // 1000, names[deployment], names[replica],
            )  # fmt: skip
        except (KeyError, StructError):
            for name in (deployment, replica):
                names.setdefault(name, len(names))
            waited, answered, took = (
                min(max(moment - start, 0) // 1000, _U32) if moment else 0 for moment in (dispatched, first, end)
            )
            _PACK(
                self._buffer, at, sequence, start + _UNIX.offset, status, model_status, outcome, flags, 0, received, sent,
                waited, answered, took, names[deployment], names[replica],
            )  # fmt: skip
        self._at = at + _SIZE

    def _grow(self) -> int:
        """Make room; returns where the next record goes."""
        if self._end >= MOST * _SIZE:
            self.flush()
        else:
            self._buffer += bytes(self._end)
            self._end = len(self._buffer)
        return self._at

    def flush(self) -> None:
        """Hand what there is to the log."""
        if self._at:
            with memoryview(self._buffer) as whole:
                message = encode_requests(list(self._names), whole[: self._at])
            self._log.append(REQUESTS, self.endpoint, message)
            self._at = 0
            self._names = {"": 0}


class _Unix:
    """What to add to a monotonic reading to get Unix time; renewed with every flush, because clocks are set."""

    __slots__ = ("offset",)

    def __init__(self) -> None:
        self.offset = 0
        self.renew()

    def renew(self) -> None:
        self.offset = time.time_ns() - time.monotonic_ns()


_UNIX = _Unix()


def renew_clock() -> None:
    """Read the difference between the two clocks again."""
    _UNIX.renew()


def unix_ns(monotonic: int) -> int:
    """A monotonic reading as Unix nanoseconds."""
    return monotonic + _UNIX.offset
