"""Where callers come in under TLS: each connection's handshake, and whom it is handed to afterwards.

What fails here is counted, and told once a second at most: anybody can make it fail as often as they like.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from router.gateway.downstream import Downstream
from router.gateway.ends import address_of
from router.gateway.http2.serving import Serving
from router.gateway.responses import Refusal, connection_line, refuse
from router.gateway.timers import NEVER
from router.gateway.tls import HANDSHAKE_NS, Secured
from router.runtime.telemetry import Limited

if TYPE_CHECKING:
    from router.gateway.certificate_store import Certificates
    from router.gateway.ends import Speaker
    from router.gateway.state import State

_LOG = logging.getLogger(__name__)
_HANDSHAKE_RECORD = 22

PROTOCOLS: Mapping[str, Callable[[State, bytes], Speaker]] = {"h2": Serving, "http/1.1": Downstream}
"""By ALPN's names (RFC 7301), the preferred one first: who speaks on a connection, told the address of a caller
that has been let in already. Whoever offers none gets HTTP/1.1."""


class Entrance:
    """What connections under TLS share."""

    __slots__ = ("certificates", "say", "state")

    def __init__(self, state: State, certificates: Certificates) -> None:
        self.state = state
        self.certificates = certificates
        self.say = Limited(_LOG)


class Entering(Secured):
    """One caller's connection under TLS; who speaks HTTP on it comes with the end of the handshake."""

    __slots__ = ("_counted", "_entrance", "_peer", "_turned_away")

    def __init__(self, entrance: Entrance) -> None:
        super().__init__()
        self._entrance = entrance
        self._peer = b""
        self._counted = False
        self._turned_away = False

    @property
    def transport(self) -> asyncio.Transport:
        """The plain connection."""
        return self._plain

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there, its handshake is not. It counts from now on."""
        super().connection_made(transport)
        self._peer = address_of(transport)
        state = self._entrance.state
        state.connections.add(self)
        state.wheel.arm(self, time.monotonic_ns() + min(HANDSHAKE_NS, state.head_ns))
        self._counted = True
        self._turned_away = state.doors.enter(self._peer) is not None
        if self._turned_away and not state.doors.may_be_told():
            state.refusals.cut("connections", "more connections than can be told that there are too many")
            self.abort()

    def _leave(self) -> None:
        if self._counted:
            self._counted = False
            self._entrance.state.doors.leave(self._peer, refused=self._turned_away)

    def before(self, data: bytes) -> None:
        """Of the handshake; the first byte tells whether the caller speaks TLS at all."""
        if not self.sealing.begun:
            if data[0] != _HANDSHAKE_RECORD:
                self._plaintext(data)
                return
            self.sealing.begin(self._entrance.certificates.front, server_side=True)
        super().before(data)

    def _plaintext(self, data: bytes) -> None:
        state = self._entrance.state
        if data[:1].isalpha():  # a method: whoever asks in plain HTTP is answered so
            request_id = state.request_id(state.sequence)
            state.sequence += 1
            extra = state.date + connection_line(close=True, http10=False)
            text = "this port speaks TLS: write https:// where there is http://"
            state.refusals.note(Refusal.BAD_REQUEST, None, text)
            head_only = data.startswith(b"HEAD ")
            answer = refuse(Refusal.BAD_REQUEST, text, request_id, head_only=head_only, extra=extra)
            self._plain.write(answer)
        self.fail(ValueError("plain text where TLS is spoken"))

    def established(self) -> Speaker:
        """The caller and we agree."""
        state = self._entrance.state
        self.deadline = NEVER
        state.connections.discard(self)
        if self._turned_away:  # there may be room by now; if not, whoever speaks tells it so
            self._leave()
        inside, self._counted = self._counted, False
        state.counters.handshakes += 1
        speaker = PROTOCOLS[self.sealing.object.selected_alpn_protocol() or "http/1.1"]
        return speaker(state, self._peer if inside else b"")

    def refused(self, why: Exception) -> None:
        """We do not, or the caller has left."""
        state = self._entrance.state
        state.counters.handshakes_failed += 1
        reason = (why.reason if isinstance(why, ssl.SSLError) else "") or str(why)
        self._entrance.say.warning("handshake", "a TLS handshake failed", peer=self._peer.decode(), reason=reason)

    def leave_if_idle(self, since: int) -> None:
        """The worker stops: who is in its handshake is let in all the same, for one answer; the deadline bounds that."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._entrance.state.connections.discard(self)
        self._leave()
        super().connection_lost(exc)
