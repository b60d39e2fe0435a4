"""Where a request belongs: at the deployment that its caller named, else where the split, or what keeps callers together, puts it.

And whether that deployment takes it: then it has been sent, queued or held; else there is a sentence for its caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.gateway import wording
from router.policy.admission import Admission

if TYPE_CHECKING:
    from router.gateway.exchange import Exchange
    from router.gateway.lane import Lane
    from router.gateway.routes import Endpoint
    from router.gateway.sticking import Stick
    from router.gateway.wording import Told

_REFUSE: Final = Admission.REFUSE


def find(exchange: Exchange, endpoint: Endpoint) -> Lane | Told:
    """The deployment of `endpoint` that `exchange` belongs to, or why there is none."""
    name = exchange.call.deployment
    if name is not None:
        named = endpoint.lanes.get(name.lower())
        return wording.no_deployment(endpoint.name, name) if named is None else named
    stick = endpoint.stick
    lane = endpoint.split.next() if stick is None else _together(stick, exchange, endpoint)
    return wording.NO_TRAFFIC if lane is None else lane


def _together(stick: Stick, exchange: Exchange, endpoint: Endpoint) -> Lane | None:
    """Where its caller was before; a new one is split, and kept there."""
    lane = stick.lane_of(exchange.call, exchange.after_peer, exchange.down.peer)
    if lane is None:
        lane = endpoint.split.next()
        if lane is not None:
            exchange.reply.add_cookie(stick.cookie(lane, exchange.request_id))
    return lane


def enter(exchange: Exchange, lane: Lane) -> Told | None:
    """Let it in. None: `lane` has taken it, and it may be over by now; else why not."""
    if exchange.call.websocket is not None and lane.replicas.http2:
        return wording.no_websockets(lane)
    if lane.failed and not lane.replicas.usable:
        lane.arrivals += 1
        lane.wake()
        return wording.deployment_failed(lane)
    if lane.admit(exchange) is not _REFUSE or lane.make_room(exchange):
        return None
    return wording.too_many(lane)
