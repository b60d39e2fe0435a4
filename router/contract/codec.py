"""Bytes ↔ events. Every format has a schema version; readers skip versions they do not know (`UnknownSchema`).

`demand` and `requests` are packed little-endian, because there are many of them; the rest is JSON, because people
read it: the packed formats have files of their own, and this one is the door to all. Golden files of every version
stand in `tests/golden`.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, TypeVar

from router.contract.events import (
    Damaged,
    Decision,
    DeploymentReplicas,
    EndpointReplicas,
    EndpointRevision,
    EndpointSnapshot,
    Folded,
    Phase,
    Replica,
    ReplicaState,
    ShadowComparison,
    Side,
)
from router.contract.packed_demand import (
    DEMAND_HEADER,
    DEMAND_ROW,
    DRAINING,
    HISTOGRAM,
    decode_demand,
    encode_demand,
    pack_demand,
    pack_demand_row,
)
from router.contract.packed_requests import (
    COUNTS,
    COUNTS_ROW,
    DETAIL,
    DETAILED,
    RECORDS,
    REQUEST_RECORD,
    REQUESTS_HEADER,
    decode_counts,
    decode_profile,
    decode_requests,
    encode_counts,
    encode_profile,
    encode_requests,
    is_counts,
    split_counts,
    split_details,
    split_requests,
)
from router.contract.schema import SCHEMA, Malformed, UnknownSchema
from router.contract.shadow_json import encode_shadow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = [
    "COUNTS",
    "COUNTS_ROW",
    "DEMAND_HEADER",
    "DEMAND_ROW",
    "DETAIL",
    "DETAILED",
    "DRAINING",
    "HISTOGRAM",
    "RECORDS",
    "REQUESTS_HEADER",
    "REQUEST_RECORD",
    "SCHEMA",
    "Malformed",
    "UnknownSchema",
    "decode_counts",
    "decode_decision",
    "decode_demand",
    "decode_folded",
    "decode_notice",
    "decode_profile",
    "decode_replicas",
    "decode_requests",
    "decode_shadow",
    "decode_snapshot",
    "decode_specs",
    "encode_counts",
    "encode_damaged",
    "encode_decision",
    "encode_demand",
    "encode_folded",
    "encode_profile",
    "encode_replicas",
    "encode_requests",
    "encode_shadow",
    "encode_snapshot",
    "encode_specs",
    "is_counts",
    "pack_demand",
    "pack_demand_row",
    "split_counts",
    "split_details",
    "split_requests",
]

E = TypeVar("E")
P = TypeVar("P", dict[str, Any], list[Any])


def _to_json(event: Any, *, without: Collection[str] = ()) -> bytes:
    return _dump({name: value for name, value in dataclasses.asdict(event).items() if name not in without})


def _dump(body: dict[str, Any]) -> bytes:
    body["schema"] = SCHEMA
    return json.dumps(body, separators=(",", ":"), sort_keys=True).encode()


def _from_json(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error)) from error
    if not isinstance(body, dict):
        raise Malformed("not a JSON object")
    if body.pop("schema", None) != SCHEMA:
        raise UnknownSchema(f"only schema {SCHEMA} is known")
    return body


_SHAPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "bool | None": (bool, type(None)),
}
"""What a field of an event may be in JSON, by its annotation; maps by the first word of theirs."""


def _build(cls: Callable[..., E], body: Any, **made: Any) -> E:
    """An event from the fields this reader knows (a newer writer may have added others); `made` ones are ready."""
    if not isinstance(body, dict):
        raise Malformed(f"{cls.__name__} is no JSON object")
    values = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # every event is one
        if field.name in made:
            values[field.name] = made[field.name]
        elif field.name in body:
            value = body[field.name]
            shape = _SHAPES.get(str(field.type), (dict,))
            if not isinstance(value, shape) or (isinstance(value, bool) and bool not in shape):
                raise Malformed(f"{cls.__name__}.{field.name} cannot be {value!r:.60}")
            values[field.name] = value
    try:
        return cls(**values)
    except TypeError as error:
        raise Malformed(str(error)) from error


def _part(body: dict[str, Any], name: str, shape: type[P]) -> P:
    """A collection in `body`, empty when it is absent."""
    found = body.get(name, shape())
    if not isinstance(found, shape):
        raise Malformed(f"{name} is no {shape.__name__}")
    return found


def encode_specs(event: EndpointRevision) -> bytes:
    """JSON of one endpoint revision; `cohorts` is there where it says something."""
    return _to_json(_plain(event), without=() if event.cohorts else ("cohorts",))


def _plain(event: EndpointRevision) -> EndpointRevision:
    documents = {name: dict(document) for name, document in event.deployments.items()}
    return dataclasses.replace(
        event,
        document=dict(event.document),
        deployments=documents,
        restarts=dict(event.restarts),
        cohorts=dict(event.cohorts),
    )


def decode_specs(data: bytes) -> EndpointRevision:
    """Inverse of `encode_specs`."""
    body = _from_json(data)
    hashes = _part(body, "key_hashes", list)
    if not all(isinstance(one, str) for one in hashes):
        raise Malformed("key_hashes are strings")
    if not all(isinstance(one, dict) for one in _part(body, "deployments", dict).values()):
        raise Malformed("deployments are documents")
    cohorts = {name: _parts_of(found) for name, found in _part(body, "cohorts", dict).items()}
    return _build(EndpointRevision, body, key_hashes=tuple(hashes), cohorts=cohorts)


def _parts_of(found: Any) -> tuple[int, ...]:
    if not isinstance(found, list) or not all(type(one) is int and 0 <= one < 100 for one in found):
        raise Malformed("cohorts are lists of whole numbers from 0 to 99")
    return tuple(found)


def encode_replicas(event: EndpointReplicas) -> bytes:
    """JSON of every replica of one endpoint; a replica's `zone` is there where it says something."""
    body = dataclasses.asdict(dataclasses.replace(event, deployments=dict(event.deployments)))
    for found in body["deployments"].values():
        for one in found["replicas"]:
            if not one["zone"]:
                del one["zone"]
    return _dump(body)


def decode_replicas(data: bytes) -> EndpointReplicas:
    """Inverse of `encode_replicas`."""
    body = _from_json(data)
    sets = {name: _replica_set(value) for name, value in _part(body, "deployments", dict).items()}
    return _build(EndpointReplicas, body, deployments=sets)


def _replica_set(body: Any) -> DeploymentReplicas:
    try:
        replicas = tuple(_build(Replica, one, state=ReplicaState(one["state"])) for one in body.get("replicas", ()))
        phase = Phase(body.get("phase", Phase.PENDING))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Malformed(f"replica set: {error}") from error
    return _build(DeploymentReplicas, body, phase=phase, replicas=replicas)


def decode_shadow(data: bytes) -> ShadowComparison:
    """Inverse of `encode_shadow`."""
    body = _from_json(data)
    sides = {name: _build(Side, body[name]) if body.get(name) is not None else None for name in ("live", "shadow")}
    return _build(ShadowComparison, body, **sides)


def encode_decision(event: Decision) -> bytes:
    """JSON of one decision."""
    return _to_json(dataclasses.replace(event, inputs=dict(event.inputs)))


def decode_decision(data: bytes) -> Decision:
    """Inverse of `encode_decision`."""
    return _build(Decision, _from_json(data))


def encode_snapshot(event: EndpointSnapshot) -> bytes:
    """JSON of one endpoint's snapshot. Raises `TypeError` when its state is no JSON."""
    # Not `_to_json`: it would copy a state of any size first.
    body = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    if not event.incarnation:
        del body["incarnation"]
    return json.dumps(
        {"schema": SCHEMA, **body, "state": dict(event.state)}, separators=(",", ":"), sort_keys=True
    ).encode()


def decode_snapshot(data: bytes) -> EndpointSnapshot:
    """Inverse of `encode_snapshot`."""
    return _build(EndpointSnapshot, _from_json(data))


def encode_folded(event: Folded) -> bytes:
    """JSON of one notice that messages were folded."""
    body = {"schema": SCHEMA, "notice": "folded", **dataclasses.asdict(event)}
    return json.dumps(body, separators=(",", ":"), sort_keys=True).encode()


def decode_folded(data: bytes) -> Folded:
    """Inverse of `encode_folded`; a notice of another kind is `UnknownSchema`, for readers that came before it."""
    body = _from_json(data)
    if body.pop("notice", None) != "folded":
        raise UnknownSchema("only the notice 'folded' is known")
    return _build(Folded, body)


def encode_damaged(event: Damaged) -> bytes:
    """JSON of one notice that a spool was made anew."""
    body = {"schema": SCHEMA, "notice": "damaged", **dataclasses.asdict(event)}
    return json.dumps(body, separators=(",", ":"), sort_keys=True).encode()


def decode_notice(data: bytes) -> Folded | Damaged:
    """A notice of any kind; one of a kind that is not known yet is `UnknownSchema`."""
    body = _from_json(data)
    if body.pop("notice", None) == "damaged":
        return _build(Damaged, body)
    return decode_folded(data)
