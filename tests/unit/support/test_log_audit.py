"""The audit finds every kind of difference, and nothing when there is none."""

from __future__ import annotations

import pytest

from router.contract.events import DEMAND, REQUESTS
from router.runtime.log.base import Message
from router.runtime.log.folding import fold_requests, join_sequences
from tests.support.contract_samples import REQUEST_NAMES, pack_requests
from tests.support.contract_samples import REQUESTS as RECORDS
from tests.support.log_audit import Audit, Sent, Source

HERE = Source(0, "w")


def message(sequence: int, records: int = 2, *, writer: str = "w", partition: int = 0, key: str = "shop") -> Message:
    value = pack_requests((RECORDS * records)[:records], REQUEST_NAMES)
    return Message(REQUESTS, partition, sequence + 100, key, value, writer, sequence, 0)


def folded(*messages: Message) -> Message:
    sequence, replaces = join_sequences((one.sequence, one.replaces) for one in messages)
    value = fold_requests([one.value for one in messages])
    return messages[-1]._replace(value=value, sequence=sequence, replaces=replaces)


def test_everything_once_in_any_order_is_no_difference() -> None:
    audit = Audit([message(2, 3), message(0), message(1, 0), message(0, 1, writer="x"), message(0, 5, partition=3)])
    sent = {HERE: Sent(3, 5), Source(0, "x"): Sent(1, 1), Source(3, "w"): Sent(1, 5)}
    assert audit.differences(sent) == []
    assert audit.records() == 11


def test_what_was_folded_counts_as_what_it_was_made_of() -> None:
    audit = Audit([folded(folded(message(0), message(1)), message(3)), message(2), message(4, 1, key="bank")])
    assert audit.differences({HERE: Sent(5, 9)}) == []
    account = audit.accounts[HERE]
    assert (account.messages, account.folded, account.by_key) == (3, 6, {"shop": 8, "bank": 1})


def test_what_came_twice_counts_once() -> None:
    fold = folded(message(0), message(1))
    audit = Audit([message(0), message(0), message(1), fold, fold, message(2)])
    assert audit.differences({HERE: Sent(3, 6)}) == []
    assert audit.accounts[HERE].repeated == 3


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([message(0), message(2)], "1 of 3 messages missing: 1"),
        ([message(0), message(1), message(2), message(3, 0)], "1 messages that were never sent: 3"),
        ([message(0), message(1), message(2, 1)], "5 records read, 6 sent"),
        ([message(0), folded(message(0), message(1)), message(2, 0)], "repeats [0] and brings others"),
        ([], "3 of 3 messages missing: 0, 1, 2"),
        ([message(0, writer="x")], "writer x in partition 0: 1 messages that were never sent"),
    ],
)
def test_every_difference_is_told(messages: list[Message], words: str) -> None:
    differences = Audit(messages).differences({HERE: Sent(3, 6)})
    assert any(words in one for one in differences), differences


def test_many_missing_are_shown_in_part() -> None:
    (missing, _) = Audit().differences({HERE: Sent(1000, 1)})
    assert missing.endswith("0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …")


def test_other_topics_are_passed_over() -> None:
    audit = Audit([message(0)._replace(topic=DEMAND, value=b"anything")])
    assert audit.accounts == {}
