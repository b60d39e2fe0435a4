"""One stream of a connection: what both its directions may still carry, and what waits for room.

Body bytes leave within two windows, the stream's and the connection's; what finds no room waits here, and the owner hears of
it (`stuck`, `unstuck`), so that it stops whoever produces more. In the other direction the stream's window opens only as far
as the owner has use for what came (`hold_back`, `go_on`): a slow reader of one stream stops its own sender and nobody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.runtime.http2 import frames
from router.runtime.http2.frames import END_STREAM, MAX_FRAME_BYTES, MAX_WINDOW, Code, Field

if TYPE_CHECKING:
    from router.runtime.http2.connection import Connection

STREAM_WINDOW = 65536
"""What the other end may send on one stream before it is told that there is room again."""
_CREDIT_BYTES = STREAM_WINDOW // 2
"""Room is told of in portions of this size: a frame for each piece would cost as much as the piece."""
_DRIBBLE_BYTES = 1024
"""Frames below this are not cut for want of room, unless the other end never has more."""


class Channel:
    """One stream. `id` 0: nothing has been sent yet that would give it a number."""

    __slots__ = (
        "_end",
        "_flow",
        "_owed",
        "_pending",
        "_room",
        "gone",
        "heard_end",
        "held_back",
        "id",
        "sent_end",
        "session",
        "window",
    )

    def __init__(self, session: Connection, number: int) -> None:
        self.session = session
        self.id = number
        self._flow = session.flow
        self.window = session.flow.stream_window
        """Bytes that may be sent."""
        self.gone = False
        """The stream is over: nothing is sent or heard any more."""
        self.sent_end = False
        self.heard_end = False
        self._pending = bytearray()
        self._end: bytes | None = None
        """What ends the stream behind `_pending`: a block of trailers, or nothing but the flag."""
        self._room = STREAM_WINDOW
        self._owed = 0
        """Bytes that came and that the other end has not been given back as room."""
        self.held_back = False
        """There is no use for more of what comes."""

    # Out ------------------------------------------------------------------------------------------------------------

    def send_head(self, block: bytes, *, last: bool = False) -> None:
        """A block of fields before the body; `last`: there is no body."""
        session = self.session
        session.patience.frames_sent += 1
        session.write_frames(frames.header_block(self.id, block, END_STREAM if last else 0))
        if last:
            self._ended()

    def send(self, data: bytes, end: bytes | None = None) -> None:
        """Body bytes, as far as there is room; the rest follows. `end`: nothing comes behind but these trailers (or none)."""
        flow, size = self._flow, len(data)
        if self._pending or (size and (flow.congested or size > self.window or size > flow.window)):
            before = bool(self._pending)
            self._pending += data
            self._end = end
            flow.waiting[self.id] = self
            if not before:
                while self.pump():
                    pass
                if self._pending:
                    self.stuck()
            return
        self._write(data, end)
        if end is not None:
            self._ended()

    def pump(self) -> bool:
        """Send one frame of what waits, if there is room for any of it. True: something was sent, and more waits."""
        flow = self._flow
        size = min(len(self._pending), self.window, flow.window, MAX_FRAME_BYTES)
        if size <= 0 or flow.congested or self.gone:
            return False
        if size < len(self._pending) and size < min(_DRIBBLE_BYTES, flow.stream_window // 4):
            return False  # more room will come, and a frame cut so small stays small for ever
        data = bytes(self._pending[:size])
        del self._pending[:size]
        if self._pending:
            self._write(data, None)
            if size < _DRIBBLE_BYTES:
                self.session.patience.frames_sent -= 1  # who makes so little room earns nothing by it
            return True
        flow.waiting.pop(self.id, None)
        self._write(data, self._end)
        self.unstuck()
        if self._end is not None:
            self._ended()
        return False

    def _write(self, data: bytes, end: bytes | None) -> None:
        session, number = self.session, self.id
        size = len(data)
        self.window -= size
        self._flow.window -= size
        session.patience.frames_sent += 1
        closing = END_STREAM if end == b"" else 0
        if size <= MAX_FRAME_BYTES:
            written = [frames.frame(frames.DATA, closing, number, data)] if size or closing else []
        else:
            written = []
            for at in range(0, size, MAX_FRAME_BYTES):
                flags = closing if at + MAX_FRAME_BYTES >= size else 0
                written.append(frames.frame(frames.DATA, flags, number, data[at : at + MAX_FRAME_BYTES]))
        if end:
            written += frames.header_block(number, end, END_STREAM)
        session.write_frames(written)

    def _ended(self) -> None:
        self.sent_end = True
        self.ended()
        if self.heard_end:
            self.leave()

    @property
    def unsent(self) -> int:
        """Bytes that have found no room yet."""
        return len(self._pending)

    def widen(self, size: int) -> None:
        """The other end has room for `size` bytes more (or less: it may take back what it said)."""
        self.window += size
        if self.window > MAX_WINDOW:
            self.fail(Code.FLOW_CONTROL_ERROR)
            return
        while self._pending and self.pump():
            pass

    # In -------------------------------------------------------------------------------------------------------------

    def took(self, size: int, body: bytes, *, ended: bool) -> None:
        """A DATA frame has come, `size` bytes with its padding."""
        if self.heard_end:
            self.fail(Code.STREAM_CLOSED)
            return
        self._room -= size
        if self._room < 0:
            self.fail(Code.FLOW_CONTROL_ERROR)
            return
        self._owed += size
        self.heard_end = ended
        self.data(body, ended=ended)
        self._credit()
        if ended and self.sent_end:
            self.leave()

    def took_fields(self, fields: list[Field], *, ended: bool) -> None:
        """A block of fields has come."""
        if self.heard_end:
            self.fail(Code.STREAM_CLOSED)
            return
        self.heard_end = ended
        self.fields(fields, ended=ended)
        if ended and self.sent_end:
            self.leave()

    def hold_back(self) -> None:
        """There is no use for more at present."""
        self.held_back = True

    def go_on(self) -> None:
        """There is again."""
        self.held_back = False
        self._credit()

    def _credit(self) -> None:
        if self._owed >= _CREDIT_BYTES and not (self.held_back or self.heard_end or self.gone):
            self._room += self._owed
            self.session.write(frames.window_update(self.id, self._owed))
            self._owed = 0

    # The end --------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Both directions are over."""
        if not self.gone:
            self.gone = True
            self._pending.clear()
            self.session.drop(self)

    def reset(self, code: Code) -> None:
        """End it in the middle, of our own accord."""
        if not self.gone:
            if self.id:
                self.session.write(frames.reset(self.id, code))
            self.leave()

    def fail(self, code: Code) -> None:
        """End it because the other end broke the rules of a stream."""
        self.session.strike()
        self.reset(code)
        self.broken(code, processed=True)

    # What the owner makes of it -------------------------------------------------------------------------------------

    def fields(self, fields: list[Field], *, ended: bool) -> None:
        """Fields have come."""
        raise NotImplementedError

    def data(self, body: bytes, *, ended: bool) -> None:
        """Body bytes have come, perhaps none."""
        raise NotImplementedError

    def broken(self, code: Code | None, *, processed: bool) -> None:
        """It is over, in the middle: reset by either end, or (None) lost with its connection.

        `processed`: the other end may have done something for it.
        """
        raise NotImplementedError

    def stuck(self) -> None:
        """Something waits for room now."""

    def unstuck(self) -> None:
        """All of it has gone."""

    def ended(self) -> None:
        """Our last byte is on its way."""
