"""One request to one replica, under way until `over` is called, once. Who began it may `abandon` it before; then nothing more is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from mirror.capture import RequestBody
from mirror.reading import Reply

Address = tuple[str, int]
"""(host, port) of a replica."""
Start = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
"""Runs what has to be waited for as a task, by name; its owner sees to its end."""


class Outgoing:
    """One shadow request."""

    __slots__ = ("body", "chunked", "head", "method")

    def __init__(self, head: bytes, body: RequestBody, *, chunked: bool, method: str) -> None:
        self.head = head
        self.body = body
        self.chunked = chunked
        self.method = method


class Carrier:
    """What carries a call: a connection of HTTP/1.1."""

    def abandon(self) -> None:
        """Its call is of no interest any more."""
        raise NotImplementedError


class Call:
    """`begun` says to whom and what, `carrier` and `task` by which means, as far as there are any."""

    def __init__(self) -> None:
        self.address: Address = ("", 0)
        self.server_name: str | None = None
        self.outgoing: Outgoing | None = None
        self.reply = Reply(_nowhere)
        self.carrier: Carrier | None = None
        self.task: asyncio.Task[None] | None = None

    def begun(self, address: Address, server_name: str | None, outgoing: Outgoing, reply: Reply) -> None:
        """With a `server_name` over TLS; that must be the name in the certificate, or the address where it is empty."""
        self.address = address
        self.server_name = server_name
        self.outgoing = outgoing
        self.reply = reply

    def over(self, error: Exception | None) -> None:
        """`reply` is whole, or what went wrong: `Lost`, what `Reply.take` raised, or an error of our own."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Whoever it was for has gone."""
        raise NotImplementedError

    def abandon(self) -> None:
        """End it without a word."""
        task, carrier = self.task, self.carrier
        self.task = None
        self.carrier = None
        if task is not None:
            task.cancel()
        if carrier is not None:
            carrier.abandon()


def _nowhere(_: bytes) -> None:
    """Before it has begun nothing comes."""
