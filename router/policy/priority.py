"""Who goes first among those that wait: the higher class, and within a class whoever came first.

Both in one number, so that workers compare what waits by one cell each. A queue without classes has rank 0 throughout: then the
number is the time of arrival.
"""

from __future__ import annotations

from typing import Final

_SHIFT: Final = 60
"""Arrivals are nanoseconds of a clock that began with the machine: 2^60 are 36 years."""
_TIMES: Final = (1 << _SHIFT) - 1


def place(rank: int, arrival: int) -> int:
    """The lower goes first. `rank`: 0 (highest) to 7."""
    return rank << _SHIFT | arrival


def arrival_of(place_: int) -> int:
    """When it came."""
    return place_ & _TIMES


def rank_of(place_: int) -> int:
    """Its class."""
    return place_ >> _SHIFT
