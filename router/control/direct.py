"""Demand that the autoscaler of this machine was handed directly, so that live figures go on while the broker is away.

The same messages come by the log, sooner or later; each counts once, by its id. Asking is cheap and changes nothing
for gateways: they hand to the autoscaler as they always do.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import aiohttp

from router.contract.codec import Malformed, UnknownSchema
from router.contract.handover import PATH, REQUEST_BYTES, decode_passed
from router.control.fleet import Fleet

_log = logging.getLogger(__name__)

ASK_SECONDS = 0.5
"""Between two questions: figures are over ten seconds."""
AWAY_SECONDS = 2.0
"""The same while the autoscaler does not answer."""
DEADLINE_SECONDS = 5.0


async def follow_direct(fleet: Fleet, socket: Path) -> None:
    """Fold what is handed to the autoscaler at `socket`, from now on until cancelled."""
    timeout = aiohttp.ClientTimeout(total=DEADLINE_SECONDS)
    place = 0
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as session:
        while True:
            try:
                place = await _ask(session, fleet, place)
            except (aiohttp.ClientError, OSError, Malformed, UnknownSchema) as error:  # a timeout is an OSError
                _log.debug("the autoscaler does not tell what it was handed: %r", error)
                await asyncio.sleep(AWAY_SECONDS)
            else:
                await asyncio.sleep(ASK_SECONDS)


async def _ask(session: aiohttp.ClientSession, fleet: Fleet, place: int) -> int:
    async with session.get(f"http://autoscaler{PATH}", params={"after": str(place)}) as response:
        if response.status != 200:
            raise Malformed(f"it answers {response.status}")
        if (response.content_length or 0) > REQUEST_BYTES:
            raise Malformed("it answers too much")
        place, messages = decode_passed(await response.read())
    fleet.take_handed(messages)
    return place
