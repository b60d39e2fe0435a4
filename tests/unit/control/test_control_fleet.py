"""Folding goes on whatever order and age the messages have."""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.contract import codec
from router.contract.events import (
    DECISIONS,
    DEMAND,
    REPLICAS,
    REQUESTS,
    DemandReport,
    DemandRow,
    DeploymentReplicas,
    EndpointReplicas,
)
from router.control import metrics
from router.control.fleet import Fleet
from router.control.traffic import OVERFLOW
from router.runtime.log.base import Health, Log, Message
from router.runtime.log.continuity import Continuity
from tests.support.contract_samples import REQUEST_NAMES, pack_requests
from tests.support.contract_samples import REQUESTS as RECORDS
from tests.support.control_partitions import PartitionedLog


def say(fleet: Fleet, version: int, generation: int, desired: int) -> None:
    event = EndpointReplicas("shop", version, generation, 0, {"blue": DeploymentReplicas(desired, 1)})
    fleet.fold(Message(REPLICAS, 0, 0, "shop", codec.encode_replicas(event), "w", 0, 0))


def test_a_report_of_an_earlier_owner_or_version_does_not_replace_a_newer_one() -> None:
    fleet = Fleet(lambda: None)
    say(fleet, version=7, generation=2, desired=3)
    say(fleet, version=9, generation=1, desired=99)
    say(fleet, version=6, generation=2, desired=98)
    assert fleet.replicas("shop")["blue"].desired == 3
    say(fleet, version=1, generation=3, desired=4)
    assert fleet.replicas("shop")["blue"].desired == 4


def finished(number: int, endpoint: str = "shop") -> Message:
    return Message(REQUESTS, 0, number, endpoint, pack_requests(RECORDS, REQUEST_NAMES), "w", number, 0)


def test_requests_are_counted_until_their_deployment_is_gone() -> None:
    fleet = Fleet(lambda: None)
    fleet.take([finished(0), finished(1), finished(2, "bank"), finished(3)._replace(value=b"?")])
    fleet.forget({("shop", "blue")})
    blue, refused = fleet.traffic.of(("shop", "blue")), fleet.traffic.of(("shop", ""))
    assert blue is not None
    assert refused is not None
    assert (blue.by_outcome["model_error"], refused.by_outcome["refused"]) == (2, 2)
    assert fleet.traffic.of(("bank", "blue")) is fleet.traffic.of(("bank", "")) is None
    assert fleet.skipped == 1


def test_a_message_found_unreadable_only_when_counted_is_skipped_too() -> None:
    fleet = Fleet(lambda: None)
    _, records = codec.split_requests(pack_requests(RECORDS, REQUEST_NAMES))
    fleet.take([finished(0)._replace(value=codec.encode_requests([""], records)), finished(1)])
    assert fleet.skipped == 1


class Failing(PartitionedLog):
    """Its readers notice gaps, hand out what there is, and then fail."""

    async def reader(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
        reader = await super().reader((self.topic,), "earliest")
        books = Continuity(reader.stats)
        reader.stats.skipped = 1

        async def fails(timeout_seconds: float | None = None) -> list[Message]:
            if reader.stats.messages:
                raise ConnectionError
            for message in self.messages:
                books.saw(message)
            return self.messages

        reader.next = fails  # type: ignore[method-assign]
        return reader


async def test_what_readers_noticed_is_kept_when_they_are_replaced_and_exported_as_what_only_grows() -> None:
    fleet = Fleet(lambda: None)
    told = [0, 4, 2, 4]
    log = Failing(REQUESTS, [finished(offset)._replace(sequence=one) for offset, one in enumerate(told)], 1)
    for _ in range(2):
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(30):
                await fleet.follow_streams(cast("Log", log))
    noticed = fleet.noticed()
    assert (noticed.messages, noticed.gaps, noticed.duplicates) == (8, 4, 2)
    assert all(reader.closed for reader in log.readers)
    health = Health({("shipped_messages", ""): 7}, {("lag", DEMAND): 3, ("lag", DECISIONS): 0})
    text = metrics.render([], fleet, 0, health, {}).decode()
    samples = {
        (sample.name, sample.labels.get("topic")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["tidegate_log_gaps_total", REQUESTS] == 6
    assert samples["tidegate_log_late_messages_total", REQUESTS] == 2
    assert samples["tidegate_log_duplicates_total", REQUESTS] == 2
    assert samples["tidegate_log_gaps_total", DEMAND] == 0
    assert samples["tidegate_log_skipped_messages_total", None] == 2
    assert samples["tidegate_shipped_messages_total", None] == 7
    assert (samples["tidegate_lag", DEMAND], samples["tidegate_lag", DECISIONS]) == (3, 0)


def test_deployments_beyond_the_most_are_counted_together_and_have_no_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.control.fleet.MAX_TARGETS", 1)
    fleet = Fleet(lambda: None)
    for number, endpoint in enumerate(("shop", "bank", "inn", "shop")):
        row = DemandRow("blue", arrivals=1, in_flight=5)
        value = codec.encode_demand(DemandReport(endpoint, 1, 2, 1, 1, rows=(row,)))
        fleet.take([Message(DEMAND, 0, number, endpoint, value, "w", number, 0)])
    assert {target: one.totals.arrivals for target, one in fleet.live.items()} == {("shop", "blue"): 2, OVERFLOW: 2}
    text = metrics.render([], fleet, 2, Health({}, {}), {}).decode()
    assert 'tidegate_requests_total{deployment="_other",endpoint="_other"} 2.0' in text
    assert "tidegate_in_flight_requests{" not in text
    fleet.forget(set())
    assert fleet.live.keys() == {OVERFLOW}
