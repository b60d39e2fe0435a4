"""How long a replica that refuses connections is left alone: short at first, doubling, bounded.

The autoscaler is told by its own probes; this only keeps the gateway from sending requests into a wall meanwhile.
"""

from __future__ import annotations

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 3.0


def back_off_seconds(failures: int) -> float:
    """Time out of rotation after `failures` (≥ 1) failures to connect in a row."""
    return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 16))
