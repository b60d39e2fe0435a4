"""What remains of an exchange that has ended: its part of the demand, its record, and what it says about its replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.contract.events import Flag, Outcome
from router.gateway.demand import account
from router.gateway.records import NOT_COME

if TYPE_CHECKING:
    from router.gateway.exchange import Exchange
    from router.gateway.target import Target

_STREAMED: Final = int(Flag.STREAMED)
_WEBSOCKET: Final = int(Flag.WEBSOCKET)
_OK: Final = int(Outcome.OK)
_TIMEOUT: Final = int(Outcome.TIMEOUT)
_SERVER_ERROR: Final = 500


def record(exchange: Exchange, now: int) -> None:
    """Count it where it came to a deployment, and write it down where it came to an endpoint. `now`: when it ended."""
    endpoint, lane, target = exchange.endpoint, exchange.lane, exchange.target
    request, reply, flags = exchange.request, exchange.reply, exchange.flags
    arrival, dispatched = exchange.arrival, exchange.dispatched
    if lane is not None:
        # Of a WebSocket the handshake is what had to be fast.
        answered = exchange.first_byte if flags & _WEBSOCKET else now
        account(lane, reply.outcome, dispatched - arrival if dispatched else -1, answered - arrival)
    if endpoint is not None:
        endpoint.ledger.add(
            exchange.sequence, arrival, reply.status, reply.model_status, reply.outcome,
            flags | _STREAMED if reply.streamed else flags, request.received, reply.sent, dispatched, exchange.first_byte, now,
            lane.name if lane is not None else "", target.id if target is not None else "", exchange.call.profile,
            request.whole if request.complete else NOT_COME, reply.refusal,
        )  # fmt: skip


def judge(exchange: Exchange, target: Target, now: int) -> None:
    """Tell the replica's standing how it did. A caller that had no more time is not its fault."""
    reply = exchange.reply
    if reply.outcome == _OK:
        target.good += 1
        if target.standing.suspect:
            target.standing.did_well()
    elif reply.model_status >= _SERVER_ERROR or (reply.outcome == _TIMEOUT and now < exchange.expires):
        target.standing.erred()
