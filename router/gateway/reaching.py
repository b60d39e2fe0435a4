"""A connection to a replica, with TLS around it where its deployment says so."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from router.gateway.tls import Reaching
from router.runtime.telemetry import Limited

if TYPE_CHECKING:
    from router.gateway.state import State
    from router.gateway.target import Target
    from router.gateway.tls import Speaker

_SAY = Limited(logging.getLogger(__name__))


async def reach(state: State, target: Target, protocol: str, factory: Callable[[], Speaker]) -> Speaker:
    """Who speaks on the new connection, `protocol` by ALPN's name; its handshake is over. Raises `OSError`."""
    host, port = target.address
    loop = asyncio.get_running_loop()
    lane = target.lane
    if not lane.secure:
        _, speaker = await loop.create_connection(lambda: cast("asyncio.Protocol", factory()), host, port)
        return cast("Speaker", speaker)
    context = state.trust.context(protocol)
    wire = Reaching(factory, context, lane.server_name or host, state.wheel)
    try:
        await loop.create_connection(lambda: cast("asyncio.Protocol", wire), host, port)
        return await wire.done
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        text = "a replica's TLS handshake failed"
        _SAY.warning("handshake", text, replica=target.id, deployment=lane.name, reason=reason)
        raise
    finally:
        wire.give_up()
