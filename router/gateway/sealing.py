"""The cryptography of one connection under TLS, without its sockets: what came in, what goes out, what both mean.

Works on OpenSSL's memory buffers, in the same turn: between two records nothing waits here but what OpenSSL keeps.
"""

from __future__ import annotations

import ssl
from typing import Final, cast

RECORD_BYTES: Final = 16384
"""The payload of the longest record (RFC 8446, 5.1). OpenSSL's buffers grow to what passes through them at once and stay so."""
_SLICE_BYTES: Final = 32768
_NO_OBJECT = cast("ssl.SSLObject", None)
_NO_BYTES = ssl.MemoryBIO()


class Sealing:
    """Of one connection, either side of it."""

    __slots__ = ("_incoming", "_outgoing", "_serves", "alert", "object", "over")

    def __init__(self) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._serves = False
        self.object = _NO_OBJECT
        """OpenSSL's side of the connection."""
        self.over = False
        """Nothing readable comes any more: a close_notify, or nonsense."""
        self.alert: ssl.SSLError | None = None
        """What was wrong with it, where it was nonsense; there are words for the other end then."""

    # The handshake --------------------------------------------------------------------------------------------------

    def begin(self, context: ssl.SSLContext, *, server_side: bool, server_name: str | None = None) -> None:
        """Be ready for the handshake's first bytes, or for sending them."""
        self._serves = server_side
        self.object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
        )

    @property
    def begun(self) -> bool:
        """Whether there is a handshake under way or behind us."""
        return self.object is not None

    def shake(self, data: bytes) -> bool:
        """One step, with what has come; whether it was the last. Raises `SSLError`, or `ValueError`, where there will be no handshake."""
        if data:
            self._incoming.write(data)
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def may_wait(self) -> bool:
        """Whether all that is left to send behind the handshake are tickets: they may go with the first answer."""
        return self._serves and self.object.version() == "TLSv1.3"

    @property
    def has_more(self) -> bool:
        """Whether something has come behind the handshake's last byte."""
        return self._incoming.pending > 0

    # In and out -----------------------------------------------------------------------------------------------------

    def open(self, data: bytes) -> bytes:
        """Whatever is whole of `data` and of what came before it, in one piece; `over` says whether there will be more."""
        if len(data) > _SLICE_BYTES or self.over:
            return self._open_all(data, [])
        incoming, found = self._incoming, self.object
        incoming.write(data)
        try:
            piece = found.read(RECORD_BYTES)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError as error:
            self._no_more(error)
            return b""
        if not piece:
            self.over = True
            return b""
        if incoming.pending or found.pending():
            return self._open_all(b"", [piece])
        return piece

    def _open_all(self, data: bytes, pieces: list[bytes]) -> bytes:
        try:
            for at in range(0, max(len(data), 1), _SLICE_BYTES):
                self._incoming.write(data[at : at + _SLICE_BYTES])
                self._open_slice(pieces)
        except ssl.SSLError as error:
            self._no_more(error)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _open_slice(self, pieces: list[bytes]) -> None:
        """Raises `SSLError` where there will be no more."""
        incoming, found = self._incoming, self.object
        try:
            while incoming.pending or found.pending():
                piece = found.read(RECORD_BYTES)
                if not piece:
                    raise ssl.SSLZeroReturnError
                pieces.append(piece)
        except ssl.SSLWantReadError:
            return

    def _no_more(self, error: ssl.SSLError) -> None:
        self.over = True
        if not isinstance(error, ssl.SSLZeroReturnError):
            self.alert = error

    def seal(self, data: bytes | bytearray | memoryview) -> None:
        """Of at most `RECORD_BYTES`, behind what has not been taken yet. Raises `SSLError`."""
        self.object.write(data)

    def seal_end(self) -> None:
        """Our close_notify."""
        try:
            self.object.unwrap()
        except ssl.SSLError:  # the other end has not answered with its own yet
            return

    @property
    def has_sealed(self) -> bool:
        """Whether there is something to send."""
        return self._outgoing.pending > 0

    def sealed(self) -> bytes:
        """All that is to be sent; it is the caller's to do so."""
        return self._outgoing.read()

    def forget(self) -> None:
        """The connection is gone, and somebody may hold this for seconds yet: what is big must not stay with it."""
        self.object, self._incoming, self._outgoing = _NO_OBJECT, _NO_BYTES, _NO_BYTES
