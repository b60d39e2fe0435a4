"""Which requests the mirror gets a copy of: a share of those that the split has sent to a deployment.

Whoever names a deployment wants that one, and of a conversation there is nothing to compare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.gateway.records import unix_ns

if TYPE_CHECKING:
    from router.gateway.exchange import Exchange
    from router.gateway.state import State
    from router.gateway.tee import Shadow


def shadow_of(exchange: Exchange, state: State, head: bytes) -> Shadow | None:
    """The copy that begins with `head`, as it goes to the replica; None where nobody is to have one, or there is no room."""
    endpoint, lane = exchange.endpoint, exchange.lane
    assert endpoint is not None
    assert lane is not None
    sampler = endpoint.sampler
    if sampler is None or exchange.named or exchange.call.websocket is not None:
        return None
    mask = sampler.sample()
    if not mask:
        return None
    candidates = tuple([name for index, name in enumerate(endpoint.mirrors) if mask >> index & 1])
    start_ns = unix_ns(exchange.arrival)
    return state.tee.open(endpoint.name, lane.name, candidates, exchange.request_id, start_ns, head)
