"""Messages of `requests` as numpy arrays: the packed record of `router.contract.codec` as a dtype.

Only processes that fold many records import this; the live path has no numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from router.contract.codec import REQUEST_RECORD

Rows = npt.NDArray[Any]

RECORD = np.dtype(
    [
        ("sequence", "<u8"), ("start_ns", "<i8"), ("status", "<u2"), ("model_status", "<u2"), ("outcome", "u1"),
        ("flags", "u1"), ("zero", "<u2"), ("request_bytes", "<u8"), ("response_bytes", "<u8"), ("wait_us", "<u4"),
        ("first_byte_us", "<u4"), ("total_us", "<u4"), ("deployment", "<u2"), ("replica", "<u2"),
    ]
)  # fmt: skip
"""`codec.REQUEST_RECORD`."""
if RECORD.itemsize != REQUEST_RECORD.size:
    raise AssertionError("the dtype is not the layout of the codec")


class Table(NamedTuple):
    """The records of many messages in one array, and their name tables one after another as one table."""

    records: Rows
    """As `RECORD`."""
    places: npt.NDArray[np.int64]
    """Per record, where in all names together its deployment's name stands."""
    begins: npt.NDArray[np.int64]
    """Per message, where in all names together its own begin."""
    broken: list[int]
    """Messages of which a record names a deployment beyond its table; their places mean nothing."""


def table_of(parts: Sequence[tuple[Sequence[str], memoryview]]) -> Table:
    """Messages as split by `codec.split_requests`, as one: what it costs to count many is paid per record, not per message."""
    records = np.frombuffer(b"".join([packed for _, packed in parts]), RECORD)
    sizes = np.array([len(names) for names, _ in parts], np.int64)
    lengths = np.array([len(packed) for _, packed in parts], np.int64) // RECORD.itemsize
    begins = np.cumsum(sizes) - sizes
    deployments = records["deployment"]
    foreign = deployments >= np.repeat(sizes, lengths)
    broken = np.repeat(np.arange(len(parts)), lengths)[foreign] if foreign.any() else foreign[:0]
    return Table(records, deployments + np.repeat(begins, lengths), begins, sorted(set(broken.tolist())))
