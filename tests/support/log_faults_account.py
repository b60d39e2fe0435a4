"""What writing processes say they wrote, what a reading process saw, and where the two differ. Pure.

Every record has a number of its own: each writer counts those of each endpoint from 0. A writer that ended in order has
told everything; one that was killed has told what was committed, and whatever it wrote beyond that has to be a
continuation without a hole.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from router.contract import codec
from router.contract.events import DEMAND, NOTICES, REQUESTS, Damaged, Folded, Outcome
from router.runtime.log.base import Message, ReaderStats
from router.runtime.log.folding import sequences_in
from tests.support.log_audit import Audit, Sent, Source

Numbers = list[list[int]]
"""Ranges [first, beyond the last], in the order in which they came."""
AMOUNTS = ("requests", "model_errors", "failures", "request_bytes", "response_bytes", "total_us_sum")


def note(ranges: Numbers, number: int) -> None:
    """Add one number that came next."""
    if ranges and ranges[-1][1] == number:
        ranges[-1][1] += 1
    else:
        ranges.append([number, number + 1])


class Tally:
    """Requests by endpoint, deployment and second, from records and from counts."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}

    def add(self, endpoint: str, value: bytes) -> list[int]:
        """Count one message of `requests`; returns the numbers of its records."""
        if codec.is_counts(value):
            for row in codec.decode_counts(value):
                self.count(f"{endpoint}|{row.deployment}|{row.second}", [getattr(row, name) for name in AMOUNTS])
            return []
        records = codec.decode_requests(value)
        for one in records:
            model_error = one.outcome is Outcome.MODEL_ERROR
            amounts = [1, model_error, not model_error and one.outcome is not Outcome.OK]
            amounts += [one.request_bytes, one.response_bytes, one.total_us]
            self.count(f"{endpoint}|{one.deployment}|{one.start_ns // 1_000_000_000}", amounts)
        return [one.sequence for one in records]

    def count(self, key: str, amounts: Iterable[int]) -> None:
        """Add `AMOUNTS` to `endpoint|deployment|second`."""
        held = self.rows.get(key, [0] * len(AMOUNTS))
        self.rows[key] = [int(a + b) for a, b in zip(held, amounts, strict=True)]


@dataclass(slots=True)
class Written:
    """What a writer has told: JSON, one line per commit."""

    writer: str = ""
    committed: dict[str, int] = field(default_factory=dict)
    """`topic/partition` → messages accepted and then flushed."""
    numbers: dict[str, Numbers] = field(default_factory=dict)
    """Endpoint → record numbers accepted and then flushed."""
    arrivals: dict[str, int] = field(default_factory=dict)
    """The same for the arrivals of `demand`."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Topic → messages that were not accepted."""
    appends: int = 0
    """Calls of `append`, whatever came of them."""
    unflushed: int = 0
    """Calls of `flush` that said that it cannot be done now."""
    slowest_ms: float = 0.0
    """The longest `append`."""
    rests: int = 0
    """How often it was told to hold and did."""
    final: bool = False
    """Whether this is everything: the writer has ended in order."""
    tally: dict[str, list[int]] = field(default_factory=dict)
    """See `Tally`; only at the end."""

    def encode(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def decode(cls, line: bytes) -> Written:
        """Inverse of `encode`."""
        return cls(**json.loads(line))

    def records(self) -> int:
        """Accepted and flushed."""
        return sum(stop - start for ranges in self.numbers.values() for start, stop in ranges)

    def messages(self, topic: str) -> dict[int, int]:
        """Partition → messages."""
        found = (name.split("/") for name in self.committed)
        return {int(partition): self.committed[f"{one}/{partition}"] for one, partition in found if one == topic}


@dataclass(slots=True)
class Sequences:
    """Of `demand`: what was seen of one writer in one partition."""

    seen: set[int] = field(default_factory=set)
    arrivals: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Seen:
    """Everything a reader was handed, each message once however often it came."""

    def __init__(self, stats: ReaderStats) -> None:
        self.stats = stats
        self.audit = Audit()
        self.demand: dict[Source, Sequences] = {}
        self.numbers: dict[tuple[str, str], Numbers] = {}
        """(writer, endpoint) → numbers of the records that came as records."""
        self.tally: dict[str, list[int]] = {}
        self.repeated: Counter[str] = Counter()
        """Topic → sequences that were handed out before; a reader leaves out what it knows."""
        self.twice: Counter[str] | None = None
        """Topic → sequences that stand in Kafka more than once, each further time; None when nobody looked."""
        self.merged: Counter[tuple[str, str]] = Counter()
        """(topic, endpoint) → sequences that came in messages that stand for others, or for their own records."""
        self.disorder: list[str] = []
        self.notices: list[Folded] = []
        self.damaged: list[Damaged] = []
        self.unreadable: dict[str, int] = defaultdict(int)
        self._tally = Tally()
        self._newest: dict[tuple[str, str, str], int] = {}

    def take(self, message: Message) -> None:
        """Enter one message."""
        try:
            if message.topic == REQUESTS:
                self._take_requests(message)
            elif message.topic == DEMAND:
                self._take_demand(message)
            elif message.topic == NOTICES:
                self._take_notice(codec.decode_notice(message.value))
        except (codec.UnknownSchema, codec.Malformed):
            self.unreadable[message.topic] += 1

    def _take_notice(self, notice: Folded | Damaged) -> None:
        if isinstance(notice, Folded):
            self.notices.append(notice)
        else:
            self.damaged.append(notice)

    def sequences(self, topic: str, partition: int, writer: str) -> set[int]:
        """Those of one writer that were seen, of `requests` or `demand`."""
        source = Source(partition, writer)
        if topic == REQUESTS:
            return self.audit.accounts[source].sequences if source in self.audit.accounts else set()
        return self.demand[source].seen if source in self.demand else set()

    def _take_requests(self, message: Message) -> None:
        known = self.audit.accounts.get(Source(message.partition, message.writer))
        self._count_repeated(message, known.sequences if known else set())
        before = known.messages if known else 0
        self.audit.take([message])
        if self.audit.accounts[message.partition, message.writer].messages == before:  # type: ignore[index]
            return
        self._in_order(message)
        if codec.is_counts(message.value):
            self.merged[REQUESTS, message.key] += 1 + sum(map(len, sequences_in(message.replaces)))
        ranges = self.numbers.setdefault((message.writer, message.key), [])
        for number in self._tally.add(message.key, message.value):
            note(ranges, number)
        self.tally = self._tally.rows

    def _take_demand(self, message: Message) -> None:
        report = codec.decode_demand(message.value)
        account = self.demand.setdefault(Source(message.partition, message.writer), Sequences())
        sequences = self._count_repeated(message, account.seen)
        if sequences <= account.seen:
            return
        self._in_order(message)
        if message.replaces:
            self.merged[DEMAND, message.key] += len(sequences)
        account.seen |= sequences
        account.arrivals[message.key] += sum(row.arrivals for row in report.rows)

    def _count_repeated(self, message: Message, known: set[int]) -> set[int]:
        sequences = {message.sequence}.union(*sequences_in(message.replaces))
        if again := len(sequences & known):
            self.repeated[message.topic] += again
        return sequences

    def _in_order(self, message: Message) -> None:
        key = (message.topic, message.writer, message.key)
        if message.sequence <= self._newest.get(key, -1):
            self.disorder.append(f"{key}: {message.sequence} after {self._newest[key]}")
        self._newest[key] = max(message.sequence, self._newest.get(key, -1))


def differences(seen: Seen, written: Sequence[Written], *, folded: bool = False) -> list[str]:
    """Where `seen` is not exactly what was `written`; empty when every message and record came and counts once.

    `folded`: records may have become counts, which have no numbers; then the sums have to be those of the records.
    """
    found = [*seen.disorder, *_own_books(seen)]
    sent: dict[Source, Sent] = {}
    for one in written:
        found += _of_requests(seen, one, sent, folded=folded)
        found += _of_demand(seen, one)
    found += seen.audit.differences(sent)
    known = {one.writer for one in written}
    found += [f"nobody wrote {source}" for source in seen.demand if source.writer not in known]
    if all(one.final for one in written):
        tally = Tally()
        for one in written:
            for key, amounts in one.tally.items():
                tally.count(key, amounts)
        found += _of_tallies(seen.tally, tally.rows)
    return found


def _own_books(seen: Seen) -> list[str]:
    """What the reader itself counted."""
    found = []
    if seen.stats.gaps:
        found.append(f"the reader counts gaps: {seen.stats.gaps_by_topic}")
    if seen.repeated:
        found.append(f"handed out twice: {seen.repeated}")
    counted = Counter(seen.stats.duplicates_by_topic)
    if seen.twice is not None and counted != seen.twice:
        found.append(f"the reader counts {counted} duplicates, there were {seen.twice}")
    return found


def _of_requests(seen: Seen, one: Written, sent: dict[Source, Sent], *, folded: bool) -> list[str]:
    """Fills `sent` with what the writer must have sent."""
    found = []
    records: dict[int, int] = defaultdict(int)
    for endpoint, partition in _partitions(seen, one).items():
        told = one.numbers.get(endpoint, [])
        came = seen.numbers.get((one.writer, endpoint), [])
        records[partition] += sum(stop - start for start, stop in (told if one.final else came))
        if folded:
            continue
        if one.final and came != told:
            found.append(f"{one.writer} {endpoint}: records {came}, written {told}")
        elif not one.final and (len(came) > 1 or _end(came) < _end(told) or (came and came[0][0])):
            found.append(f"{one.writer} {endpoint}: records {came}, committed {told}")
    for partition in {*one.messages(REQUESTS), *records}:
        messages, source = one.messages(REQUESTS).get(partition, 0), Source(partition, one.writer)
        account = seen.audit.accounts.get(source)
        if not one.final and account is not None:
            messages = max(messages, len(account.sequences))
        sent[source] = Sent(messages, records[partition])
    return found


def _partitions(seen: Seen, one: Written) -> dict[str, int]:
    """Endpoint → partition, of everything that `one` wrote or is said to have written."""
    found: dict[str, int] = {}
    for source, account in seen.audit.accounts.items():
        if source.writer == one.writer:
            found |= dict.fromkeys(account.by_key, source.partition)
    # What never came has no place; that its messages are missing is said by the audit.
    return found


def _end(ranges: Numbers) -> int:
    return ranges[-1][1] if ranges else 0


def _of_demand(seen: Seen, one: Written) -> list[str]:
    found = []
    arrivals: dict[str, int] = defaultdict(int)
    told = one.messages(DEMAND)
    for partition in {*told, *(source.partition for source in seen.demand if source.writer == one.writer)}:
        account = seen.demand.get(Source(partition, one.writer), Sequences())
        least = told.get(partition, 0)
        count = len(account.seen)
        whole = account.seen == set(range(count)) and (count == least if one.final else count >= least)
        if not whole:
            missing = sorted(set(range(least)) - account.seen)
            found.append(f"{one.writer} demand/{partition}: {count} of {least} messages, missing {missing[:10]}")
        for endpoint, count in account.arrivals.items():
            arrivals[endpoint] += count
    if one.final and dict(arrivals) != one.arrivals:
        found.append(f"{one.writer}: arrivals {dict(arrivals)}, written {one.arrivals}")
    return found


def _of_tallies(came: dict[str, list[int]], told: dict[str, list[int]]) -> list[str]:
    names = sorted({*came, *told})
    return [f"{key}: {came.get(key)}, written {told.get(key)}" for key in names if came.get(key) != told.get(key)]
