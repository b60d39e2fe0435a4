"""From bytes to facts: specs, everybody's `replicas` and snapshots whole; demand of the followed partitions from where
their snapshots end, and what is handed over past the log.

A message that a snapshot holds already is known by its id, so it never matters how far back reading begins. What cannot
be read is left out and counted; for an endpoint whose snapshot cannot be, the last minutes of demand stand in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from autoscaler.control.keeping import REPLAY_NS, Note, newest_incarnation, notes_key, read_notes, start_of
from autoscaler.control.reconciler import Reconciler
from autoscaler.policy.demand import Heard
from router.contract.codec import (
    Malformed,
    UnknownSchema,
    decode_demand,
    decode_replicas,
    decode_snapshot,
    decode_specs,
    encode_replicas,
)
from router.contract.errors import Unavailable
from router.contract.events import DEMAND, REPLICAS, SNAPSHOTS, SPECS, EndpointSnapshot
from router.contract.handover import Handed
from router.runtime.log.base import Log, Message, Position, Reader, ReaderStats

_LOG = logging.getLogger(__name__)

FACTS = (SPECS, REPLICAS)
CATCH_UP_SECONDS = 0.1
"""Between two questions whether everything has been read."""


@dataclass(slots=True)
class IntakeStats:
    """What was noticed since this process began to read."""

    messages: int = 0
    """By the log."""
    direct: int = 0
    """Past the log."""
    gaps: int = 0
    """Demand messages that a writer counted and nobody saw."""
    duplicates: int = 0
    """Demand messages that came again the same way."""
    echoes: int = 0
    """Demand messages that came the second way too."""
    held: int = 0
    """Demand messages that were read again and were in a snapshot."""
    skipped: int = 0
    """Messages of a version or shape that this reader does not know."""
    restored: int = 0
    """Endpoints that began with what their snapshot held."""
    snapshots_skipped: int = 0
    """Snapshots that could not be used."""
    fenced: int = 0
    """Endpoints left to a newer owner."""
    outdone: int = 0
    """Words of an earlier owner that came late and were answered."""


@dataclass(slots=True)
class Kept:
    """What was kept in the log about endpoints and partitions."""

    snapshots: dict[str, EndpointSnapshot] = field(default_factory=dict)
    notes: dict[int, tuple[EndpointSnapshot, tuple[Note, ...]]] = field(default_factory=dict)
    """Partition → the message, and the notes in it."""


class Intake:
    """The readers of the log and the reconciler they feed."""

    def __init__(self, log: Log, reconciler: Reconciler) -> None:
        self.level = asyncio.Event()
        """Set while nothing that was there before reading (re)started is left to read."""
        self._log = log
        self._reconciler = reconciler
        self._stats = IntakeStats()
        self._closed_readers = ReaderStats()
        self._demand: Reader | None = None
        self._facts_from: Sequence[Position] = ()
        self._offsets: dict[int, int] = {}
        self._incarnations: dict[int, str] = {}
        """Partition → which topic its offset is in, as far as anybody can tell."""
        self._held_until: dict[str, int] = {}
        """Restored endpoint → offset before which everything is in its snapshot."""
        self._from_ns: dict[int, int] = {}
        """Partition being caught up with → how far back endpoints without a snapshot are heard."""
        self.open = False
        """Whether it is known whose endpoints are ours, if any."""

    @property
    def stats(self) -> IntakeStats:
        """The figures as of now."""
        found, state, rivals = self._stats, self._reconciler.demand, self._reconciler.planner.rivals
        found.gaps = self._closed_readers.gaps + (self._demand.stats.gaps if self._demand else 0)
        found.duplicates, found.echoes = state.duplicates, state.echoes
        found.fenced, found.outdone = rivals.fenced, rivals.outdone
        return found

    def noticed(self) -> ReaderStats:
        """What the readers of demand noticed, those that have ended too."""
        whole = ReaderStats()
        for stats in (self._closed_readers, *((self._demand.stats,) if self._demand else ())):
            whole.add(stats)
        return whole

    def position(self, partition: int) -> Position | None:
        """Place of the next demand message to read; None when nobody knows where that is."""
        if partition not in self._offsets:
            return None
        return Position(DEMAND, partition, self._offsets[partition], self._incarnations.get(partition, ""))

    # compacted topics --------------------------------------------------------------------------------------------

    async def load(self) -> Kept:
        """Read the compacted topics whole: facts into the reconciler, and what was kept."""
        kept = Kept()
        reader = await self._log.reader((*FACTS, SNAPSHOTS))
        try:
            while not await reader.caught_up():
                for message in await reader.next(CATCH_UP_SECONDS):
                    self._take(message, kept)
            self._facts_from = [one for one in reader.positions() if one.topic in FACTS]
        finally:
            await reader.close()
        return kept

    async def follow_facts(self, news: Callable[[bool], None]) -> None:
        """Read facts for ever, from where `load` ended; `news` says whether a decision should not wait."""
        reader = await self._log.reader(FACTS, self._facts_from or "earliest")
        try:
            while True:
                urgent = [self._take(message, None) for message in await reader.next(None)]
                news(any(urgent))
        finally:
            await reader.close()

    def _take(self, message: Message, kept: Kept | None) -> bool:
        try:
            if message.topic == SPECS:
                self._reconciler.take_specs(decode_specs(message.value))
                return True
            if message.topic == REPLICAS:
                own = message.writer == self._log.writer
                again = kept is not None
                self._reconciler.take_replicas(decode_replicas(message.value), own=own, again=again)
            elif kept is not None:
                self._keep(decode_snapshot(message.value), kept)
        except (UnknownSchema, Malformed) as error:
            self._skip(message, error)
        return False

    def _keep(self, one: EndpointSnapshot, kept: Kept) -> None:
        try:
            if one.endpoint == notes_key(one.partition):
                kept.notes[one.partition] = one, read_notes(one)
                return
        except ValueError as error:
            raise Malformed(str(error)) from error
        if one.partition != self._reconciler.territory.partition(one.endpoint):
            raise Malformed(f"{one.endpoint} is in another partition than {one.partition}")
        known = kept.snapshots.get(one.endpoint)
        if known is None or one.generation >= known.generation:
            kept.snapshots[one.endpoint] = one

    def _skip(self, message: Message | Handed, error: Exception) -> None:
        topic = message.topic if isinstance(message, Message) else DEMAND
        self._stats.skipped += 1
        self._stats.snapshots_skipped += topic == SNAPSHOTS
        place = {"endpoint": message.key, "writer": message.writer, "sequence": message.sequence}
        _LOG.warning("a message on %s was skipped: %s", topic, error, extra=place)

    # demand ------------------------------------------------------------------------------------------------------

    def settle(self, partitions: Collection[int], kept: Kept, now_ns: int) -> None:
        """Follow exactly `partitions` from now on; what is new among them begins with what was `kept`."""
        territory = self._reconciler.territory
        lost, new = territory.followed - frozenset(partitions), frozenset(partitions) - territory.followed
        self._reconciler.drop(lost)
        for partition in lost:
            self._offsets.pop(partition, None)
            self._incarnations.pop(partition, None)
            self._from_ns.pop(partition, None)
        restored, unreadable = self._reconciler.follow(new, kept.snapshots)
        for endpoint, reason in unreadable.items():
            _LOG.warning("the snapshot of %s is left out: %s", endpoint, reason)
        self._stats.restored += len(restored)
        self._stats.snapshots_skipped += len(unreadable)
        usable = {endpoint: kept.snapshots[endpoint] for endpoint in restored}
        for partition in new:
            self._begin(partition, usable, kept.notes.get(partition), now_ns)
        self.open = True

    def _begin(
        self,
        partition: int,
        usable: Mapping[str, EndpointSnapshot],
        noted: tuple[EndpointSnapshot, Sequence[Note]] | None,
        now_ns: int,
    ) -> None:
        reconciler = self._reconciler
        alive = {
            endpoint
            for endpoint, revision in reconciler.fleet.revisions.items()
            if not revision.deleted and reconciler.territory.partition(endpoint) == partition
        }
        pictures = [usable[one] for one in alive if one in usable]
        incarnation = newest_incarnation([*pictures, *(noted[:1] if noted else ())])
        notes = noted[1] if noted and noted[0].incarnation == incarnation else ()
        offset = start_of(pictures, not alive <= usable.keys(), notes, now_ns, incarnation)
        if offset is not None:
            self._offsets[partition], self._incarnations[partition] = offset, incarnation
        self._from_ns[partition] = now_ns - REPLAY_NS
        for endpoint, one in usable.items():
            if one.partition == partition:
                self._held_until[endpoint] = one.offset

    async def follow_demand(self, news: Callable[[bool], None]) -> None:
        """Read demand of the followed partitions for ever; begin anew, in a new task, when these have changed."""
        self.level.clear()
        partitions = self._reconciler.territory.followed
        start = [place for one in partitions if (place := self.position(one)) is not None]
        reader = self._demand = await self._log.reader((DEMAND,), start or "earliest", partitions)
        try:
            while not await reader.caught_up():
                messages = await reader.next(CATCH_UP_SECONDS)
                if messages:
                    news(self._hear(messages, reader))
            self._from_ns.clear()
            self._held_until.clear()
            self.level.set()
            while True:
                news(self._hear(await reader.next(None), reader))
        finally:
            self._demand = None
            self._closed_readers.add(reader.stats)
            await reader.close()

    def _hear(self, messages: Sequence[Message], reader: Reader) -> bool:
        self._incarnations.update((one.partition, one.incarnation) for one in reader.positions())
        # Every message has to be taken, so no short cut at the first urgent one.
        return sum([self._hear_one(message) for message in messages]) > 0

    def _hear_one(self, message: Message) -> bool:
        self._stats.messages += 1
        self._offsets[message.partition] = message.offset + 1
        if not self._wanted(message):
            return False
        try:
            report = decode_demand(message.value)
        except (UnknownSchema, Malformed) as error:
            self._skip(message, error)
            return False
        return self._reconciler.take_demand(Heard(message.writer, message.sequence, report))

    def _wanted(self, message: Message) -> bool:
        """Whether `message` is neither in a snapshot nor from before all memory."""
        until = self._held_until.get(message.key)
        if until is None:
            return message.time_ns >= self._from_ns.get(message.partition, 0)
        # The id decides, not the place: a topic that was made anew counts its places from 0 again.
        if message.offset < until and self._reconciler.counted(message.key, message.writer, message.sequence):
            self._stats.held += 1
            return False
        return True

    def take_handed(self, messages: Sequence[Handed]) -> tuple[list[tuple[str, bytes]], bool]:
        """Demand past the log. Returns (endpoint, encoded `replicas`) of what its reporters do not route by yet, and
        whether a decision should not wait. Raises `Unavailable` before anything is known about whose endpoints are ours.
        """
        if not self.open:
            raise Unavailable("this autoscaler has just started and does not know yet which endpoints are its own")
        urgent, routed_by = False, dict[str, int]()
        for one in messages:
            if not self._reconciler.territory.follows(one.key):
                continue
            try:
                report = decode_demand(one.value)
                if report.endpoint != one.key:
                    raise Malformed(f"a report about {report.endpoint}")
            except (UnknownSchema, Malformed) as error:
                self._skip(one, error)
                continue
            self._stats.direct += 1
            routed_by[one.key] = min(report.replicas_version, routed_by.get(one.key, report.replicas_version))
            urgent |= self._reconciler.take_demand(Heard(one.writer, one.sequence, report, direct=True))
        words = ((self._reconciler.planner.word(endpoint), version) for endpoint, version in routed_by.items())
        told = [(word.endpoint, encode_replicas(word)) for word, version in words if word and word.version > version]
        return told, urgent
