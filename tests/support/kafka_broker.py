"""A real Kafka for tests: one broker shared by the whole run, and one of its own for a test that is cruel to it.

The fixtures are known everywhere (`tests/conftest.py`); whoever asks for one is skipped, with the reason, where no
broker can run.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from loadtests.broker import Broker


@pytest.fixture(scope="session")
def kafka_here() -> None:
    """Skips what needs a broker where none can run."""
    from loadtests.broker import missing

    if (reason := missing()) is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka_broker(kafka_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The broker of the whole run, with all its secured listeners. Topics are told apart by `prefix`."""
    from loadtests.broker import Broker, Security

    broker = Broker(tmp_path_factory.mktemp("kafka"), security=Security())
    # A loop of its own, which leaves that of the test alone; the broker itself belongs to none.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(broker.start())
    yield broker
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(broker.stop())


@pytest.fixture
async def own_broker(kafka_here: None, tmp_path: Path) -> AsyncIterator[Broker]:
    """A broker that the test may kill, freeze and restart."""
    from loadtests.broker import Broker

    broker = Broker(tmp_path / "kafka")
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
def prefix() -> str:
    """What the names of a test's topics begin with on the shared broker."""
    return f"t{uuid.uuid4().hex[:12]}"
