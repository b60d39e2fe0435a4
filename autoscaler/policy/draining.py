"""When a victim may go: every live gateway routes without it and has nothing in flight there.

A gateway that has fallen silent no longer counts, unless its last word was that it holds requests there: then only
the deployment's own `drain_seconds` ends the wait. A mirror holds a drain up for moments only.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from autoscaler.policy.demand import Word

MIRROR_SECONDS = 3.0
"""Longest time a mirror may hold up a drain: shadows can be lost, live requests cannot."""
SETTLE_SECONDS = 1.0
"""Wait when no gateway is known to live, and for one that fell silent before: its words may be on their way."""


@dataclass(frozen=True, slots=True)
class Drain:
    """One victim on its way out."""

    since_ns: int
    version: int
    """`EndpointReplicas.version` that first said so."""
    removing: bool = False
    """The backend has been told to end it: there is no way back."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who routes by one endpoint's `replicas`, as far as demand reports tell."""

    words: Mapping[str, Word] = field(default_factory=dict)
    """Writer → its last word about the endpoint."""
    spoke_ns: Mapping[str, int] = field(default_factory=dict)
    """Writer → when it last spoke about anything."""
    mirrors: AbstractSet[str] = frozenset()
    silent_seconds: float = 10.0
    """After this long without a word a gateway no longer counts."""


def may_remove(replica: str, drain: Drain, listeners: Listeners, drain_seconds: float, now_ns: int) -> bool:
    """Whether `replica` can be ended without losing a request, or has been waited for long enough."""
    if drain.removing:
        return True
    waited = (now_ns - drain.since_ns) / 1e9
    if waited >= drain_seconds:
        return True
    alive = {
        writer
        for writer, at_ns in listeners.spoke_ns.items()
        if writer not in listeners.mirrors and (now_ns - at_ns) / 1e9 <= listeners.silent_seconds
    }
    if not alive and waited < SETTLE_SECONDS:
        return False
    unheard = alive - set(listeners.words)
    if unheard and waited <= listeners.silent_seconds:
        return False
    return not any(_holds(replica, drain, word, listeners, now_ns) for word in listeners.words.values())


def _holds(replica: str, drain: Drain, word: Word, listeners: Listeners, now_ns: int) -> bool:
    waited = (now_ns - drain.since_ns) / 1e9
    in_flight = word.draining.get(replica, 0) > 0
    acknowledged = word.replicas_version >= drain.version
    if word.shadow:
        return waited < MIRROR_SECONDS and (in_flight or not acknowledged)
    if in_flight:
        return True
    return not acknowledged and (now_ns - max(word.at_ns, drain.since_ns)) / 1e9 <= _patience(word, drain, listeners)


def _patience(word: Word, drain: Drain, listeners: Listeners) -> float:
    """Seconds without a word after which a gateway no longer counts; one that was gone already is not waited for anew."""
    gone = (drain.since_ns - word.at_ns) / 1e9 > listeners.silent_seconds
    return SETTLE_SECONDS if gone else listeners.silent_seconds
