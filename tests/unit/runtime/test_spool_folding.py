"""Folding a full spool: nothing is lost count of, nothing is folded that may be elsewhere already, all of it is told."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from router.contract.codec import decode_counts, decode_demand, decode_folded, is_counts
from router.contract.events import DEMAND, NOTICES, REQUESTS, SHADOWS, SNAPSHOTS, SPECS, Folded
from router.runtime.log import spool_folding
from router.runtime.log.folding import sequences_in
from router.runtime.log.kafka_messages import Outgoing
from router.runtime.log.spool import Spool
from router.runtime.log.spool_folding import Folder, Step
from tests.support.spool_filling import WRITER, demand_message, fill, fill_with_traffic, opened, rows_of

OTHER = b"o" * 16


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    one = opened(tmp_path)
    yield one
    one.close()


@pytest.fixture
def folder() -> Folder:
    return Folder("cd" * 16, lambda _: 0, time.time_ns)


def fold_all(folder: Folder, spool: Spool) -> list[Step]:
    steps: list[Step] = []
    while step := folder.step(spool):
        steps.append(step)
        assert len(steps) < 10_000
    return steps


def waiting(spool: Spool, topic: str) -> list[Outgoing]:
    return [row for row in spool.outgoing(1_000_000, 1 << 40) if row.topic == topic]


def covered(rows: Sequence[Outgoing]) -> list[int]:
    """Every sequence that these rows stand for."""
    found: list[int] = []
    for row in rows:
        found.append(row.sequence)
        for part in sequences_in(row.replaces):
            found.extend(part)
    return sorted(found)


def requests_in(rows: Sequence[Outgoing]) -> int:
    return sum(sum(one.requests for one in decode_counts(row.value)) for row in rows if is_counts(row.value))


def notices(spool: Spool) -> list[Folded]:
    return [decode_folded(row.value) for row in waiting(spool, NOTICES)]


def test_everything_that_waits_is_folded_and_counted(spool: Spool, folder: Folder) -> None:
    fill_with_traffic(spool, 60)
    before = spool.size()
    fold_all(folder, spool)
    after = spool.size()
    requests, demand = waiting(spool, REQUESTS), waiting(spool, DEMAND)
    assert covered(requests) == covered(demand) == list(range(600))
    assert requests_in(requests) == 600 * 50
    arrivals = sum(row.arrivals for one in demand for row in decode_demand(one.value).rows)
    assert arrivals == sum(range(1, 601))
    assert decode_demand(demand[-1].value).rows[0].in_flight == 599
    assert after.bytes < before.bytes / 20
    assert len(requests) + len(demand) < 20


def test_the_notices_say_exactly_what_was_folded(spool: Spool, folder: Folder) -> None:
    fill_with_traffic(spool, 60)
    fill_with_traffic(spool, 5, writer=OTHER, key="f")
    bytes_before = {topic: sum(len(row.value) for row in waiting(spool, topic)) for topic in (REQUESTS, DEMAND)}
    steps = fold_all(folder, spool)
    found = notices(spool)
    assert {(one.endpoint, one.writer, one.topic) for one in found} == {
        ("e", WRITER.hex(), REQUESTS),
        ("e", WRITER.hex(), DEMAND),
        ("f", OTHER.hex(), REQUESTS),
        ("f", OTHER.hex(), DEMAND),
    }
    assert len(found) == 4
    for topic in (REQUESTS, DEMAND):
        told = [one for one in found if one.topic == topic]
        assert sum(one.messages for one in told) == 650
        assert sum(one.records for one in told) == (650 * 50 if topic == REQUESTS else 0)
        assert sum(one.bytes_before for one in told) == bytes_before[topic]
        assert sum(one.bytes_after for one in told) == sum(len(row.value) for row in waiting(spool, topic))
        assert sum(step.messages for step in steps if step.topic == topic) == 650
    assert [row.sequence for row in waiting(spool, NOTICES)] == list(range(4))


def test_requests_go_first_and_demand_only_when_they_cannot(spool: Spool, folder: Folder) -> None:
    fill_with_traffic(spool, 20)
    topics = [step.topic for step in fold_all(folder, spool) if step.saved_bytes]
    assert topics == sorted(topics, key=[REQUESTS, DEMAND].index)
    assert set(topics) == {REQUESTS, DEMAND}


def test_what_may_have_reached_the_broker_is_never_folded(spool: Spool, folder: Folder) -> None:
    fill_with_traffic(spool, 10)
    sent = [row for row in waiting(spool, REQUESTS) if row.sequence < 40]
    spool.attempt(sent)
    fold_all(folder, spool)
    rows = waiting(spool, REQUESTS)
    assert rows[:40] == sent
    assert covered(rows[40:]) == list(range(40, 100))


def test_a_notice_that_may_have_been_sent_is_followed_by_a_new_one(spool: Spool, folder: Folder) -> None:
    fill_with_traffic(spool, 10)
    fold_all(folder, spool)
    (first,) = [one for one in notices(spool) if one.topic == REQUESTS]
    spool.attempt(waiting(spool, NOTICES))
    more = [row.value for row in waiting(spool, REQUESTS)]
    assert len(more) == 1
    fill(spool, rows_of(DEMAND, [demand_message(n) for n in range(100, 200)], first=100))
    fold_all(folder, spool)
    told = [one for one in notices(spool) if one.topic == DEMAND]
    assert [one.messages for one in told] == [100, 100]
    assert [one for one in notices(spool) if one.topic == REQUESTS] == [first]
    assert [row.sequence for row in waiting(spool, NOTICES)] == [0, 1, 2]


def test_writers_keys_and_partitions_stay_apart(spool: Spool, folder: Folder) -> None:
    for writer, key, partition in ((WRITER, "e", 0), (OTHER, "e", 0), (WRITER, "f", 0), (WRITER, "g", 5)):
        reports = [demand_message(n, endpoint=key) for n in range(30)]
        fill(spool, rows_of(DEMAND, reports, key=key, partition=partition, first=30 * (key == "f")), writer)
    fold_all(folder, spool)
    rows = waiting(spool, DEMAND)
    assert len(rows) == 4
    for row in rows:
        first = 30 * (row.key == "f")
        assert covered([row]) == list(range(first, first + 30))
        assert decode_demand(row.value).endpoint == row.key


def test_what_cannot_be_read_stays_as_it_is(spool: Spool, folder: Folder) -> None:
    future = [bytes([250]) + b"x" * 500 for _ in range(50)]
    fill(spool, rows_of(REQUESTS, future))
    fill(spool, rows_of(SHADOWS, [b"{}" * 300] * 50))
    before = spool.outgoing(1000, 1 << 30)
    fold_all(folder, spool)
    assert spool.outgoing(1000, 1 << 30) == before


def test_compacted_messages_that_a_newer_one_replaces_need_not_be_sent(spool: Spool, folder: Folder) -> None:
    fill(spool, rows_of(SNAPSHOTS, [bytes([n]) for n in range(200)]))
    fill(spool, rows_of(SPECS, [b"a", b"b"], key="x"))
    sent = waiting(spool, SNAPSHOTS)[:3]
    spool.attempt(sent)
    fold_all(folder, spool)
    assert [row.value for row in waiting(spool, SNAPSHOTS)] == [*(row.value for row in sent), bytes([199])]
    assert [row.value for row in waiting(spool, SPECS)] == [b"b"]
    assert notices(spool) == []


def test_what_comes_later_is_folded_into_what_was_folded_before(
    spool: Spool, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_folding, "STEP_ROWS", 50)
    sizes = []
    for _ in range(20):
        first = len(covered(waiting(spool, DEMAND)))
        reports = [demand_message(first + n) for n in range(40)]
        fill(spool, rows_of(DEMAND, reports, first=first))
        fold_all(folder, spool)
        assert covered(waiting(spool, DEMAND)) == list(range(first + 40))
        sizes.append(len(waiting(spool, DEMAND)))
    assert max(sizes) < 20
    assert sum(one.messages for one in notices(spool)) == 800


def test_the_books_add_up_after_folding(spool: Spool, folder: Folder) -> None:
    fill_with_traffic(spool, 30)
    fill(spool, rows_of(SNAPSHOTS, [b"x" * n for n in range(50)]))
    fold_all(folder, spool)
    held = dict(
        spool._db.execute("SELECT topic, outgoing_rows * 1000000000 + outgoing_bytes FROM usage WHERE outgoing_rows")
    )
    true = dict(
        spool._db.execute("SELECT topic, count(*) * 1000000000 + sum(length(value)) FROM messages GROUP BY topic")
    )
    assert held == true
