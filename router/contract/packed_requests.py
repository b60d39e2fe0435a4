"""`requests` as bytes: a table of names, then fixed-size records (kind 0) or counts (kind 1). Little-endian."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from router.contract.events import Flag, Outcome, RequestCounts, RequestRecord
from router.contract.schema import SCHEMA, Malformed, UnknownSchema

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUESTS_HEADER = struct.Struct("<BBHI")
"""schema, kind, names in the table, records or counts. Then the names (u16 length + bytes), then those."""
RECORDS, COUNTS = 0, 1
"""Kinds of a `requests` message. Before there were kinds, the byte was always 0."""
REQUEST_RECORD = struct.Struct("<QqHHBBHQQIIIHH")
"""sequence, start_ns, status, model_status, outcome, flags, 0, request_bytes, response_bytes, wait_us, first_byte_us,
total_us, deployment (index into the names), replica (index into the names). Name 0 is the empty one."""
COUNTS_ROW = struct.Struct("<qQQQQQQHH")
"""second, requests, model_errors, failures, request_bytes, response_bytes, total_us_sum, deployment (index into the
names), 0."""
_LENGTH = struct.Struct("<H")


def encode_requests(names: Sequence[str], records: bytes | bytearray | memoryview) -> bytes:
    """One message: the interned `names` (index 0 is '') and the records already packed with `REQUEST_RECORD`."""
    return _encode_table(RECORDS, names, records, REQUEST_RECORD.size)


def _encode_table(kind: int, names: Sequence[str], rows: bytes | bytearray | memoryview, size: int) -> bytes:
    count, rest = divmod(len(rows), size)
    if rest:
        raise ValueError(f"{rest} bytes are no whole record")
    out = bytearray(REQUESTS_HEADER.pack(SCHEMA, kind, len(names), count))
    for name in names:
        encoded = name.encode()
        out += _LENGTH.pack(len(encoded)) + encoded
    out += rows
    return bytes(out)


def is_counts(data: bytes) -> bool:
    """Whether a `requests` message holds counts (for `split_counts`, `decode_counts`) instead of records."""
    return data[:2] == bytes((SCHEMA, COUNTS))


def split_requests(data: bytes) -> tuple[list[str], memoryview]:
    """(names, packed records) of one message, for readers that fold arrays instead of single records."""
    return _split_table(data, RECORDS, REQUEST_RECORD.size)


def split_counts(data: bytes) -> tuple[list[str], memoryview]:
    """(names, rows packed with `COUNTS_ROW`) of one message of counts."""
    return _split_table(data, COUNTS, COUNTS_ROW.size)


def _split_table(data: bytes, kind: int, size: int) -> tuple[list[str], memoryview]:
    if not data or data[0] != SCHEMA:
        raise UnknownSchema(f"only schema {SCHEMA} is known")
    try:
        _, found, names, count = REQUESTS_HEADER.unpack_from(data)
        if found not in (RECORDS, COUNTS):
            raise UnknownSchema(f"only the kinds {RECORDS} and {COUNTS} of requests are known")
        if found != kind:
            raise Malformed("counts, not records" if found == COUNTS else "records, not counts")
        at = REQUESTS_HEADER.size
        table = []
        for _ in range(names):
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            table.append(data[at : at + length].decode())
            at += length
    except (struct.error, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
    rows = memoryview(data)[at:]
    if len(rows) != count * size:
        raise Malformed(f"{len(rows)} bytes for {count} records")
    return table, rows


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


def encode_counts(rows: Sequence[RequestCounts]) -> bytes:
    """One `requests` message of counts, in the order given."""
    names = {"": 0}
    packed = bytearray()
    for row in rows:
        packed += COUNTS_ROW.pack(
            row.second,
            row.requests,
            row.model_errors,
            row.failures,
            row.request_bytes,
            row.response_bytes,
            row.total_us_sum,
            names.setdefault(row.deployment, len(names)),
            0,
        )
    return _encode_table(COUNTS, list(names), packed, COUNTS_ROW.size)


def decode_counts(data: bytes) -> list[RequestCounts]:
    """Inverse of `encode_counts`."""
    names, rows = split_counts(data)
    try:
        return [
            RequestCounts(names[name], second, *counts) for second, *counts, name, _ in COUNTS_ROW.iter_unpack(rows)
        ]
    except IndexError as error:
        raise Malformed(str(error)) from error
