"""Makes a full spool smaller without losing count: the oldest request records become counts, then demand reports merge.

Never touched is what may have reached the broker already, acknowledged or not: a reader that has seen a message must
not see it again as a part of another. Every step is one small transaction that also writes what it did into `notices`,
an ordinary message of the shipper: one per endpoint, topic and writer, brought up to date for as long as it waits.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from router.contract.codec import Malformed, UnknownSchema, encode_folded, is_counts, split_requests
from router.contract.events import COMPACTED, DEMAND, NOTICES, REQUESTS, Folded
from router.runtime.log.buffer import Row
from router.runtime.log.embedded_store import OUTGOING_ROW_BYTES, translated
from router.runtime.log.folding import fold_requests, join_sequences, joinable, merge_demand
from router.runtime.log.kafka_messages import Outgoing
from router.runtime.log.spool import Spool

STEP_ROWS = 500
"""Rows that one step looks at: some tens of milliseconds, so that shipping and writers get their turn."""
STEP_BYTES = 8 << 20
"""Most bytes of them."""
FOLDED_BYTES = 256 << 10
"""Most bytes of what is folded already in one fold: its result must stay small beside what Kafka takes as one message."""
WORTH_BYTES = 400
"""A fold that saves less is not worth its transaction and its notice."""
PASS_SHARE = 0.05
"""A pass over a topic that saved less of it than this is not repeated; only what is newer is folded then."""

_FOLD = {REQUESTS: fold_requests, DEMAND: merge_demand}
"""In the order in which topics are folded: the records first, what scaling lives on last."""
_WAITING = """
SELECT offset, topic, key, writer, sequence, time_ns, value, replaces, partition FROM messages
WHERE topic = ? AND offset > ? AND outgoing = 1 ORDER BY offset LIMIT ?
"""
_SUPERSEDED = """
SELECT offset, length(value) FROM messages AS old WHERE topic = ? AND compacted = 1 AND outgoing = 1 AND offset > ?
AND EXISTS (SELECT 1 FROM messages AS new WHERE new.topic = old.topic AND new.key = old.key AND new.compacted = 1
            AND new.outgoing = 1 AND new.offset > old.offset) LIMIT ?
"""
_LESS = """
UPDATE usage SET outgoing_rows = outgoing_rows - ?2, outgoing_bytes = outgoing_bytes - ?3, bytes = bytes - ?3
WHERE topic = ?1
"""


class Fold(NamedTuple):
    """Messages of one writer and key that one message stands for from now on."""

    rows: Sequence[Outgoing]
    value: bytes
    replaces: str

    @property
    def fresh(self) -> Sequence[Outgoing]:
        """Those that were not folded before."""
        return [row for row in self.rows if not _is_folded(row)]

    @property
    def saved_bytes(self) -> int:
        """What the spool gets smaller by."""
        before = sum(len(row.value) + len(row.replaces) + OUTGOING_ROW_BYTES for row in self.rows)
        return before - len(self.value) - len(self.replaces) - OUTGOING_ROW_BYTES


@dataclass(slots=True)
class _Pass:
    """How far one topic has been gone through."""

    after: int = 0
    saved_bytes: int = 0
    """Since the topic was gone through from its beginning last."""
    done: bool = False
    """Everything was gone through, and going through it again would save little."""


@dataclass(slots=True)
class Step:
    """What one step did."""

    topic: str
    messages: int = 0
    """That others stand for now, or that a newer one of the same key made needless."""
    saved_bytes: int = 0


@dataclass(slots=True)
class _Books:
    """What was written into `notices`: taken over when the transaction is."""

    sequences: dict[int, int] = field(default_factory=dict)
    """Partition → sequence of the next one."""
    written: dict[tuple[str, str, str], tuple[int, Folded]] = field(default_factory=dict)
    """(endpoint, topic, writer) → offset and content of the newest one."""

    def copy(self) -> _Books:
        return _Books(dict(self.sequences), dict(self.written))


class Folder:
    """Folds the spool of one shipper. Used by the spool's thread."""

    def __init__(self, writer: str, partition_of: Callable[[str], int], time_ns: Callable[[], int]) -> None:
        """`writer`: the shipper's boot id, under which it writes notices."""
        self._writer = bytes.fromhex(writer)
        self._partition_of = partition_of
        self._time_ns = time_ns
        self._passes: dict[str, _Pass] = defaultdict(_Pass)
        self._books = _Books()

    def step(self, spool: Spool) -> Step | None:
        """One small transaction; None when nothing can be folded any more. Raises `Unavailable`."""
        for topic in sorted(COMPACTED):
            if step := _drop_superseded(spool, topic):
                return step
        for topic in _FOLD:
            if not self._passes[topic].done or spool.last_outgoing([topic]) > self._passes[topic].after:
                return self._step(spool, topic)
        return None

    def _step(self, spool: Spool, topic: str) -> Step:
        """Look at the next rows of `topic`."""
        state = self._passes[topic]
        start = max(state.after, spool.attempted(topic))
        rows = _waiting(spool, topic, start)
        if not rows:
            again = state.saved_bytes > PASS_SHARE * spool.topic_bytes(topic)
            self._passes[topic] = _Pass() if again else _Pass(start, state.saved_bytes, done=True)
            return Step(topic)
        folds = [fold for fold in _folds(rows) if fold.saved_bytes >= WORTH_BYTES]
        if folds:
            self._commit(spool, topic, folds)
        saved = sum(fold.saved_bytes for fold in folds)
        state.after = rows[-1].offset
        state.saved_bytes += saved
        state.done = False
        return Step(topic, sum(len(fold.fresh) for fold in folds), saved)

    def _commit(self, spool: Spool, topic: str, folds: Sequence[Fold]) -> None:
        gone = [row.offset for fold in folds for row in fold.rows[:-1]]
        less = sum(sum(len(row.value) for row in fold.rows) - len(fold.value) for fold in folds)
        sent = spool.attempted(NOTICES)
        books = self._books.copy()
        with spool.writing() as db:
            db.execute("DELETE FROM messages WHERE offset IN (SELECT value FROM json_each(?))", (json.dumps(gone),))
            for fold in folds:
                spool.exchange(fold.rows[-1].offset, fold.value, fold.replaces)
            db.execute(_LESS, (topic, len(gone), less))
            for fold in folds:
                self._tell(spool, books, _event(fold, self._time_ns()), sent)
        self._books = books

    def _tell(self, spool: Spool, books: _Books, event: Folded, sent: int) -> None:
        """Write what was folded: into the notice that still waits and is not `sent`, or into a new one."""
        key = (event.endpoint, event.topic, event.writer)
        offset, before = books.written.get(key, (0, None))
        if before is not None and offset > sent:
            event = _sum(before, event)
            if spool.rewrite(NOTICES, offset, _encoded(event)):
                books.written[key] = (offset, event)
                return
        if not event.messages:
            return
        partition = self._partition_of(event.endpoint)
        sequence = books.sequences.get(partition, 0)
        row = Row(NOTICES, event.endpoint, _encoded(event), sequence, event.at_ns, partition)
        spool.store._insert(self._writer, [row], True)
        books.sequences[partition] = sequence + 1
        books.written[key] = (spool.last_outgoing([NOTICES]), event)


def _drop_superseded(spool: Spool, topic: str) -> Step | None:
    """Delete what a newer message of the same key makes needless, as Kafka itself would in time."""
    sent = spool.attempted(topic)
    with spool.writing() as db:
        rows = db.execute(_SUPERSEDED, (topic, sent, STEP_ROWS)).fetchall()
        if not rows:
            return None
        named = json.dumps([offset for offset, _ in rows])
        db.execute("DELETE FROM messages WHERE offset IN (SELECT value FROM json_each(?))", (named,))
        size = sum(length for _, length in rows)
        db.execute(_LESS, (topic, len(rows), size))
    return Step(topic, len(rows), size + len(rows) * OUTGOING_ROW_BYTES)


def _waiting(spool: Spool, topic: str, start: int) -> list[Outgoing]:
    found: list[Outgoing] = []
    size = 0
    with translated(spool.store.path):
        cursor = spool.store._db.execute(_WAITING, (topic, start, STEP_ROWS))
        for offset, _, key, writer, sequence, time_ns, value, *rest in cursor:
            found.append(Outgoing(offset, topic, key, writer.hex(), sequence, time_ns, value, *rest))
            size += len(value)
            if size >= STEP_BYTES:
                break
        cursor.close()
    return found


def _is_folded(row: Outgoing) -> bool:
    return bool(row.replaces) or (row.topic == REQUESTS and is_counts(row.value))


def _folds(rows: Sequence[Outgoing]) -> Iterator[Fold]:
    """What can be made of `rows` of one topic, by writer and key."""
    groups: dict[tuple[int, str, str], list[Outgoing]] = defaultdict(list)
    for row in rows:
        groups[row.partition, row.writer, row.key].append(row)
    for group in groups.values():
        for part in _parts(group):
            if len(part) == 1 and (part[0].topic == DEMAND or _is_folded(part[0])):
                continue
            try:
                value = _FOLD[part[0].topic]([row.value for row in part])
                sequence, replaces = join_sequences((row.sequence, row.replaces) for row in part)
            except (Malformed, UnknownSchema, ValueError):
                continue  # written by a newer version, or damaged: it stays as it is
            if sequence == part[-1].sequence:
                yield Fold(part, value, replaces)


def _parts(group: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """`group` in parts of which each may become one message."""
    rest = list(group)
    while rest:
        count = joinable([(row.sequence, row.replaces) for row in rest])
        size = 0
        for index, row in enumerate(rest[:count]):
            size += len(row.value) if _is_folded(row) else 0
            if size > FOLDED_BYTES and index:
                count = index
                break
        yield rest[:count]
        rest = rest[count:]


def _event(fold: Fold, now_ns: int) -> Folded:
    """What `fold` did, in numbers that add up: of what was folded before, only the change of its size."""
    fresh, last = fold.fresh, fold.rows[-1]
    records = sum(_records(row.value) for row in fresh) if last.topic == REQUESTS else 0
    return Folded(
        endpoint=last.key,
        at_ns=now_ns,
        topic=last.topic,
        writer=last.writer,
        messages=len(fresh),
        records=records,
        from_ns=min(row.time_ns for row in fold.rows),
        until_ns=max(row.time_ns for row in fold.rows),
        bytes_before=sum(len(row.value) for row in fresh),
        bytes_after=len(fold.value) - sum(len(row.value) for row in fold.rows if _is_folded(row)),
    )


def _records(value: bytes) -> int:
    from router.contract.codec import REQUEST_RECORD

    return len(split_requests(value)[1]) // REQUEST_RECORD.size


def _encoded(event: Folded) -> bytes:
    # The change of a size may be below nothing, as long as it is not added to what it changes.
    return encode_folded(replace(event, bytes_after=max(0, event.bytes_after)))


def _sum(one: Folded, other: Folded) -> Folded:
    return replace(
        other,
        messages=one.messages + other.messages,
        records=one.records + other.records,
        from_ns=min(one.from_ns, other.from_ns),
        until_ns=max(one.until_ns, other.until_ns),
        bytes_before=one.bytes_before + other.bytes_before,
        bytes_after=one.bytes_after + other.bytes_after,
    )
