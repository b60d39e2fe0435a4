"""One packed record per finished exchange, in a buffer per endpoint, flushed to the log a few times per second."""

from __future__ import annotations

import time
from collections import deque
from struct import error as StructError  # noqa: N812 -- as a class is called
from typing import TYPE_CHECKING, Final

from router.contract.codec import DETAIL, REQUEST_RECORD, decode_profile, encode_profile, encode_requests
from router.contract.events import REQUESTS, CallProfile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.gateway.state import Counters
    from router.runtime.log.base import Log

_SIZE: Final = REQUEST_RECORD.size
_PACK: Final = REQUEST_RECORD.pack_into
MOST: Final = 4096
"""Records per message: a full buffer is flushed before its time."""
PROFILE_CHARACTERS: Final = 1 << 18
"""Of all profiles of a message; beyond it further ones are cut to what has few values. Callers that number each of their
requests at a thousand a second and worker stay below.
"""
AT_ONCE: Final = 256
"""Messages of a turn: up to so many endpoints have their records on the log with the next turn."""
PATIENCE: Final = 8
"""Turns after which they are there in any case, of however many endpoints: two and a half seconds."""
_PART: Final = 100
_FIRST: Final = 64
_U32: Final = 0xFFFFFFFF
NOT_COME: Final = -1
"""In place of the moment of a request's last byte: it never came."""


class Ledger:
    """The records of one endpoint since the last flush."""

    __slots__ = ("_at", "_buffer", "_counters", "_details", "_due", "_end", "_log", "_names", "_profiled", "endpoint")

    def __init__(self, log: Log, endpoint: str, counters: Counters, due: list[Ledger] | None = None) -> None:
        """`due`: where it puts itself with its first record since a flush."""
        self._log = log
        self._due = due
        self._counters = counters
        self.endpoint = endpoint
        self._buffer = bytearray()
        self._end = 0
        """Of the room for records; none before the first one since a flush, which has to ask for it."""
        self._at = 0
        self._names: dict[str, int] = {"": 0}
        """Deployments, replicas, profiles and refusals → their places in the message's table."""
        self._profiled = 0
        """Characters of the profiles among them."""
        self._details = bytearray()

    def add(  # noqa: PLR0917 -- once per request: keywords would cost a quarter of the call
        self, sequence: int, start: int, status: int, model_status: int, outcome: int, flags: int, received: int,
        sent: int, dispatched: int, first: int, end: int, deployment: str, replica: str, profile: str = "",
        whole: int = 0, refusal: str = "",
    ) -> None:  # fmt: skip
        """Note one exchange. `start`, `dispatched`, `first` and `end` are monotonic nanoseconds; 0 = never came.

        `profile`: as `codec.encode_profile` makes it. `whole`: when the request's last byte came; 0 = with its head,
        `NOT_COME` = never. `refusal`: the code of an answer in the gateway's own name.
        """
        at = self._at
        if at == self._end:
            at = self._grow()
        if whole or refusal:
            self._detail(at // _SIZE, whole and (whole - start if whole > 0 else NOT_COME), refusal)
        names = self._names
        # Written for the common case, the uncommon ones raise: a name that is new, a time of more than an hour.
        try:
            _PACK(
                self._buffer, at, sequence, start + _UNIX.offset, status, model_status, outcome, flags, names[profile],
                received, sent, (dispatched - start) // 1000 if dispatched else 0,
                (first - start) // 1000 if first else 0, (end - start) // 1000, names[deployment], names[replica],
            )  # fmt: skip
        except (KeyError, StructError):
            for name in (deployment, replica):
                names.setdefault(name, len(names))
            waited, answered, took = (
                min(max(moment - start, 0) // 1000, _U32) if moment else 0 for moment in (dispatched, first, end)
            )
            _PACK(
                self._buffer, at, sequence, start + _UNIX.offset, status, model_status, outcome, flags,
                self._place(profile), received, sent, waited, answered, took, names[deployment], names[replica],
            )  # fmt: skip
        self._at = at + _SIZE

    def _place(self, profile: str) -> int:
        """Where the message's table has `profile`; as much of it as there is room for."""
        names = self._names
        if profile not in names:
            if self._profiled + len(profile) <= PROFILE_CHARACTERS:
                self._profiled += len(profile)
            else:
                self._counters.shortened += 1
                whole = decode_profile(profile)
                profile = encode_profile(CallProfile(whole.method, "", whole.protocol, whole.auth_type))
        return names.setdefault(profile, len(names))

    def _detail(self, record: int, late_ns: int, refusal: str) -> None:
        """What only some records have, behind all of them."""
        names = self._names
        late = min(late_ns // 1000, _U32 - 1) if late_ns >= 0 else _U32
        self._details += DETAIL.pack(record, late, names.setdefault(refusal, len(names)), 0)

    def _grow(self) -> int:
        """Make room; returns where the next record goes."""
        if self._end >= MOST * _SIZE:
            self.flush()
        if not self._end:
            if self._due is not None:
                self._due.append(self)
            self._buffer = self._buffer or bytearray(_FIRST * _SIZE)
            self._end = len(self._buffer)
        else:
            self._buffer += bytes(self._end)
            self._end = len(self._buffer)
        return self._at

    def flush(self) -> None:
        """Hand what there is to the log."""
        if self._at:
            with memoryview(self._buffer) as whole:
                message = encode_requests(list(self._names), whole[: self._at], self._details)
            self._log.append(REQUESTS, self.endpoint, message)
            self._at = self._end = self._profiled = 0
            self._names = {"": 0}
            self._details.clear()


class Flushing:
    """Flushes the ledgers that have records, in the order of their first one since a flush.

    A message costs about as much for one record as for ten. So where more endpoints have records than a turn flushes, those
    that are left gather more, for a bounded time; a full ledger flushes itself.
    """

    __slots__ = ("_due", "_turns")

    def __init__(self, due: list[Ledger]) -> None:
        """`due`: where ledgers put themselves."""
        self._due = due
        self._turns: deque[list[Ledger]] = deque()
        """What came with each of the last turns and waits, the oldest first."""

    def turn(self, *, everything: bool = False) -> Iterator[None]:
        """Flush whose turn it is; `everything`: all. In parts that take about a millisecond; what one leaves off, the next does."""
        turns = self._turns
        turns.append(self._due[:])
        self._due.clear()
        left = AT_ONCE
        while turns:
            ledgers = turns[0]
            if everything or len(turns) > PATIENCE:
                left = max(left, len(ledgers))
            while left and ledgers:
                some = ledgers[: min(left, _PART)]
                del ledgers[: len(some)]
                left -= len(some)
                for ledger in some:
                    ledger.flush()
                yield
            if ledgers:
                return
            turns.popleft()


class _Unix:
    """What to add to a monotonic reading to get Unix time; renewed with every flush, because clocks are set."""

    __slots__ = ("offset",)

    def __init__(self) -> None:
        self.offset = 0
        self.renew()

    def renew(self) -> None:
        self.offset = time.time_ns() - time.monotonic_ns()


_UNIX: Final = _Unix()


def renew_clock() -> None:
    """Read the difference between the two clocks again."""
    _UNIX.renew()


def unix_ns(monotonic: int) -> int:
    """A monotonic reading as Unix nanoseconds."""
    return monotonic + _UNIX.offset
