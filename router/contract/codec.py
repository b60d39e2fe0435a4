"""Bytes ↔ events. Every format has a schema version; readers skip versions they do not know (`UnknownSchema`).

`demand` and `requests` are packed little-endian, because there are many of them; the rest is JSON, because people
read it. Golden files of every version stand in `tests/golden`.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from typing import TYPE_CHECKING, Any, TypeVar

from router.contract.events import (
    BUCKETS,
    Decision,
    DemandReport,
    DemandRow,
    DeploymentReplicas,
    EndpointReplicas,
    EndpointRevision,
    Flag,
    Outcome,
    Phase,
    Replica,
    ReplicaState,
    RequestRecord,
    ShadowComparison,
    Side,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

E = TypeVar("E")
P = TypeVar("P", dict[str, Any], list[Any])

SCHEMA = 1
"""The version this code writes, for every topic."""


class UnknownSchema(ValueError):
    """A message of a version this reader does not know: skip it and count it."""


class Malformed(ValueError):
    """A message whose bytes do not make an event: skip it and count it."""


def _to_json(event: Any) -> bytes:
    body = {"schema": SCHEMA, **dataclasses.asdict(event)}
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
    """JSON of one endpoint revision."""
    return _to_json(_plain(event))


def _plain(event: EndpointRevision) -> EndpointRevision:
    documents = {name: dict(document) for name, document in event.deployments.items()}
    return dataclasses.replace(
        event, document=dict(event.document), deployments=documents, restarts=dict(event.restarts)
    )


def decode_specs(data: bytes) -> EndpointRevision:
    """Inverse of `encode_specs`."""
    body = _from_json(data)
    hashes = _part(body, "key_hashes", list)
    if not all(isinstance(one, str) for one in hashes):
        raise Malformed("key_hashes are strings")
    if not all(isinstance(one, dict) for one in _part(body, "deployments", dict).values()):
        raise Malformed("deployments are documents")
    return _build(EndpointRevision, body, key_hashes=tuple(hashes))


def encode_replicas(event: EndpointReplicas) -> bytes:
    """JSON of every replica of one endpoint."""
    return _to_json(dataclasses.replace(event, deployments=dict(event.deployments)))


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


def encode_shadow(event: ShadowComparison) -> bytes:
    """JSON of one shadow's end."""
    return _to_json(event)


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


# demand: header, names, rows, histograms, draining replicas -----------------------------------------------------

DEMAND_HEADER = struct.Struct("<BBHHHqqqq")
"""schema, flags (1 = shadow reporter), rows, draining, endpoint length, start, end, revision, replicas version."""
DEMAND_ROW = struct.Struct("<BBHIIIIIIddQ")
"""flags (1 = shadow, 2 = has latency, 4 = has wait), 0, name length, arrivals, completions, errors, rejected,
in_flight, queued, oldest_wait_seconds, busy_seconds, tokens; then the name; then the histograms, 64 × u32 each."""
HISTOGRAM = struct.Struct(f"<{BUCKETS}I")
DRAINING = struct.Struct("<HI")
"""id length, in_flight; then the id."""


def encode_demand(report: DemandReport) -> bytes:
    """Packed bytes of one demand report."""
    endpoint = report.endpoint.encode()
    out = bytearray(
        DEMAND_HEADER.pack(
            SCHEMA,
            int(report.shadow),
            len(report.rows),
            len(report.draining),
            len(endpoint),
            report.start_ns,
            report.end_ns,
            report.revision,
            report.replicas_version,
        )
    )
    out += endpoint
    for row in report.rows:
        name = row.deployment.encode()
        flags = int(row.shadow) | (2 if row.latency else 0) | (4 if row.wait else 0)
        out += DEMAND_ROW.pack(
            flags,
            0,
            len(name),
            row.arrivals,
            row.completions,
            row.errors,
            row.rejected,
            row.in_flight,
            row.queued,
            row.oldest_wait_seconds,
            row.busy_seconds,
            row.tokens,
        )
        out += name
        for histogram in (row.latency, row.wait):
            if histogram:
                out += HISTOGRAM.pack(*histogram)
    for replica, in_flight in report.draining:
        name = replica.encode()
        out += DRAINING.pack(len(name), in_flight) + name
    return bytes(out)


def decode_demand(data: bytes) -> DemandReport:
    """Inverse of `encode_demand`."""
    if not data or data[0] != SCHEMA:
        raise UnknownSchema(f"only schema {SCHEMA} is known")
    try:
        _, flags, rows, draining, length, start, end, revision, version = DEMAND_HEADER.unpack_from(data)
        at = DEMAND_HEADER.size
        endpoint = data[at : at + length].decode()
        at += length
        decoded = []
        for _ in range(rows):
            row, at = _decode_row(data, at)
            decoded.append(row)
        drains = []
        for _ in range(draining):
            size, in_flight = DRAINING.unpack_from(data, at)
            at += DRAINING.size
            drains.append((data[at : at + size].decode(), in_flight))
            at += size
    except (struct.error, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
    if at != len(data):
        raise Malformed(f"{len(data) - at} bytes after the end")
    return DemandReport(
        endpoint, start, end, revision, version, shadow=bool(flags & 1), rows=tuple(decoded), draining=tuple(drains)
    )


def _decode_row(data: bytes, at: int) -> tuple[DemandRow, int]:
    flags, _, length, *counts, oldest, busy, tokens = DEMAND_ROW.unpack_from(data, at)
    at += DEMAND_ROW.size
    name = data[at : at + length].decode()
    at += length
    histograms: list[tuple[int, ...]] = [(), ()]
    for index, bit in enumerate((2, 4)):
        if flags & bit:
            histograms[index] = HISTOGRAM.unpack_from(data, at)
            at += HISTOGRAM.size
    arrivals, completions, errors, rejected, in_flight, queued = counts
    row = DemandRow(
        name,
        bool(flags & 1),
        arrivals,
        completions,
        errors,
        rejected,
        in_flight,
        queued,
        oldest,
        busy,
        tokens,
        latency=histograms[0],
        wait=histograms[1],
    )
    return row, at


# requests: a name table, then fixed-size records ------------------------------------------------------------------

REQUESTS_HEADER = struct.Struct("<BBHI")
"""schema, 0, names in the table, records. Then the names (u16 length + bytes), then the records."""
REQUEST_RECORD = struct.Struct("<QqHHBBHQQIIIHH")
"""sequence, start_ns, status, model_status, outcome, flags, 0, request_bytes, response_bytes, wait_us, first_byte_us,
total_us, deployment (index into the names), replica (index into the names). Name 0 is the empty one."""
_LENGTH = struct.Struct("<H")


def encode_requests(names: Sequence[str], records: bytes | bytearray | memoryview) -> bytes:
    """One message: the interned `names` (index 0 is '') and the records already packed with `REQUEST_RECORD`."""
    count, rest = divmod(len(records), REQUEST_RECORD.size)
    if rest:
        raise ValueError(f"{rest} bytes are no whole record")
    out = bytearray(REQUESTS_HEADER.pack(SCHEMA, 0, len(names), count))
    for name in names:
        encoded = name.encode()
        out += _LENGTH.pack(len(encoded)) + encoded
    out += records
    return bytes(out)


def split_requests(data: bytes) -> tuple[list[str], memoryview]:
    """(names, packed records) of one message, for readers that fold arrays instead of single records."""
    if not data or data[0] != SCHEMA:
        raise UnknownSchema(f"only schema {SCHEMA} is known")
    try:
        _, _, names, count = REQUESTS_HEADER.unpack_from(data)
        at = REQUESTS_HEADER.size
        table = []
        for _ in range(names):
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            table.append(data[at : at + length].decode())
            at += length
    except (struct.error, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
    records = memoryview(data)[at:]
    if len(records) != count * REQUEST_RECORD.size:
        raise Malformed(f"{len(records)} bytes for {count} records")
    return table, records


def decode_requests(data: bytes) -> list[RequestRecord]:
    """Every record of one `requests` message."""
    names, records = split_requests(data)
    decoded = []
    try:
        for fields in REQUEST_RECORD.iter_unpack(records):
            sequence, start, status, model, outcome, flags, _, sent, received, wait, first, total, name, replica = (
                fields
            )
            decoded.append(
                RequestRecord(
                    sequence,
                    start,
                    names[name],
                    status,
                    model,
                    Outcome(outcome),
                    Flag(flags),
                    sent,
                    received,
                    wait,
                    first,
                    total,
                    names[replica],
                )
            )
    except (IndexError, ValueError) as error:
        raise Malformed(str(error)) from error
    return decoded
