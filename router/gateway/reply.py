"""The answer on its way back to the caller: what its head says, where its body ends for this caller, how much has been sent.

A replica's head waits for the first of its body, and both leave as one write; until then something else can be answered. The
head of a refusal is the gateway's own. What became of the answer is kept for the request's record.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from router.contract.events import Outcome
from router.contract.tee import Kind
from router.gateway.body import JOINED_BYTES
from router.gateway.responses import STATUS_LINES, Refusal, connection_line, plain, refuse
from router.policy.chunked import LAST, frame

if TYPE_CHECKING:
    from router.gateway.calls import Answer, Call, Switching
    from router.gateway.ends import Near
    from router.gateway.lane import Lane
    from router.gateway.state import State
    from router.gateway.tee import Shadow

_OK: Final = int(Outcome.OK)
_MODEL_ERROR: Final = int(Outcome.MODEL_ERROR)
_REAL_STATUS = b"ms-azureml-model-error-statuscode: %d\r\nms-azureml-model-error-reason: %b\r\n"


class Reply:
    """To one request."""

    __slots__ = (
        "_block", "_call", "_chunked", "_down", "_fields", "_lane", "_request_id", "_state", "model_status", "outcome", "refusal",
        "says_close", "sent", "shadow", "status", "streamed",
    )  # fmt: skip

    def __init__(self, state: State, down: Near, call: Call, request_id: bytes) -> None:
        self._state = state
        self._down = down
        self._call = call
        self._request_id = request_id
        self._lane: Lane | None = None
        """Whose replica answers."""
        self._fields = b""
        """What the answer says besides the model's fields: what is left of a limit, what keeps the caller with its deployment."""
        self._block = b""
        """The head, until the first of the body goes with it."""
        self._chunked = False
        """The caller learns from chunks where it ends."""
        self.streamed = False
        """Its length was not known beforehand."""
        self.status = 0
        self.model_status = 0
        self.outcome = _OK
        self.refusal = ""
        """The code of an answer in the gateway's own name."""
        self.sent = 0
        """Bytes of its body."""
        self.shadow: Shadow | None = None
        self.says_close = False
        """Whether its head says that the caller's connection ends with it."""

    @property
    def ends_with_connection(self) -> bool:
        """Whether the caller takes the end of its connection for the end of the answer."""
        return self.streamed and not self._chunked

    # Beside what the model says -------------------------------------------------------------------------------------

    def tell(self, fields: bytes) -> None:
        """Put these fields into the answer, and no others of ours."""
        self._fields = fields

    def add_cookie(self, field: bytes) -> None:
        """Let the answer set a cookie, unless it sets one of that name."""
        name, equals, _ = field.partition(b"=")
        if field and name + equals not in self._fields:
            self._fields += field

    # What a replica answers -----------------------------------------------------------------------------------------

    def begin(self, answer: Answer, lane: Lane, timing: bytes, *, close: bool) -> None:
        """A replica's head is here. `timing`: a further field; `close`: the caller's connection ends with this answer."""
        self._lane = lane
        self.says_close = close
        status = answer.status
        self.model_status = self.status = status
        front = answer.front if status < 400 else self._failed_front(answer, lane)
        tail = answer.tail
        if not tail or close or self._call.http10:
            tail = self._framing(status, answer, close=close)
        if self._fields:
            tail = self._fields + tail
        if timing:
            tail = timing + tail
        if answer.dated:
            self._block = b"".join((front, self._request_id, lane.after_id, tail))
        else:
            self._block = b"".join((front, self._request_id, lane.after_id, self._state.date, tail))

    def _failed_front(self, answer: Answer, lane: Lane) -> bytes:
        """The head's begin where the model answered an error; Azure's says 424 and the real code in a field."""
        if not lane.map_errors:
            if answer.status >= 500:
                self.outcome = _MODEL_ERROR
            return answer.front
        self.outcome = _MODEL_ERROR
        self.status = 424
        return STATUS_LINES[424] + _REAL_STATUS % (answer.status, answer.reason) + answer.lines + b"x-request-id: "

    def _framing(self, status: int, answer: Answer, *, close: bool) -> bytes:
        """How the caller will know where the body ends, and the head's last lines."""
        http10, line = self._call.http10, b""
        if answer.length is not None:
            if status != 204:
                line = b"content-length: %d\r\n" % answer.length
        elif self._call.method != b"HEAD" and status not in (204, 304):
            self.streamed = True
            if not http10:
                self._chunked = True
                line = b"transfer-encoding: chunked\r\n"
        return line + connection_line(close=close or self.ends_with_connection, http10=http10) + b"\r\n"

    def interim(self, answer: Answer) -> None:
        """News before the answer proper (103 Early Hints): for callers that can have known of it (RFC 9110, 15.2)."""
        if answer.interim and not self._call.http10:
            self._down.transport.write(answer.interim)

    def switch(self, switching: Switching, lane: Lane) -> None:
        """The replica agrees to speak WebSocket; behind this head it is no answer any more."""
        self.status = self.model_status = 101
        date = b"" if switching.dated else self._state.date
        head = (switching.front, self._request_id, lane.after_id, self._fields, date, b"\r\n")
        self._down.transport.write(b"".join(head))

    def model_failed(self, status: int) -> None:
        """What ends the answer says that the model failed, as HTTP's `status` would have; 0: it did not."""
        if status:
            self.model_status, self.outcome = status, _MODEL_ERROR

    # Its bytes ------------------------------------------------------------------------------------------------------

    def flush_head(self) -> None:
        """No body has come with the head: send the head alone."""
        if self._block:
            self._down.transport.write(self._block)
            self._block = b""

    def take_back(self) -> bool:
        """Whether the caller has nothing of a head that has begun; then something else can be answered."""
        waits, self._block = bool(self._block), b""
        return waits

    def relay_whole(self, body: bytes) -> None:
        """The whole body came with the head: one write for both."""
        self.sent = len(body)
        block, self._block = self._block, b""
        if not self._call.keep_alive:
            self._down.ends()
        if self.sent > JOINED_BYTES:
            self._down.transport.write(block)
            self._down.transport.write(body)
        else:
            self._down.transport.write(block + body)
        if self.shadow is not None:
            self.shadow.add(Kind.RESPONSE_BODY, body)

    def relay(self, pieces: list[bytes]) -> None:
        """Body from the replica: on to the caller at once."""
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        payload = frame(pieces) if self._chunked else pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._write(payload, size)
        if self.shadow is not None:
            for piece in pieces:
                self.shadow.add(Kind.RESPONSE_BODY, piece)

    def relay_chunk(self, chunk: bytes, size: int) -> None:
        """The same for a whole chunk with `size` bytes of payload: it need not be framed anew for who gets chunks."""
        if self._chunked and self.shadow is None:
            self._write(chunk, size)
        else:
            self.relay([chunk[-size - 2 : -2]])

    def _write(self, payload: bytes, size: int) -> None:
        """Write what stands for `size` bytes of the body."""
        self.sent += size
        down = self._down
        if self._block:
            payload = self._block + payload
            self._block = b""
        elif size:
            # Silence between two pieces has the same bound as the wait for the first.
            assert self._lane is not None
            self._state.wheel.arm(down, time.monotonic_ns() + self._lane.timeout_ns)
        if payload:
            down.transport.write(payload)

    def end(self) -> None:
        """The replica has said all."""
        if self._block:
            self.flush_head()
        if self._chunked:
            self._down.transport.write(LAST)

    def break_off(self) -> None:
        """The end comes too early: let nobody take it for the answer's."""
        if self.ends_with_connection:
            self._down.end_by_reset()

    # The mirror's copy of it ----------------------------------------------------------------------------------------

    def mirror_trailers(self, fields: list[tuple[bytes, bytes]]) -> None:
        """What stands behind the answer's body, for its shadow."""
        if self.shadow is not None:
            self.shadow.add(Kind.TRAILERS, b"".join([b"%b: %b\r\n" % field for field in fields]))

    def end_shadow(self, took_ns: int, *, asked_in_full: bool) -> None:
        """The answer is complete. A request that was answered before it had come in full is nothing to compare."""
        if self.shadow is None:
            return
        if asked_in_full:
            self.shadow.end(self.model_status, took_ns // 1000, self.sent)
        else:
            self.shadow.drop("live_failed")

    def drop_shadow(self, reason: str) -> None:
        """Whatever comes now is nothing to compare."""
        if self.shadow is not None:
            self.shadow.drop(reason)

    # In the gateway's own name --------------------------------------------------------------------------------------

    def refuse(self, refusal: Refusal) -> None:
        """Note what became of the request; `say` tells the caller."""
        self.status = refusal.status
        self.outcome = int(refusal.outcome)
        self.refusal = refusal.code

    def say(
        self, refusal: Refusal, message: str, fields: bytes, lane: Lane | None, timing: bytes, *, close: bool
    ) -> None:
        """Send a refusal, of `lane` if it came so far. `fields` are for every caller, `timing` for those of HTTP alone."""
        if self._down.says(refusal, message, fields):
            return
        extra = fields + self._state.date + connection_line(close=close, http10=self._call.http10)
        if lane is not None:
            extra = lane.label + extra + timing
        head_only = self._call.method == b"HEAD"
        self._down.transport.write(refuse(refusal, message, self._request_id, head_only=head_only, extra=extra))

    def probe_answer(self, status: int, text: str, *, close: bool) -> None:
        """Send what one of the gateway's own routes says."""
        self.status = status
        extra = self._state.date + connection_line(close=close, http10=self._call.http10)
        head_only = self._call.method == b"HEAD"
        self._down.transport.write(plain(status, text, self._request_id, head_only=head_only, extra=extra))
