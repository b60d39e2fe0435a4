"""A connection to a replica, with TLS around it where its deployment says so."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from router.gateway.timers import NEVER
from router.gateway.tls import HANDSHAKE_NS, Secured
from router.runtime.telemetry import Limited

if TYPE_CHECKING:
    from router.gateway.ends import Speaker
    from router.gateway.state import State
    from router.gateway.target import Target
    from router.gateway.timers import Wheel

_SAY = Limited(logging.getLogger(__name__))


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
        self.sealing.begin(self._context, server_side=False, server_name=self._server_name)
        self.shake(b"")

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


async def reach(state: State, target: Target, protocol: str, factory: Callable[[], Speaker]) -> Speaker:
    """Who speaks on the new connection, `protocol` by ALPN's name; its handshake is over. Raises `OSError`."""
    host, port = target.address
    loop = asyncio.get_running_loop()
    replicas = target.replicas
    if not replicas.secure:
        _, speaker = await loop.create_connection(lambda: cast("asyncio.Protocol", factory()), host, port)
        return cast("Speaker", speaker)
    context = state.trust.context(protocol)
    wire = Reaching(factory, context, replicas.server_name or host, state.wheel)
    try:
        await loop.create_connection(lambda: cast("asyncio.Protocol", wire), host, port)
        return await wire.done
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        text = "a replica's TLS handshake failed"
        _SAY.warning("handshake", text, replica=target.id, deployment=replicas.deployment, reason=reason)
        raise
    finally:
        wire.give_up()
