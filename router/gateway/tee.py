"""The copy of sampled exchanges for the mirror process, inside a hard byte budget.

Nothing here waits and nothing here can hold up a live request: frames go to a socket's buffer while there is room, and
a shadow for which there is none is dropped and counted by reason. Every shadow that was sampled ends either as an event
of the mirror (it answers DONE) or in one of the counts, which become `shadows` events once per second. What ends within
some milliseconds leaves together: a write costs the live path as much as all the rest of a shadow.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Final, cast

from router.contract.codec import encode_shadow
from router.contract.events import SHADOWS, ShadowComparison
from router.contract.tee import END_FIELDS, HEADER, MAX_PAYLOAD_BYTES, RESPONSE_FIELDS, Kind

if TYPE_CHECKING:
    from pathlib import Path

    from router.runtime.log.base import Log

_FLUSH_BYTES: Final = 16384
"""Frames of one exchange are gathered up to this size."""
_BATCH_BYTES: Final = 65536
"""Frames of all exchanges; then they leave at once."""
_GATHER_SECONDS: Final = 0.005
_MOST_OUTSTANDING: Final = 100_000
_MAX_PAYLOAD_BYTES: Final = MAX_PAYLOAD_BYTES
_OPEN_LENGTH: Final = struct.Struct("<H")
_HEADER_BYTES: Final = HEADER.size
_PACK: Final = HEADER.pack
_UNPACK_FROM: Final = HEADER.unpack_from
_OPEN: Final = int(Kind.OPEN)
_RESPONSE: Final = int(Kind.RESPONSE)
_END: Final = int(Kind.END)
_DROP: Final = int(Kind.DROP)
_DONE: Final = int(Kind.DONE)
_U32: Final = 0xFFFFFFFF


class Link:
    """The socket to the mirror; hears DONE and the end. A protocol by its methods alone, so that it can be compiled."""

    __slots__ = ("_rest", "_tee", "transport")

    def __init__(self, tee: Tee) -> None:
        self._tee = tee
        self._rest = b""
        self.transport: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = cast("asyncio.Transport", transport)
        # The budget bounds the buffer; the water marks only mean something to pause_writing, which nobody needs.
        self._tee.connected(self.transport)

    def data_received(self, data: bytes) -> None:
        """DONE frames, in any slices; anything else is a broken peer."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= _HEADER_BYTES:
            length, kind, number = _UNPACK_FROM(data, at)
            if kind != _DONE or length:
                self.transport.abort()
                return
            self._tee.done(number)
            at += _HEADER_BYTES
        self._rest = data[at:]

    def eof_received(self) -> bool:
        """It answers nothing more: nothing is to be sent to it either."""
        return False

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

    def add(self, kind: int, payload: bytes) -> None:
        """One frame, or as many as the payload needs."""
        if self.over:
            return
        size = len(payload)
        if size > _MAX_PAYLOAD_BYTES:
            for at in range(0, size, _MAX_PAYLOAD_BYTES):
                self.add(kind, payload[at : at + _MAX_PAYLOAD_BYTES])
            return
        self._frames.append(_PACK(size, kind, self._number))
        self._frames.append(payload)
        size += _HEADER_BYTES
        self._held += size
        if not self._tee.hold(size):
            self.drop("budget")
        elif self._held > _FLUSH_BYTES:
            self._flush()

    def response(self, status: int, first_byte_us: int, head: bytes) -> None:
        """The live answer's head, as the replica sent it."""
        self.add(_RESPONSE, RESPONSE_FIELDS.pack(status, first_byte_us & _U32) + head)

    def end(self, status: int, total_us: int, body_bytes: int) -> None:
        """The live side is complete."""
        self.add(_END, END_FIELDS.pack(status, total_us & _U32, body_bytes))
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
            self._tee.write([_PACK(len(reason), _DROP, self._number), reason.encode()], _HEADER_BYTES + len(reason))
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
        frames, self._frames = self._frames, []
        size, self._held = self._held, 0
        self._tee.write(frames, size)


class Tee:
    """The connection to the mirror, which `keep_connected` keeps up, and the books of every shadow opened."""

    def __init__(self, log: Log, path: Path, budget_bytes: int) -> None:
        self._log = log
        self.path = path
        self._budget = budget_bytes
        self._transport: asyncio.Transport | None = None
        self._held = 0
        self._number = 0
        self._outstanding: dict[int, Shadow] = {}
        self._dropped: Counter[tuple[str, str, str, str]] = Counter()
        self._outbox: list[bytes] = []
        """Frames that leave soon; their bytes count as held."""
        self._outbox_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self.gone = asyncio.Event()
        """Whether there is no mirror."""
        self.gone.set()

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
            f'{{"endpoint":{quoted(endpoint)},"live":{quoted(live)},"candidates":[{names}],'
            f'"request_id":"{request_id.decode()}","start_ns":{start_ns}}}'
        ).encode()
        shadow.add(_OPEN, b"".join((_OPEN_LENGTH.pack(len(about)), about, head)))
        return shadow

    def _full(self) -> bool:
        transport = self._transport
        return transport is None or self._held + transport.get_write_buffer_size() > self._budget

    def hold(self, size: int) -> bool:
        """Account for bytes gathered (or no longer); whether they are within the budget."""
        self._held += size
        return size <= 0 or not self._full()

    def write(self, frames: list[bytes], size: int) -> None:
        """Send frames of `size` bytes soon, with what else comes until then."""
        if self._transport is None:
            return
        self._outbox += frames
        self._outbox_bytes += size
        self._held += size
        if self._outbox_bytes >= _BATCH_BYTES:
            self.send()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHER_SECONDS, self.send)

    def send(self) -> None:
        """Hand what is to leave to the socket's buffer."""
        frames = self._emptied()
        transport = self._transport
        if frames and transport is not None and not transport.is_closing():
            transport.write(b"".join(frames))

    def _emptied(self) -> list[bytes]:
        """The frames that were to leave."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        frames, self._outbox = self._outbox, []
        size, self._outbox_bytes = self._outbox_bytes, 0
        self._held -= size
        return frames

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
        self.gone.clear()

    def lost(self) -> None:
        """The mirror is gone, and with it every shadow that it had not answered."""
        self._transport = None
        self._emptied()
        for shadow in self._outstanding.values():
            shadow.lost()
            self._count(*shadow.what, "mirror_lost")
        self._outstanding.clear()
        self.gone.set()

    def is_settled(self) -> bool:
        """Whether nothing is awaited from the mirror."""
        return self._transport is None or not self._outstanding

    def abort(self) -> None:
        """Break the connection, if there is one."""
        if self._transport is not None:
            self._transport.abort()

    def report(self) -> None:
        """Write what was dropped since the last report, one event per endpoint, pair and reason."""
        dropped, self._dropped = self._dropped, Counter()
        now = time.time_ns()
        for (endpoint, live, candidate, reason), count in dropped.items():
            event = ShadowComparison(endpoint, "", now, live, candidate, 0, dropped=reason, count=count)
            self._log.append(SHADOWS, endpoint, encode_shadow(event))
