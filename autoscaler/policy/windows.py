"""Sums per time bucket for a whole fleet: one row per deployment, its own bucket width, a ring of buckets.

A slot remembers which bucket it holds, so adding is commutative: late sums find their bucket or, when the ring has
gone past it, are dropped whatever the order was. Reading masks what is too old. Times are Unix nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

WINDOW_BUCKETS = 20
"""Scale-in looks at this many polling intervals, as azureml-fe does ("20 × the scale-up refresh interval")."""
SLOTS = WINDOW_BUCKETS + 2
"""The window, the bucket that is filling, and one for reports that run ahead."""
EMPTY = -1
"""Bucket number of a slot that has never been used."""


@dataclass(slots=True)
class Ring:
    """`values[quantity, row, plane, slot]`; `buckets[row, slot]` is the bucket (time // width) a slot holds."""

    values: Floats
    buckets: Ints
    width_ns: Ints
    """Per row: length of one bucket."""


def empty_ring(quantities: int, rows: int, planes: int, width_ns: int) -> Ring:
    """A ring in which nothing has been added."""
    return Ring(
        np.zeros((quantities, rows, planes, SLOTS)),
        np.full((rows, SLOTS), EMPTY, np.int64),
        np.full(rows, width_ns, np.int64),
    )


def grown(ring: Ring, rows: int, width_ns: int) -> Ring:
    """The same ring with room for `rows` rows."""
    more = empty_ring(ring.values.shape[0], rows - len(ring.width_ns), ring.values.shape[2], width_ns)
    return replace(
        ring,
        values=np.concatenate([ring.values, more.values], axis=1),
        buckets=np.concatenate([ring.buckets, more.buckets]),
        width_ns=np.concatenate([ring.width_ns, more.width_ns]),
    )


def cleared(ring: Ring, row: int, width_ns: int) -> None:
    """Forget row `row` and give it buckets of `width_ns`."""
    ring.values[:, row] = 0.0
    ring.buckets[row] = EMPTY
    ring.width_ns[row] = width_ns


def shares(start_ns: int, end_ns: int, width_ns: int) -> Iterator[tuple[int, float]]:
    """(bucket, share) of the span (start, end] over buckets of `width_ns`; the shares add up to 1.

    A span longer than the ring counts whole in the buckets that the ring can hold.
    """
    span = end_ns - start_ns
    if span <= 0:
        yield end_ns // width_ns, 1.0
        return
    last = (end_ns - 1) // width_ns
    first = max(start_ns // width_ns, last - SLOTS + 1)
    for bucket in range(first, last + 1):
        overlap = min(end_ns, (bucket + 1) * width_ns) - max(start_ns, bucket * width_ns)
        yield bucket, overlap / span


def add(ring: Ring, rows: Ints, planes: Ints, buckets: Ints, amounts: Floats) -> None:
    """Add `amounts[quantity, i]` to bucket `buckets[i]` of `rows[i]`, `planes[i]`, in place."""
    slots = buckets % SLOTS
    before = ring.buckets[rows, slots]
    np.maximum.at(ring.buckets, (rows, slots), buckets)
    moved = ring.buckets[rows, slots] > before
    ring.values[:, rows[moved], :, slots[moved]] = 0.0
    fits = ring.buckets[rows, slots] == buckets
    at = (rows[fits], planes[fits], slots[fits])
    for quantity in range(ring.values.shape[0]):
        np.add.at(ring.values[quantity], at, amounts[quantity, fits])


def trailing(ring: Ring, at_ns: Ints) -> Floats:
    """Sums over the one bucket width that ends at `at_ns` (per row): `[quantity, row, plane]`.

    The filling bucket counts whole, the one before it by the part that is still inside.
    """
    current = at_ns // ring.width_ns
    inside = 1.0 - (at_ns % ring.width_ns) / ring.width_ns
    return _bucket(ring, current) + _bucket(ring, current - 1) * inside[None, :, None]


def window_sums(ring: Ring, at_ns: Ints) -> Floats:
    """Sums over the whole window that ends at `at_ns`: `[quantity, row, plane]`."""
    return np.asarray(np.einsum("qrps,rs->qrp", ring.values, _within(ring, at_ns).astype(np.float64)))


def window_peak(ring: Ring, quantity: int, at_ns: Ints) -> Floats:
    """Largest single bucket of the window that ends at `at_ns`: `[row, plane]`."""
    return np.asarray((ring.values[quantity] * _within(ring, at_ns)[:, None, :]).max(axis=-1))


def _bucket(ring: Ring, bucket: Ints) -> Floats:
    rows = np.arange(len(bucket))
    slots = bucket % SLOTS
    held = ring.buckets[rows, slots] == bucket
    return np.asarray(np.where(held[None, :, None], ring.values[:, rows, :, slots].transpose(1, 0, 2), 0.0))


def _within(ring: Ring, at_ns: Ints) -> Bools:
    current = (at_ns // ring.width_ns)[:, None]
    return np.asarray((ring.buckets > current - 1 - WINDOW_BUCKETS) & (ring.buckets <= current + 1))
