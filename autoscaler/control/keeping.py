"""What has to outlive this process goes to the topic `snapshots`: each endpoint's picture with its place in the log.

A picture is drawn right after a turn, when everything read is folded, so that picture and place belong together. One
about which something was decided is written at once, others now and then, a few per turn. Besides, each partition keeps
notes of where it stood when, for endpoints that have no picture: they begin some minutes ago, not a day. A place in a
topic that was made anew since is its beginning.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from autoscaler.control.reconciler import Reconciler
from router.contract.codec import encode_snapshot
from router.contract.events import DEMAND, SNAPSHOTS, EndpointSnapshot
from router.runtime.log.base import Log, Position

KEEP_NS = 10 * 10**9
"""Between two pictures of an endpoint about which nothing was decided."""
NOTE_NS = 30 * 10**9
"""Between two notes of where a partition stood."""
REPLAY_NS = 600 * 10**9
"""How far back demand is read for an endpoint without a usable picture: longer than the default idle time."""
MOST = 32
"""Pictures per turn, a quarter of a millisecond each."""
MOST_URGENT = 128
"""Pictures per turn when something was decided about so many endpoints at once, as at the first start."""
NOTES_SHAPE = 1


class Note(NamedTuple):
    """At `at_ns`, everything before `offset` had been read."""

    at_ns: int
    offset: int


def notes_key(partition: int) -> str:
    """The key under which a partition's notes are kept: no endpoint can have this name."""
    return f"#{partition}"


def read_notes(kept: EndpointSnapshot) -> tuple[Note, ...]:
    """The notes in a message of `notes_key`. Raises `ValueError` for what makes no sense."""
    found = kept.state.get("notes")
    if kept.state.get("shape") != NOTES_SHAPE or not isinstance(found, list):
        raise ValueError("notes of an unknown shape")
    notes = []
    for one in found:
        match one:
            case [int(at_ns), int(offset)]:
                notes.append(Note(at_ns, offset))
            case _:
                raise ValueError(f"{one!r:.60} is no note")
    return tuple(notes)


def newest_incarnation(kept: Sequence[EndpointSnapshot]) -> str:
    """Which topic the newest of these messages about one partition has its place in."""
    return max(kept, key=lambda one: one.at_ns).incarnation if kept else ""


def start_of(
    kept: Sequence[EndpointSnapshot], without: bool, notes: Iterable[Note], now_ns: int, incarnation: str = ""
) -> int | None:
    """Where to begin to read a partition; None = at its beginning.

    `kept`: the usable pictures of its endpoints. `without`: whether there are endpoints that have none. `incarnation`:
    of the place, and of `notes`.
    """
    since_ns = now_ns - REPLAY_NS
    old = max((note.offset for note in notes if note.at_ns <= since_ns), default=None)
    places = [one.offset if one.incarnation == incarnation else 0 for one in kept]
    if not places and not without:
        return max((note.offset for note in notes), default=None)
    if without or (old is not None and min(places) < old):
        return old
    return min(places)


class Keeper:
    """Writes pictures and notes."""

    def __init__(self, log: Log, reconciler: Reconciler, position_of: Callable[[int], Position | None]) -> None:
        """`position_of`: partition → place of the next demand message to read, None when that is not known."""
        self._log = log
        self._reconciler = reconciler
        self._position_of = position_of
        self._urgent: set[str] = set()
        self._waiting: set[str] = set()
        self._kept_ns: dict[str, int] = {}
        self._notes: dict[int, tuple[str, list[Note]]] = {}
        """Partition → incarnation and places in it."""

    def recall(self, notes: Mapping[int, tuple[str, Iterable[Note]]]) -> None:
        """What was noted about partitions before they were ours: partition → incarnation and places in it."""
        self._notes.update({partition: (of, list(some)) for partition, (of, some) in notes.items()})

    def keep(self, now_ns: int, *, everything: bool = False) -> None:
        """Write what is due, or all that has changed. Never waits. Everything heard has to be folded."""
        reconciler = self._reconciler
        acts_for = reconciler.territory.acts_for
        self._urgent = {one for one in self._urgent | reconciler.turned if acts_for(one)}
        self._waiting = {one for one in self._waiting | reconciler.touched if acts_for(one)} - self._urgent
        reconciler.touched, reconciler.turned = set(), set()
        if everything:
            self._write([*self._urgent, *self._waiting], now_ns)
        elif self._urgent:
            self._write(list(itertools.islice(self._urgent, MOST_URGENT)), now_ns)
        else:
            due = sorted(
                (at_ns, one)
                for one in self._waiting
                if now_ns - (at_ns := self._kept_ns.get(one, 0)) >= KEEP_NS or at_ns > now_ns
            )
            self._write([one for _, one in due[:MOST]], now_ns)
        for partition in reconciler.territory.acting:
            self._note(partition, now_ns)

    def _write(self, endpoints: list[str], now_ns: int) -> None:
        for endpoint, state in self._reconciler.pictures(endpoints).items() if endpoints else ():
            self._urgent.discard(endpoint)
            self._waiting.discard(endpoint)
            self._kept_ns[endpoint] = now_ns
            partition = self._reconciler.territory.partition(endpoint)
            generation = self._reconciler.territory.generation(endpoint)
            place = self._position_of(partition) or Position(DEMAND, partition, 0)
            kept = EndpointSnapshot(endpoint, now_ns, generation, partition, place.offset, state, place.incarnation)
            self._append(kept)

    def _note(self, partition: int, now_ns: int) -> None:
        place = self._position_of(partition)
        if place is None:
            return
        incarnation, notes = self._notes.get(partition, (place.incarnation, []))
        if incarnation != place.incarnation:
            notes = []
        if notes and (notes[-1].offset == place.offset or 0 <= now_ns - notes[-1].at_ns < NOTE_NS):
            return
        since_ns = now_ns - REPLAY_NS
        old = [one for one in notes if one.at_ns <= since_ns][-1:]
        notes = [*old, *(one for one in notes if since_ns < one.at_ns < now_ns), Note(now_ns, place.offset)]
        self._notes[partition] = place.incarnation, notes
        state = {"shape": NOTES_SHAPE, "notes": [list(one) for one in notes]}
        key = notes_key(partition)
        self._append(EndpointSnapshot(key, now_ns, 0, partition, place.offset, state, place.incarnation))

    def _append(self, event: EndpointSnapshot) -> None:
        self._log.append(SNAPSHOTS, event.endpoint, encode_snapshot(event))
