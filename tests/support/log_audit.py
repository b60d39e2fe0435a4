"""An exact account of `requests` as a reader got them: per partition and writer every sequence and every record, once.

A test says what was sent; `differences` says, in sentences, where what was read is something else. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from router.contract import codec
from router.contract.events import REQUESTS
from router.runtime.log.base import Message
from router.runtime.log.folding import sequences_in


class Source(NamedTuple):
    """Where sequences are counted."""

    partition: int
    writer: str


@dataclass(slots=True)
class Account:
    """What was read of one writer in one partition."""

    sequences: set[int] = field(default_factory=set)
    """Every one that a message had or stood for."""
    messages: int = 0
    """Messages that said something new."""
    records: int = 0
    """Requests in them, whether as records or as counts."""
    folded: int = 0
    """Of those, the ones that came as counts."""
    repeated: int = 0
    """Messages of which everything had been read before: not counted again."""
    overlapping: list[str] = field(default_factory=list)
    """Messages of which only a part was new: their records are counted, some of them for the second time."""
    by_key: Counter[str] = field(default_factory=Counter)
    """Endpoint → records."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What one writer appended to one partition: sequences 0 to `messages` - 1."""

    messages: int
    records: int


class Audit:
    """The account of everything read."""

    def __init__(self, messages: Iterable[Message] = ()) -> None:
        self.accounts: dict[Source, Account] = {}
        self.take(messages)

    def take(self, messages: Iterable[Message]) -> None:
        """Enter messages in any order; other topics are passed over. Raises what the codec raises."""
        for message in messages:
            if message.topic == REQUESTS:
                self._enter(self.accounts.setdefault(Source(message.partition, message.writer), Account()), message)

    def _enter(self, account: Account, message: Message) -> None:
        sequences = {message.sequence}.union(*sequences_in(message.replaces))
        known = sequences & account.sequences
        if known == sequences:
            account.repeated += 1
            return
        if known:
            account.overlapping.append(f"offset {message.offset} repeats {sorted(known)} and brings others")
        records, folded = _records_in(message.value)
        account.sequences |= sequences
        account.messages += 1
        account.records += records
        account.folded += folded
        account.by_key[message.key] += records

    def records(self) -> int:
        """Requests of all writers."""
        return sum(account.records for account in self.accounts.values())

    def differences(self, sent: Mapping[Source, Sent]) -> list[str]:
        """Where this is not exactly what was sent; empty when every message and record was read, once."""
        found = []
        for source in sorted({*sent, *self.accounts}):
            account, expected = self.accounts.get(source, Account()), sent.get(source, Sent(0, 0))
            missing = set(range(expected.messages)) - account.sequences
            unknown = account.sequences - set(range(expected.messages))
            name = f"writer {source.writer} in partition {source.partition}"
            if missing:
                found.append(f"{name}: {len(missing)} of {expected.messages} messages missing: {_some(missing)}")
            if unknown:
                found.append(f"{name}: {len(unknown)} messages that were never sent: {_some(unknown)}")
            if account.records != expected.records:
                found.append(f"{name}: {account.records} records read, {expected.records} sent")
            found.extend(f"{name}: {words}" for words in account.overlapping)
        return found


def _records_in(value: bytes) -> tuple[int, int]:
    """(requests, of them folded)."""
    if codec.is_counts(value):
        count = sum(row.requests for row in codec.decode_counts(value))
        return count, count
    return len(codec.split_requests(value)[1]) // codec.REQUEST_RECORD.size, 0


def _some(sequences: set[int]) -> str:
    shown = [str(one) for one in sorted(sequences)[:10]]
    return ", ".join(shown) + (", …" if len(sequences) > len(shown) else "")
