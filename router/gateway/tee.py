"""The copy of sampled exchanges for the mirror process, inside a hard byte budget.

Nothing here waits and nothing here can hold up a live request: frames go to a socket's buffer while there is room, and
a shadow for which there is none is dropped and counted by reason. Every shadow that was sampled ends either as an event
of the mirror (it answers DONE) or in one of the counts, which become `shadows` events once per second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING, cast

from router.contract.codec import encode_shadow
from router.contract.events import SHADOWS, ShadowComparison
from router.contract.tee import END_FIELDS, HEADER, MAX_PAYLOAD_BYTES, RESPONSE_FIELDS, BrokenPeer, Decoder, Kind

if TYPE_CHECKING:
    from pathlib import Path

    from router.runtime.log.base import Log

_FLUSH_BYTES = 16384
"""Frames of one exchange are gathered up to this size, so that a small exchange costs one write."""
_MOST_OUTSTANDING = 100_000
_RETRY_SECONDS = (0.05, 2.0)
_OPEN_LENGTH = struct.Struct("<H")
_U32 = 0xFFFFFFFF


class _Connection(asyncio.Protocol):
    """The socket to the mirror; hears DONE and the end."""

    def __init__(self, tee: Tee) -> None:
        self._tee = tee
        self._decoder = Decoder()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = cast("asyncio.Transport", transport)
        # The budget bounds the buffer; the water marks only mean something to pause_writing, which nobody needs.
        self._tee.connected(self.transport)

    def data_received(self, data: bytes) -> None:
        """Bytes from the other end."""
        try:
            for kind, exchange, _ in self._decoder.feed(data):
                if kind is Kind.DONE:
                    self._tee.done(exchange)
        except BrokenPeer:
            assert self.transport is not None
            self.transport.abort()

    def pause_writing(self) -> None:
        """Nothing: what does not fit the budget is dropped, nobody waits."""

    def resume_writing(self) -> None:
        """Nothing."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        """The connection is gone."""
        self._tee.lost()


class Shadow:
    """One sampled exchange on its way to the mirror."""

    __slots__ = ("_frames", "_held", "_number", "_sent", "_tee", "over", "what")

    def __init__(self, tee: Tee, number: int, what: tuple[str, str, tuple[str, ...]]) -> None:
        self._tee = tee
        self._number = number
        self._frames: list[bytes] = []
        self._held = 0
        self._sent = False
        self.what = what
        self.over = False

    def add(self, kind: Kind, payload: bytes) -> None:
        """One frame, or as many as the payload needs."""
        if self.over:
            return
        size = len(payload)
        if size > MAX_PAYLOAD_BYTES:
            for at in range(0, size, MAX_PAYLOAD_BYTES):
                self.add(kind, payload[at : at + MAX_PAYLOAD_BYTES])
            return
        self._frames += (HEADER.pack(size, kind, self._number), payload)
        size += HEADER.size
        self._held += size
        if not self._tee.hold(size):
            self.drop("budget")
        elif self._held > _FLUSH_BYTES:
            self._flush()

    def response(self, status: int, first_byte_us: int, head: bytes) -> None:
        """The live answer's head, as the replica sent it."""
        self.add(Kind.RESPONSE, RESPONSE_FIELDS.pack(status, first_byte_us & _U32) + head)

    def end(self, status: int, total_us: int, body_bytes: int) -> None:
        """The live side is complete."""
        self.add(Kind.END, END_FIELDS.pack(status, total_us & _U32, body_bytes))
        if not self.over:
            self._flush()
            self.over = True

    def drop(self, reason: str) -> None:
        """Give this shadow up. If the mirror knows of it, it is told and writes the event; else it is counted here."""
        if self.over:
            return
        self.over = True
        self._tee.hold(-self._held)
        self._held = 0
        self._frames.clear()
        if self._sent:
            self._tee.write([HEADER.pack(len(reason), Kind.DROP, self._number), reason.encode()])
        else:
            self._tee.forget(self, reason)

    def lost(self) -> None:
        """The connection broke: whatever was held is of no use."""
        if not self.over:
            self.over = True
            self._tee.hold(-self._held)
            self._frames.clear()

    def _flush(self) -> None:
        self._sent = True
        self._tee.hold(-self._held)
        self._held = 0
        self._tee.write(self._frames)
        self._frames = []


class Tee:
    """The connection to the mirror, kept up in the background, and the books of every shadow opened."""

    def __init__(self, log: Log, path: Path, budget_bytes: int) -> None:
        self._log = log
        self._path = path
        self._budget = budget_bytes
        self._transport: asyncio.Transport | None = None
        self._held = 0
        self._number = 0
        self._outstanding: dict[int, Shadow] = {}
        self._dropped: Counter[tuple[str, str, str, str]] = Counter()
        self._gone = asyncio.Event()
        self._gone.set()

    def open(  # noqa: PLR0917 -- once per shadow, from one place
        self, endpoint: str, live: str, candidates: tuple[str, ...], request_id: bytes, start_ns: int, head: bytes
    ) -> Shadow | None:
        """Begin a shadow, unless there is no mirror or no room."""
        if self._transport is None:
            self._count(endpoint, live, candidates, "mirror_down")
            return None
        if self._full() or len(self._outstanding) >= _MOST_OUTSTANDING:
            self._count(endpoint, live, candidates, "budget")
            return None
        number = self._number
        self._number += 1
        shadow = Shadow(self, number, (endpoint, live, candidates))
        self._outstanding[number] = shadow
        names = ",".join([f'"{name}"' for name in candidates])
        about = (
            f'{{"endpoint":{json.dumps(endpoint)},"live":{json.dumps(live)},"candidates":[{names}],'
            f'"request_id":"{request_id.decode()}","start_ns":{start_ns}}}'
        ).encode()
        shadow.add(Kind.OPEN, b"".join((_OPEN_LENGTH.pack(len(about)), about, head)))
        return shadow

    def _full(self) -> bool:
        transport = self._transport
        return transport is None or self._held + transport.get_write_buffer_size() > self._budget

    def hold(self, size: int) -> bool:
        """Account for bytes gathered (or no longer); whether they are within the budget."""
        self._held += size
        return size <= 0 or not self._full()

    def write(self, frames: list[bytes]) -> None:
        """Hand frames to the socket's buffer."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(frames))

    def done(self, number: int) -> None:
        """The mirror has written the shadow's event."""
        self._outstanding.pop(number, None)

    def forget(self, shadow: Shadow, reason: str) -> None:
        """A shadow of which the mirror never heard."""
        self._outstanding.pop(shadow._number, None)
        self._count(*shadow.what, reason)

    def _count(self, endpoint: str, live: str, candidates: tuple[str, ...], reason: str) -> None:
        for candidate in candidates:
            self._dropped[endpoint, live, candidate, reason] += 1

    def connected(self, transport: asyncio.Transport) -> None:
        """A mirror is there."""
        self._transport = transport
        self._gone.clear()

    def lost(self) -> None:
        """The mirror is gone, and with it every shadow that it had not answered."""
        self._transport = None
        for shadow in self._outstanding.values():
            shadow.lost()
            self._count(*shadow.what, "mirror_lost")
        self._outstanding.clear()
        self._gone.set()

    def report(self) -> None:
        """Write what was dropped since the last report, one event per endpoint, pair and reason."""
        dropped, self._dropped = self._dropped, Counter()
        now = time.time_ns()
        for (endpoint, live, candidate, reason), count in dropped.items():
            event = ShadowComparison(endpoint, "", now, live, candidate, 0, dropped=reason, count=count)
            self._log.append(SHADOWS, endpoint, encode_shadow(event))

    async def keep_connected(self) -> None:
        """Connect, and again whenever the mirror has gone. Runs until cancelled."""
        loop = asyncio.get_running_loop()
        pause, longest = _RETRY_SECONDS
        while True:
            with contextlib.suppress(OSError):
                await loop.create_unix_connection(lambda: _Connection(self), str(self._path))
                pause = _RETRY_SECONDS[0]
                await self._gone.wait()
            await asyncio.sleep(pause)
            pause = min(longest, pause * 2)

    async def close(self, seconds: float) -> None:
        """Give the mirror up to `seconds` to take what was written and answer; then count what it did not."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self._transport is not None and self._outstanding and loop.time() < until:  # noqa: ASYNC110 -- at the end of a life
            await asyncio.sleep(0.01)
        if self._transport is not None:
            self._transport.abort()
            await self._gone.wait()
        self.report()
