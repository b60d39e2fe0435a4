"""The JSON of a shadow's end, put together by hand: a busy mirror writes thousands a second, and what makes any event into JSON
takes longer than all else that is done for one. The same bytes: fields in the order of the alphabet, ASCII, no spaces.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING

from router.contract.schema import SCHEMA

if TYPE_CHECKING:
    from router.contract.events import ShadowComparison, Side

_EQUAL = {None: "null", True: "true", False: "false"}


def encode_shadow(event: ShadowComparison) -> bytes:
    """JSON of one shadow's end."""
    return (
        f'{{"at_ns":{event.at_ns},"candidate":{quoted(event.candidate)},"count":{event.count}'
        f',"difference":{quoted(event.difference)},"dropped":{quoted(event.dropped)},"endpoint":{quoted(event.endpoint)}'
        f',"equal":{_EQUAL[event.equal]},"live":{_side(event.live)},"live_deployment":{quoted(event.live_deployment)}'
        f',"request_bytes":{event.request_bytes},"request_id":{quoted(event.request_id)},"schema":{SCHEMA}'
        f',"shadow":{_side(event.shadow)}}}'
    ).encode()


def _side(side: Side | None) -> str:
    if side is None:
        return "null"
    return (
        f'{{"bytes":{side.bytes},"error":{quoted(side.error)},"first_byte_ms":{_number(side.first_byte_ms)}'
        f',"latency_ms":{_number(side.latency_ms)},"status":{side.status}}}'
    )


def _number(value: float) -> str:
    # Python's own word for what is no number is not JSON's.
    return repr(value) if value - value == 0 else json.dumps(value)
