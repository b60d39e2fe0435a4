"""A broker that dies, freezes or loses a leader under load: everything that was accepted is read, and counts once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("aiokafka")

from router.contract.events import REQUESTS
from router.runtime.log.kafka_messages import partition_of
from tests.support.log_faults import machine
from tests.support.log_faults_writer import ENDPOINTS

if TYPE_CHECKING:
    from loadtests.broker import Broker, Cluster

ROUNDS = 10
FROZEN_SECONDS = 30.0


@pytest.mark.timeout(900)
async def test_a_broker_that_is_killed_under_load_costs_nothing_that_was_accepted(
    own_broker: Broker, tmp_path: Path
) -> None:
    async with machine(tmp_path, own_broker.servers) as here:
        await here.shipper()
        writer, reader = await here.writer(), await here.reader()
        for _ in range(ROUNDS):
            await reader.further(500)
            await own_broker.kill()
            await writer.further(500)
            await own_broker.start()
        await reader.further(500)
        seen = await here.settle(reader, writer)
        assert seen.audit.records() > ROUNDS * 1000
        assert writer.told.dropped == {}


async def test_a_frozen_broker_holds_up_no_append_and_loses_nothing(own_broker: Broker, tmp_path: Path) -> None:
    async with machine(tmp_path, own_broker.servers) as here:
        await here.shipper()
        writer, reader = await here.writer(), await here.reader()
        await reader.further(500)
        await own_broker.freeze()
        thaw_at = asyncio.get_running_loop().time() + FROZEN_SECONDS
        await here.state("unreachable")
        before = writer.told.appends
        await writer.until(lambda told: told.appends > before + 1000)
        await asyncio.sleep(thaw_at - asyncio.get_running_loop().time())  # the subject: a broker frozen for so long
        assert (await here.health()).state == "unreachable"
        await own_broker.thaw()
        await reader.further(500)
        await here.settle(reader, writer)
        assert writer.told.dropped == {}
        assert writer.told.slowest_ms < 1000 * FROZEN_SECONDS / 2


@pytest.fixture
async def cluster(kafka_here: None, tmp_path: Path) -> AsyncIterator[Cluster]:
    from loadtests.broker import Cluster

    nodes = Cluster(tmp_path / "cluster")
    await nodes.start()
    yield nodes
    await nodes.kill()


@pytest.mark.timeout(600)
async def test_a_partition_whose_leader_is_killed_under_load_goes_on_with_another(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with machine(tmp_path, cluster.servers, replication=3) as here:
        await here.shipper()
        writer, reader = await here.writer(), await here.reader()
        await reader.further(500)
        partition = partition_of(ENDPOINTS[0], 3)
        leader = await cluster.leader_of(f"faults.{REQUESTS}", partition)
        await leader.kill()
        await writer.further(500)
        assert await cluster.leader_of(f"faults.{REQUESTS}", partition) is not leader
        await reader.further(1000)
        await here.settle(reader, writer)
        assert writer.told.dropped == {}
