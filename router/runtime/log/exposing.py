"""Numbers of this machine's log for Prometheus, served by its shipper."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from router.contract.errors import Unavailable
from router.runtime import exposition
from router.runtime.exposition import HEAD_BYTES, Family
from router.runtime.log.base import Health
from router.runtime.log.spool import Spool
from router.runtime.log.spool_desk import Desk
from router.runtime.log.spool_link import STATES

_LABELS = {"log_producer_restarts": "reason"}
"""What the second part of a number's name means, where that is not the topic."""


def text_of(health: Health) -> str:
    """Prometheus's text format, one family after the other."""
    return exposition.text_of(families_of(health))


def families_of(health: Health) -> list[Family]:
    """The numbers of `health`, and its state as one gauge per possible state."""
    families: list[Family] = []
    for kind, numbers, suffix in (("counter", health.counters, "_total"), ("gauge", health.gauges, "")):
        for name in sorted({name for name, _ in numbers}):
            found = sorted((label, value) for (other, label), value in numbers.items() if other == name)
            samples = [({_LABELS.get(name, "topic"): label} if label else {}, value) for label, value in found]
            families.append(Family(f"tidegate_{name}{suffix}", kind, "", samples))
    states = [({"state": state}, float(state == health.state)) for state in STATES]
    return [*families, Family("tidegate_log_link", "gauge", "", states)]


@contextlib.asynccontextmanager
async def exposed(desk: Desk, address: tuple[str, int] | None) -> AsyncIterator[None]:
    """Answer at `address` (host, port) while the context is open; nothing at all for None. Raises `Unavailable`."""
    if address is None:
        yield
        return

    async def collect() -> str:
        return text_of(await desk.ask(Spool.health))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await exposition.answer(reader, writer, collect)

    try:
        server = await asyncio.start_server(answer, *address, limit=HEAD_BYTES)
    except OSError as error:
        raise Unavailable(
            f"metrics cannot be served at {address[0]}:{address[1]}: {error}; name another port"
        ) from error
    async with server:
        yield
