"""TLS on one connection: a protocol towards the kernel, a transport towards whoever speaks HTTP on it.

Bytes are decrypted as they come and encrypted as they go (`sealing`), in the same turn; nothing waits here, so the plain
transport's buffer and its limits are all there is.

- A close_notify is the other end's half-close: it may still read. The end of the bytes without one is a break, never an end.
- `close` and `write_eof` say close_notify; `abort` and `truncate` do not, so that what was cut cannot pass for whole.
- Until the handshake is over there is nobody to tell anything; it has a deadline of its own.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

from router.gateway.sealing import RECORD_BYTES, Sealing
from router.gateway.timers import NEVER

if TYPE_CHECKING:
    from router.gateway.ends import Speaker

HANDSHAKE_NS: Final = 10_000_000_000
"""From the connection to the end of its handshake."""


class Secured:
    """One connection, either side of it; who derives from it says what becomes of a handshake.

    A protocol and a transport by its methods alone, so that it can be compiled.
    """

    __slots__ = (
        "_closing", "_cut", "_held", "_inner", "_open", "_plain", "_read_all", "_shut", "deadline", "sealing", "slot",
    )  # fmt: skip

    def __init__(self) -> None:
        self._plain: asyncio.Transport = None  # type: ignore[assignment] # set before anything else is called
        self._inner: Speaker | None = None
        self.sealing = Sealing()
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

    def before(self, data: bytes) -> None:
        """Bytes of the handshake."""
        self.shake(data)

    def established(self) -> Speaker:
        """The handshake is over: who speaks on the connection from now on."""
        raise NotImplementedError

    def refused(self, why: Exception) -> None:
        """The handshake has failed; the other end has been told, as far as there are words for it."""
        raise NotImplementedError

    def shake(self, data: bytes) -> None:
        """One step of the handshake, with what has come."""
        sealing = self.sealing
        try:
            done = sealing.shake(data)
        except (ssl.SSLError, ValueError) as error:
            self._flush()
            self.fail(error)
            return
        if not done:
            self._flush()
            return
        self._open = True
        if not sealing.may_wait():
            self._flush()
        inner = self._inner = self.established()
        inner.connection_made(cast("asyncio.BaseTransport", self))
        if sealing.has_more:
            self._take(b"")

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
        self._take(data)

    def _take(self, data: bytes) -> None:
        sealing = self.sealing
        piece = sealing.open(data)
        if piece and self._inner is not None:
            self._inner.data_received(piece)
        if sealing.over:
            self._no_more()

    def _no_more(self) -> None:
        """Nothing readable comes any more."""
        alert = self.sealing.alert
        if self._read_all or self._closing:
            return
        if alert is not None:
            self._flush()
            self._break(alert)
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
        self.sealing.forget()
        if inner is not None:
            inner.connection_lost(exc or self._cut)

    # As a transport -------------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._closing or self._shut or not data:
            return
        try:
            if len(data) <= RECORD_BYTES:
                self.sealing.seal(data)
                if not self._held:
                    self._plain.write(self.sealing.sealed())
            else:
                self._write_long(memoryview(data))
        except ssl.SSLError as error:
            self._break(error)

    def _write_long(self, data: memoryview) -> None:
        for at in range(0, len(data), RECORD_BYTES):
            self.sealing.seal(data[at : at + RECORD_BYTES])
            self._plain.write(self.sealing.sealed())

    def _flush(self) -> None:
        if self.sealing.has_sealed and not self._plain.is_closing():
            self._plain.write(self.sealing.sealed())

    def _say_close(self) -> None:
        """Our close_notify."""
        if self._open and not self._shut and not self._plain.is_closing():
            self._shut = True
            self.sealing.seal_end()
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
            return self.sealing.object
        return self._plain.get_extra_info(name, default)
