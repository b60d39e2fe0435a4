"""`demand` as bytes: header, endpoint, rows with their names and histograms, draining replicas. Little-endian."""

from __future__ import annotations

import struct

from router.contract.events import BUCKETS, DemandReport, DemandRow
from router.contract.schema import SCHEMA, Malformed, UnknownSchema

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
