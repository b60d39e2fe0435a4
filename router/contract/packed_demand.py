"""`demand` as bytes: header, endpoint, rows with their names and histograms, draining replicas. Little-endian."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from router.contract.events import BUCKETS, DemandReport, DemandRow
from router.contract.schema import SCHEMA, Malformed, UnknownSchema

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    return pack_demand(
        report.endpoint,
        report.start_ns,
        report.end_ns,
        report.revision,
        report.replicas_version,
        [_encode_row(row) for row in report.rows],
        report.draining,
        shadow=report.shadow,
    )


def _encode_row(row: DemandRow) -> bytes:
    counts = (row.arrivals, row.completions, row.errors, row.rejected, row.in_flight, row.queued)
    seconds = (row.oldest_wait_seconds, row.busy_seconds)
    return pack_demand_row(row.deployment, counts, seconds, row.latency, row.wait, row.tokens, shadow=row.shadow)


def pack_demand(  # noqa: PLR0917 -- for every report, as are the row's
    endpoint: str, start_ns: int, end_ns: int, revision: int, replicas_version: int, rows: Sequence[bytes],
    draining: Sequence[tuple[str, int]], *, shadow: bool = False,
) -> bytes:  # fmt: skip
    """The same of what has not been put together as a report before; `rows` as `pack_demand_row` makes them."""
    name = endpoint.encode()
    numbers = (SCHEMA, int(shadow), len(rows), len(draining), len(name), start_ns, end_ns, revision, replicas_version)
    pieces = [DEMAND_HEADER.pack(*numbers), name, *rows]
    for replica, in_flight in draining:
        name = replica.encode()
        pieces += (DRAINING.pack(len(name), in_flight), name)
    return b"".join(pieces)


def pack_demand_row(  # noqa: PLR0917
    deployment: str, counts: tuple[int, int, int, int, int, int], seconds: tuple[float, float], latency: Sequence[int],
    wait: Sequence[int], tokens: int = 0, *, shadow: bool = False,
) -> bytes:  # fmt: skip
    """One deployment's part. `counts`: arrivals, completions, errors, rejected, in flight, queued; `seconds`: that the oldest
    has waited, and busy ones. The histograms have `BUCKETS` numbers each, or none.
    """
    name = deployment.encode()
    flags = int(shadow) | (2 if latency else 0) | (4 if wait else 0)
    row = DEMAND_ROW.pack(flags, 0, len(name), *counts, *seconds, tokens) + name
    if latency:
        row += HISTOGRAM.pack(*latency)
    return row + HISTOGRAM.pack(*wait) if wait else row


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
