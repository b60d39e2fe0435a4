"""One mirrored exchange: the request that candidates get, the live answer they are measured by, and how each one ended.

Frames build it up; it checks their order and has no opinion on sockets. It ends once: either the live side is complete
and every candidate has an outcome, or it is ended early with a reason for all that is still open.
"""

from __future__ import annotations

import struct
from typing import Final

from mirror.budget import Grant
from mirror.call import Call
from mirror.capture import Refused, RequestBody, ResponseCapture, Spill
from mirror.comparison import Body, compare
from mirror.heads import BadHead, ShadowHead, content_of, grpc_status_of, shadow_head
from router.contract.events import ShadowComparison, Side
from router.contract.tee import END_FIELDS, RESPONSE_FIELDS, BrokenPeer, Kind, Open

OVERHEAD_BYTES = 4096
"""What an exchange weighs in the memory budget besides its bytes."""
_BODY: Final = Kind.BODY
_REQUEST_END: Final = Kind.REQUEST_END
_RESPONSE: Final = Kind.RESPONSE
_RESPONSE_BODY: Final = Kind.RESPONSE_BODY
_TRAILERS: Final = Kind.TRAILERS
_END: Final = Kind.END


class Answer:
    """One side's answer."""

    __slots__ = ("body", "grpc_status", "side")

    def __init__(self, side: Side, body: Body | None, grpc_status: str = "") -> None:
        """`body` is None when there is none to compare; `grpc_status` says how a call of gRPC ended."""
        self.side = side
        self.body = body
        self.grpc_status = grpc_status


Outcome = Answer | str
"""A candidate's answer, or the reason why it gave none."""


class Exchange:
    """See the module. `opening` names the candidates; `grant` pays for what is held in memory."""

    __slots__ = (
        "_capture", "_content", "_grpc_status", "_response", "calls", "candidates", "closed", "grant", "head", "live", "number",
        "opening", "outcomes", "request", "request_complete",
    )  # fmt: skip

    def __init__(self, number: int, opening: Open, grant: Grant, spill: Spill) -> None:
        self.number = number
        self.opening = opening
        self.candidates = tuple(dict.fromkeys(opening.candidates))
        self.grant = grant
        self.request = RequestBody(grant, spill)
        self.request_complete = False
        self.live: Answer | None = None
        self.outcomes: dict[str, Outcome] = {}
        self.calls: list[Call] = []
        """Its shadows, once the request is complete."""
        self.closed = False
        self.head: ShadowHead | None = None
        self._capture = ResponseCapture(grant)
        self._response: tuple[int, float] | None = None
        """(status, first byte in ms) once the live head was seen."""
        self._content = ("", "")
        self._grpc_status = ""

    def read_head(self, head: bytes) -> None:
        """Take the request head; raises `Refused` when no shadow can be made of it."""
        request_id = self.opening.request_id
        try:
            self.head = shadow_head(head)
        except BadHead as error:
            raise Refused(str(error)) from error
        if not (request_id.isascii() and request_id.isprintable()):
            raise Refused("malformed")

    def take(self, kind: Kind, payload: bytes) -> None:
        """One frame after OPEN. Raises `BrokenPeer` when it cannot stand here and `Refused` when there is no room."""
        if self.live is not None:
            raise BrokenPeer(f"{kind.name} is out of order")
        if kind is _BODY:
            self._take_body(payload)
        elif kind is _REQUEST_END:
            self._take_request_end(payload)
        elif kind is _RESPONSE_BODY:
            self._take_response_body(payload)
        elif kind is _TRAILERS:
            self._take_trailers(payload)
        else:
            self._take_packed(kind, payload)

    def _take_packed(self, kind: Kind, payload: bytes) -> None:
        try:
            if kind is _RESPONSE:
                self._take_response(payload)
            elif kind is _END:
                self._take_end(payload)
            else:
                raise BrokenPeer(f"{kind.name} is out of order")
        except struct.error as error:
            raise BrokenPeer(f"{kind.name}: {error}") from error

    @property
    def finished(self) -> bool:
        """Whether every candidate's event can be written."""
        return self.live is not None and len(self.outcomes) == len(self.candidates)

    def settle(self, candidate: str, outcome: Outcome) -> None:
        """How one candidate ended. When the last one has, the request body is let go."""
        self.outcomes[candidate] = outcome
        if len(self.outcomes) == len(self.candidates):
            self.request.close()

    def events(self, at_ns: int, reason: str = "") -> list[ShadowComparison]:
        """One event per candidate; `reason` is for those that cannot be compared because the exchange ends early."""
        return [self._event(candidate, at_ns, reason) for candidate in self.candidates]

    def close(self) -> None:
        """Stop what still runs for it and give everything back."""
        self.closed = True
        calls, self.calls = self.calls, []
        for call in calls:
            call.cancel()
        self.request.close()
        self.grant.release()

    # frames

    def _take_body(self, payload: bytes) -> None:
        if self.request_complete:
            raise BrokenPeer("BODY after REQUEST_END")
        self.request.feed(payload)

    def _take_request_end(self, payload: bytes) -> None:
        if self.request_complete or payload:
            raise BrokenPeer("a second or non-empty REQUEST_END")
        self.request_complete = True
        declared = None if self.head is None else self.head.length
        if declared is not None and declared != self.request.length:
            raise Refused("incomplete")

    def _take_response(self, payload: bytes) -> None:
        if self._response is not None:
            raise BrokenPeer("a second RESPONSE")
        status, first_byte_us = RESPONSE_FIELDS.unpack_from(payload)
        self._response = (status, first_byte_us / 1000)
        try:
            content_type, encoding, self._grpc_status = content_of(payload[RESPONSE_FIELDS.size :])
            self._content = (content_type, encoding)
        except BadHead:
            self._content = ("", "")  # the live side's own affair; its body is still compared

    def _take_response_body(self, payload: bytes) -> None:
        if self._response is None:
            raise BrokenPeer("RESPONSE_BODY before RESPONSE")
        self._capture.feed(payload)

    def _take_trailers(self, payload: bytes) -> None:
        if self._response is None:
            raise BrokenPeer("TRAILERS before RESPONSE")
        try:
            self._grpc_status = grpc_status_of(payload) or self._grpc_status
        except BadHead as error:
            raise BrokenPeer(f"TRAILERS: {error}") from error

    def _take_end(self, payload: bytes) -> None:
        status, total_us, size = END_FIELDS.unpack(payload)
        if self._response is None:
            side = Side(status, total_us / 1000, 0.0, size, "no answer from the live replica")
            self.live = Answer(side, None)
        else:
            model_status, first_byte_ms = self._response
            side = Side(model_status, total_us / 1000, first_byte_ms, self._capture.length)
            self.live = Answer(side, self._capture.body(self._content[0], self._content[1]), self._grpc_status)
        if not self.request_complete:
            raise Refused("incomplete")
        if not side.status:
            raise Refused("live_failed")

    # events

    def _event(self, candidate: str, at_ns: int, reason: str) -> ShadowComparison:
        outcome = self.outcomes.get(candidate, reason)
        shadow = outcome.side if isinstance(outcome, Answer) else None
        dropped = outcome if isinstance(outcome, str) else reason
        equal, difference = None, ""
        if self.live is not None and isinstance(outcome, Answer) and self.live.side.status:
            dropped = ""
            equal, difference = _judge(self.live, outcome)
        return ShadowComparison(
            self.opening.endpoint,
            self.opening.request_id,
            at_ns,
            self.opening.live,
            candidate,
            self.request.length,
            live=None if self.live is None else self.live.side,
            shadow=shadow,
            equal=equal,
            difference=difference,
            dropped=dropped,
        )


def _judge(live: Answer, shadow: Answer) -> tuple[bool, str]:
    """(equal, difference). Where the live side failed, the statuses are all there is to compare."""
    if shadow.side.error:
        return False, f"candidate: {shadow.side.error}"
    if live.grpc_status != shadow.grpc_status:
        said = f"live {live.grpc_status or 'none'}, candidate {shadow.grpc_status or 'none'}"
        return False, f"grpc-status: {said}"
    nothing = Body(0, b"")
    if live.body is None or shadow.body is None:
        found = compare(live.side.status, nothing, shadow.side.status, nothing)
    else:
        found = compare(live.side.status, live.body, shadow.side.status, shadow.body)
    return found.equal, found.difference
