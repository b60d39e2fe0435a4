"""The autoscaler in numbers, as its site serves them: what came which way, what was missing of whom, whose endpoints it has."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.contract.codec import encode_demand, encode_specs
from router.contract.events import DEMAND, SPECS, DemandReport
from router.contract.handover import Handed
from router.runtime.log.embedded import EmbeddedLog
from router.runtime.vitals import gathered
from tests.support.autoscaler_fleet import SECOND, load
from tests.support.autoscaler_group import specs
from tests.support.autoscaler_shared_log import Scaler, until

ENDPOINT = "tides-0"
Samples = dict[tuple[str, ...], float]


async def scraped(scaler: Scaler) -> Samples:
    """(name without `tidegate_autoscaler_`, label values but the process's) → value."""
    socket = scaler.data.autoscaler_socket
    text = (await gathered(scaler.data.vitals, [socket]))["autoscaler"]
    assert text is not None
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("process") == "autoscaler"
            found[sample.name.removeprefix("tidegate_autoscaler_"), *labels.values()] = sample.value
    return found


class Gateway:
    """Says something, by the log or directly; its messages can get lost."""

    def __init__(self, folder: Path) -> None:
        self.log = EmbeddedLog(folder)

    def say(self, *, direct_to: Scaler | None = None) -> None:
        now = time.time_ns()
        value = encode_demand(DemandReport(ENDPOINT, now - SECOND // 20, now, 1, 0, rows=(load(in_flight=1),)))
        sequence = self.log.append(DEMAND, ENDPOINT, value)
        if direct_to is not None:
            direct_to.autoscaler._taken([Handed(self.log.writer, sequence, now, ENDPOINT, value)])

    def lose(self, count: int) -> None:
        """The next messages were counted and never written."""
        self.log.buffer._sequences[DEMAND, 0] += count


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path / "log")


async def test_what_came_which_way_and_what_was_missing_of_whom(tmp_path: Path, gateway: Gateway) -> None:
    gateway.log.append(SPECS, ENDPOINT, encode_specs(specs(ENDPOINT)))
    other = Gateway(tmp_path / "log")
    scaler = Scaler(tmp_path, tmp_path / "log", "first")
    async with scaler.running(ready=False):
        scaler.member.deal([0, 1], 3)
        await until("settled", lambda: scaler.acts_for(ENDPOINT))
        other.say()
        gateway.say()
        gateway.lose(4)
        for _ in range(3):
            gateway.say(direct_to=scaler)
        await until("both ways", lambda: scaler.autoscaler.intake.stats.echoes == 3)
        scaler.autoscaler._taken([Handed("ab" * 16, 0, 0, ENDPOINT, b"nonsense")])
        found = await scraped(scaler)
    assert found["demand_messages_total", "log"] == 5
    assert found["demand_messages_total", "direct"] == 3
    assert found["demand_repeats_total", "other_way"] == 3
    assert found["demand_repeats_total", "again"] == 0
    assert found["demand_gaps_total", gateway.log.writer] == 4
    assert ("demand_gaps_total", other.log.writer) not in found, "nothing was missing of that one"
    assert found["demand_gaps_total", "other"] == 0
    assert found["demand_late_total", gateway.log.writer] == 0
    assert found["skipped_messages_total",] == 1
    assert (found["partitions", "acting"], found["partitions", "followed"]) == (2, 2)
    assert (found["share_generation",], found["share_confirmed",], found["generation",]) == (3, 1, 3)
    assert found["reporters", "gateway"] == 2
    assert found["turns_total",] >= 2
    assert found["turn_seconds_total",] > 0
    assert found["decisions_total",] >= 1
    assert found["published_replicas_total",] >= 1
    for one in (gateway, other):
        await one.log.close()


async def test_gaps_outlive_the_reader_that_noticed_them(tmp_path: Path, gateway: Gateway) -> None:
    gateway.log.append(SPECS, ENDPOINT, encode_specs(specs(ENDPOINT)))
    scaler = Scaler(tmp_path, tmp_path / "log", "first")
    async with scaler.running(ready=False):
        scaler.member.deal([0], 1)
        await until("settled", lambda: scaler.acts_for(ENDPOINT))
        gateway.say()
        gateway.lose(2)
        gateway.say()
        await until("noticed", lambda: scaler.autoscaler.intake.stats.gaps == 2)
        scaler.member.deal([0, 1], 2)
        await until("a new reader", lambda: len(scaler.autoscaler.reconciler.territory.acting) == 2)
        found = await scraped(scaler)
        assert found["demand_gaps_total", gateway.log.writer] == 2
        assert found["share_generation",] == 2
    assert not scaler.data.autoscaler_socket.exists()
    await gateway.log.close()
    await asyncio.sleep(0)
