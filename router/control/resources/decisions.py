"""Scaling decisions as they come from the log, for whoever tells objects of them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from router.contract import codec
from router.contract.errors import Unavailable
from router.contract.events import DECISIONS, Decision
from router.runtime.clock import Clock
from router.runtime.log.base import Log

RETRY_SECONDS = 1.0
_LOG = logging.getLogger(__name__)


async def follow_decisions(log: Log, clock: Clock, decided: Callable[[Decision], None]) -> None:
    """Hand over every decision from now on, until cancelled; while the log cannot be read they are missed."""
    while True:
        try:
            reader = await log.reader((DECISIONS,), "latest")
            try:
                while True:
                    for message in await reader.next(None):
                        _hand_over(message.value, decided)
            finally:
                await reader.close()
        except Unavailable as error:
            _LOG.warning("decisions cannot be read right now: %s", error.message)
        await clock.sleep(RETRY_SECONDS)


def _hand_over(value: bytes, decided: Callable[[Decision], None]) -> None:
    try:
        decision = codec.decode_decision(value)
    except (codec.UnknownSchema, codec.Malformed) as error:
        _LOG.debug("a decision was skipped: %s", error)
        return
    decided(decision)
