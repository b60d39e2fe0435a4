"""TLS on one connection: a protocol towards the kernel, a transport towards whoever speaks HTTP on it.

Bytes are decrypted as they come and encrypted as they go, in the same turn; nothing waits here, so the plain transport's
buffer and its limits are all there is. Between two records a connection holds no buffer but what OpenSSL keeps.

- A close_notify is the other end's half-close: it may still read. The end of the bytes without one is a break, never an end.
- `close` and `write_eof` say close_notify; `abort` and `truncate` do not, so that what was cut cannot pass for whole.
- Until the handshake is over there is nobody to tell anything; it has a deadline of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

from router.gateway.timers import NEVER

if TYPE_CHECKING:
    from router.gateway.timers import Wheel

HANDSHAKE_NS = 10_000_000_000
"""From the connection to the end of its handshake."""
_RECORD_BYTES = 16384
"""The payload of the longest record (RFC 8446, 5.1). OpenSSL's buffers grow to what passes through them at once and stay so."""
_SLICE_BYTES = 32768


class Speaker(Protocol):
    """Who speaks on a connection: the part of a protocol that matters here."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""

    def data_received(self, data: bytes) -> None:
        """Bytes from the other end."""

    def eof_received(self) -> bool | None:
        """The other end sends nothing more; whether we go on."""

    def pause_writing(self) -> None:
        """The other end reads too slowly."""

    def resume_writing(self) -> None:
        """It has caught up."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""


_NO_OBJECT = cast("ssl.SSLObject", None)
_NO_BYTES = ssl.MemoryBIO()


class Secured:
    """One connection, either side of it; who derives from it says what becomes of a handshake.

    A protocol and a transport by its methods alone, so that it can be compiled.
    """

    __slots__ = (
        "_closing", "_cut", "_held", "_incoming", "_inner", "_object", "_open", "_outgoing", "_plain", "_read_all", "_shut", "deadline",
        "slot",
    )  # fmt: skip

    def __init__(self) -> None:
        self._plain: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called
        self._inner: Speaker | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = _NO_OBJECT
        self._open = False
        """The handshake is over."""
        self._closing = False
        self._held = False
        """What is written leaves with our close_notify."""
        self._shut = False
        """We have said close_notify."""
        self._read_all = False
        """The other end has said close_notify."""
        self._cut: Exception | None = None
        """Why the connection broke."""
        self.deadline = NEVER
        self.slot = NEVER

    # The handshake --------------------------------------------------------------------------------------------------

    def begin(self, context: ssl.SSLContext, *, server_side: bool, server_name: str | None = None) -> None:
        """Be ready for the handshake's first bytes, or for sending them."""
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
        )

    @property
    def begun(self) -> bool:
        """Whether there is a handshake under way or behind us."""
        return self._object is not None

    def before(self, data: bytes) -> None:
        """Bytes of the handshake."""
        self._incoming.write(data)
        self.shake()

    def established(self) -> Speaker:
        """The handshake is over: who speaks on the connection from now on."""
        raise NotImplementedError

    def refused(self, why: Exception) -> None:
        """The handshake has failed; the other end has been told, as far as there are words for it."""
        raise NotImplementedError

    def shake(self) -> None:
        """One step of the handshake, with what has come."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except (ssl.SSLError, ValueError) as error:
            self._flush()
            self.fail(error)
            return
        self._open = True
        if not self._object.server_side or self._object.version() != "TLSv1.3":
            self._flush()  # what is left otherwise are tickets, which go with the first answer
        inner = self._inner = self.established()
        inner.connection_made(cast("asyncio.BaseTransport", self))
        if self._incoming.pending:
            self._decrypt(b"")

    def fail(self, why: Exception) -> None:
        """There will be no handshake."""
        if not self._closing:
            self._closing = True
            self._cut = why
            self.refused(why)
            self._plain.close()

    def on_deadline(self, now: int) -> None:  # noqa: ARG002 -- the wheel's signature
        """The handshake took too long."""
        if not self._open:
            self.fail(TimeoutError("the handshake took too long"))

    # As a protocol --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there, its handshake is not."""
        self._plain = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes from the other end."""
        if not self._open:
            if not self._closing:
                self.before(data)
            return
        if len(data) > _SLICE_BYTES or self._read_all:
            self._decrypt(data)
            return
        incoming, found = self._incoming, self._object
        incoming.write(data)
        try:
            piece = found.read(_RECORD_BYTES)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            self._no_more(error)
            return
        if not piece:
            self._no_more(None)
        elif incoming.pending or found.pending():
            self._decrypt(b"", piece)
        else:
            assert self._inner is not None
            self._inner.data_received(piece)

    def _decrypt(self, data: bytes, first: bytes = b"") -> None:
        """Pass on, in one piece, all that is whole of `data` and of what came before it."""
        pieces = [first] if first else []
        error: Exception | None = None
        try:
            for at in range(0, max(len(data), 1), _SLICE_BYTES):
                self._incoming.write(data[at : at + _SLICE_BYTES])
                self._read_records(pieces)
        except ssl.SSLError as caught:
            error = caught
        if pieces and self._inner is not None:
            self._inner.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if error is not None:
            self._no_more(error)

    def _read_records(self, pieces: list[bytes]) -> None:
        """Raises `SSLError` where there will be no more."""
        incoming, found = self._incoming, self._object
        with contextlib.suppress(ssl.SSLWantReadError):
            while incoming.pending or found.pending():
                piece = found.read(_RECORD_BYTES)
                if not piece:
                    raise ssl.SSLZeroReturnError
                pieces.append(piece)

    def _no_more(self, error: Exception | None) -> None:
        """Nothing readable comes any more: a close_notify, or nonsense."""
        if self._read_all or self._closing:
            return
        if error is not None and not isinstance(error, ssl.SSLZeroReturnError):
            self._flush()  # OpenSSL has written an alert
            self._break(error)
            return
        self._read_all = True
        if self._inner is None or not self._inner.eof_received():
            self.close()

    def eof_received(self) -> bool:
        """The other end's bytes have ended. Without a close_notify anybody may have cut them."""
        if not self._open:
            self.fail(ConnectionResetError("the connection ended inside the handshake"))
        elif not self._read_all:
            self._break(ConnectionResetError("the connection ended without a close_notify"))
        return True

    def _break(self, why: Exception) -> None:
        self._cut = why
        self.abort()

    def pause_writing(self) -> None:
        """The other end reads too slowly."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The other end has caught up."""
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.deadline = NEVER
        inner, self._inner = self._inner, None
        if not self._open and not self._closing:
            self._closing = True
            self.refused(exc or ConnectionResetError("the connection ended inside the handshake"))
        self._closing = True
        # The wheel may hold this for seconds yet: what is big must not stay with it.
        self._object, self._incoming, self._outgoing = _NO_OBJECT, _NO_BYTES, _NO_BYTES
        if inner is not None:
            inner.connection_lost(exc or self._cut)

    # As a transport -------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._closing or self._shut or not data:
            return
        try:
            if len(data) <= _RECORD_BYTES:
                self._object.write(data)
                if not self._held:
                    self._plain.write(self._outgoing.read())
            else:
                self._write_long(memoryview(data))
        except ssl.SSLError as error:
            self._break(error)

    def _write_long(self, data: memoryview) -> None:
        for at in range(0, len(data), _RECORD_BYTES):
            self._object.write(data[at : at + _RECORD_BYTES])
            self._plain.write(self._outgoing.read())

    def _flush(self) -> None:
        if self._outgoing.pending and not self._plain.is_closing():
            self._plain.write(self._outgoing.read())

    def _say_close(self) -> None:
        """Our close_notify."""
        if self._open and not self._shut and not self._plain.is_closing():
            self._shut = True
            with contextlib.suppress(ssl.SSLError):  # the other end has not answered with its own yet
                self._object.unwrap()
            self._flush()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._closing or self._plain.is_closing()

    def close(self) -> None:
        """Say that this is the end, send what is left, and end."""
        if not self._closing:
            self._say_close()
            self._flush()
            self._closing = True
            self._plain.close()

    def hold(self) -> None:
        """What is written next is the last: `close` or `write_eof` follows in the same turn, and both leave as one."""
        self._held = True

    def abort(self) -> None:
        """End now, as a break."""
        self._closing = True
        self._plain.abort()

    def truncate(self) -> None:
        """Let the end that comes be a break."""
        self._shut = True

    def can_write_eof(self) -> bool:
        """One side can end before the other."""
        return True

    def write_eof(self) -> None:
        """Nothing more will be written; reading goes on."""
        self._say_close()
        if self._plain.can_write_eof() and not self._plain.is_closing():
            self._plain.write_eof()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Somebody else speaks on the connection from now on."""
        self._inner = cast("Speaker", protocol)

    def pause_reading(self) -> None:
        """Let the other end's bytes wait in the kernel."""
        self._plain.pause_reading()

    def resume_reading(self) -> None:
        """The opposite."""
        self._plain.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that are not in the kernel yet: 22 more than payload per record of up to 16 KiB."""
        return self._plain.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When the protocol is told to pause."""
        self._plain.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`tls`: this; `ssl_object`: the protocol's state; else what the plain transport knows."""
        if name == "tls":
            return self
        if name == "ssl_object":
            return self._object
        return self._plain.get_extra_info(name, default)


class Reaching(Secured):
    """Our side of a connection to a server."""

    __slots__ = ("_context", "_factory", "_server_name", "done")

    def __init__(self, factory: Callable[[], Speaker], context: ssl.SSLContext, server_name: str, wheel: Wheel) -> None:
        super().__init__()
        self._factory = factory
        self._context = context
        self._server_name = server_name
        self.done: asyncio.Future[Speaker] = asyncio.get_running_loop().create_future()
        """Who speaks on the connection, once there is one."""
        wheel.arm(self, time.monotonic_ns() + HANDSHAKE_NS)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server is there: the first word is ours."""
        super().connection_made(transport)
        self.begin(self._context, server_side=False, server_name=self._server_name)
        self.shake()

    def established(self) -> Speaker:
        """The server is who it should be."""
        self.deadline = NEVER
        protocol = self._factory()
        if not self.done.done():
            self.done.set_result(protocol)
        return protocol

    def refused(self, why: Exception) -> None:
        """It is not, or it does not want us."""
        if not self.done.done():
            self.done.set_exception(why)

    def give_up(self) -> None:
        """Nobody waits for the handshake any more."""
        if not self.done.done():
            self.done.cancel()
        if not self._open and self._plain is not None:
            self.abort()
