"""`requests` as bytes: a table of names, then fixed-size records (kinds 0 and 2) or counts (kind 1). Little-endian.

What many requests have in common is a name and stands in a record as its index. What few requests have is not in the
record at all: such records have a row of details behind all records (kind 2), so that the others do not pay for it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from router.contract.events import NEVER_CAME, CallProfile, Flag, Outcome, RequestCounts, RequestRecord
from router.contract.schema import SCHEMA, Malformed, UnknownSchema

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUESTS_HEADER = struct.Struct("<BBHI")
"""schema, kind, names in the table, records or counts. Then the names (u16 length + bytes), then those."""
RECORDS, COUNTS, DETAILED = 0, 1, 2
"""Kinds of a `requests` message. Before there were kinds, the byte was always 0. `DETAILED` are records of which some have
details: behind the records stand their number (u32) and the rows."""
REQUEST_RECORD = struct.Struct("<QqHHBBHQQIIIHH")
"""sequence, start_ns, status, model_status, outcome, flags, profile (index into the names; older writers left it 0),
request_bytes, response_bytes, wait_us, first_byte_us, total_us, deployment (index into the names), replica (index into the
names). Name 0 is the empty one."""
DETAIL = struct.Struct("<IIHH")
"""record (its index in the message), request_us (`_NEVER` = its last byte never came), refusal (index into the names), 0.
At most one per record, in the order of the records."""
_NEVER = 0xFFFFFFFF
COUNTS_ROW = struct.Struct("<qQQQQQQHH")
"""second, requests, model_errors, failures, request_bytes, response_bytes, total_us_sum, deployment (index into the
names), 0."""
_LENGTH = struct.Struct("<H")
_NUMBER = struct.Struct("<I")


def encode_requests(
    names: Sequence[str], records: bytes | bytearray | memoryview, details: bytes | bytearray = b""
) -> bytes:
    """One message: the interned `names` (index 0 is ''), the records already packed with `REQUEST_RECORD`, and the rows
    already packed with `DETAIL` of those that have any.
    """
    number, rest = divmod(len(details), DETAIL.size)
    if rest:
        raise ValueError(f"{rest} bytes are no whole details")
    message = _encode_table(DETAILED if number else RECORDS, names, records, REQUEST_RECORD.size)
    return message + _NUMBER.pack(number) + details if number else message


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


def encode_profile(profile: CallProfile) -> str:
    """As a name of a message. No field may hold a line feed, which neither a path nor a header field can."""
    one = profile
    return f"{one.method}\n{one.path}\n{one.protocol}\n{one.auth_type}\n{one.user_agent}\n{one.client_request_id}"


def decode_profile(name: str) -> CallProfile:
    """Inverse of `encode_profile`. Fields of a newer writer are left out, those that an older one did not know are empty."""
    if not name:
        return _NO_PROFILE
    method, path, protocol, auth, agent, client, *_ = (*name.split("\n"), "", "", "", "", "")
    return CallProfile(method, path, protocol, auth, agent, client)


_NO_PROFILE = CallProfile()


def is_counts(data: bytes) -> bool:
    """Whether a `requests` message holds counts (for `split_counts`, `decode_counts`) instead of records."""
    return data[:2] == bytes((SCHEMA, COUNTS))


def split_requests(data: bytes) -> tuple[list[str], memoryview]:
    """(names, packed records) of one message, for readers that fold arrays instead of single records."""
    names, records, _ = split_details(data)
    return names, records


def split_details(data: bytes) -> tuple[list[str], memoryview, memoryview]:
    """(names, packed records, packed details) of one message of records."""
    kind, names, count, rest = _read_table(data)
    if kind == COUNTS:
        raise Malformed("counts, not records")
    size = count * REQUEST_RECORD.size
    records, details = rest[:size], rest[size:]
    number = 0
    if kind == DETAILED and len(details) >= _NUMBER.size:
        (number,), details = _NUMBER.unpack_from(details), details[_NUMBER.size :]
    if len(records) != size or len(details) != number * DETAIL.size or (kind == DETAILED and not number):
        raise Malformed(f"{len(rest)} bytes for {count} records and {number} details")
    return names, records, details


def split_counts(data: bytes) -> tuple[list[str], memoryview]:
    """(names, rows packed with `COUNTS_ROW`) of one message of counts."""
    kind, names, count, rows = _read_table(data)
    if kind != COUNTS:
        raise Malformed("records, not counts")
    if len(rows) != count * COUNTS_ROW.size:
        raise Malformed(f"{len(rows)} bytes for {count} records")
    return names, rows


def _read_table(data: bytes) -> tuple[int, list[str], int, memoryview]:
    """(kind, names, records or counts, everything after the names)."""
    if not data or data[0] != SCHEMA:
        raise UnknownSchema(f"only schema {SCHEMA} is known")
    try:
        _, kind, names, count = REQUESTS_HEADER.unpack_from(data)
        if kind not in (RECORDS, COUNTS, DETAILED):
            raise UnknownSchema(f"only the kinds {RECORDS}, {COUNTS} and {DETAILED} of requests are known")
        at = REQUESTS_HEADER.size
        table = []
        for _ in range(names):
            (length,) = _LENGTH.unpack_from(data, at)
            at += _LENGTH.size
            table.append(data[at : at + length].decode())
            at += length
    except (struct.error, UnicodeDecodeError) as error:
        raise Malformed(str(error)) from error
    return kind, table, count, memoryview(data)[at:]


def decode_requests(data: bytes) -> list[RequestRecord]:
    """Every record of one `requests` message."""
    names, records, details = split_details(data)
    decoded = []
    profiles: dict[int, CallProfile] = {}
    try:
        further = {
            record: (NEVER_CAME if late == _NEVER else late, names[code])
            for record, late, code, _ in DETAIL.iter_unpack(details)
        }
        for at, fields in enumerate(REQUEST_RECORD.iter_unpack(records)):
            sequence, start, status, model, outcome, flags, profile, got, given, wait, first, total, name, replica = (
                fields
            )
            known = profiles.get(profile)
            if known is None:
                known = profiles[profile] = decode_profile(names[profile])
            late, code = further.get(at, (0, ""))
            outcome, flags = Outcome(outcome), Flag(flags)
            decoded.append(
                RequestRecord(
                    sequence, start, names[name], status, model, outcome, flags, got, given, wait, first, total,
                    names[replica], late, code, known,
                )
            )  # fmt: skip
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
