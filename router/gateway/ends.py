"""The two ends of an exchange, whatever protocol they speak: what it asks of its caller's side and of its replica's.

Both stand on a connection, plain or under TLS, that tells them what happens to it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from router.gateway.exchange import Exchange
    from router.gateway.responses import Refusal
    from router.gateway.target import Target


def address_of(transport: asyncio.BaseTransport) -> bytes:
    """Where the other end of a connection is, without its port."""
    address = transport.get_extra_info("peername")
    return str(address[0]).encode() if isinstance(address, tuple) else b"unknown"


class Near:
    """The caller's: its connection, or one stream of it. What is written to `transport` is HTTP/1.1."""

    __slots__ = ("deadline", "exchange", "paused", "paused_since", "peer", "slot", "transport")

    transport: asyncio.Transport
    exchange: Exchange | None
    peer: bytes
    """The caller's address."""
    deadline: int
    slot: int
    paused: bool
    """Whether the caller reads slower than the answer comes."""
    paused_since: int

    def pause_for_replica(self) -> None:
        """There is no room for more of the body."""
        raise NotImplementedError

    def resume_for_replica(self) -> None:
        """There is room again."""
        raise NotImplementedError

    def ends(self) -> None:
        """What is written next is the last of its connection, which ends in the same turn."""

    def end_by_reset(self) -> None:
        """Let the end that comes be a break."""
        raise NotImplementedError

    def exchange_over(self, *, close: bool, cut: bool, now: int) -> None:
        """The exchange has ended."""
        raise NotImplementedError

    def on_deadline(self, now: int) -> None:
        """Of whatever it was waiting for."""
        raise NotImplementedError

    def reads_on(self, now: int) -> bool:
        """Whether a caller that is behind may take its time, or has taken enough; then its deadline is set."""
        raise NotImplementedError

    @property
    def is_read(self) -> bool:
        """Whether the caller could send more."""
        raise NotImplementedError

    def says(self, refusal: Refusal, message: str, fields: bytes) -> bool:  # noqa: ARG002 -- for those that do
        """Whether it tells its caller of a refusal in words of its own; `fields` are lines that stand beside it."""
        return False


class Far:
    """The replica's: a connection, or one stream of it. What is written to `transport` is HTTP/1.1."""

    __slots__ = ("exchange", "paused", "target", "transport")

    transport: asyncio.Transport
    exchange: Exchange | None
    target: Target
    paused: bool
    """Whether the replica reads slower than the caller sends."""

    def carry(self, exchange: Exchange) -> None:
        """Expect the answer of `exchange`, whose request is about to be written."""
        raise NotImplementedError

    def is_unheard(self) -> bool:
        """Whether nobody has acknowledged for seconds what was sent."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """The caller reads slower than the replica sends."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """The caller has caught up."""
        raise NotImplementedError

    def close(self) -> None:
        """End it now, whatever it was doing."""
        raise NotImplementedError


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
