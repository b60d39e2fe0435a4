"""A spool on a disk that is full, to the last byte and by somebody else's doing: it empties, and nothing accepted is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.broker import Broker
from router.contract.errors import Unavailable
from router.contract.events import SHADOWS, SPECS
from router.runtime.log.kafka_url import KafkaUrl
from router.runtime.log.spool_disk import Ballast, free_bytes, reserve_bytes
from tests.support.kafka_spool import Machine, check_complete, kafka_url, machine, on_kafka, shipping, until


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only a privileged user may mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def url(kafka_broker: Broker, prefix: str) -> KafkaUrl:
    return kafka_url(kafka_broker.servers, prefix)


async def fill_until_it_is_full(one: Machine) -> int:
    """Append what cannot be folded until commits fail; how many were accepted."""
    for number in range(10_000):
        one.append(SHADOWS, f"e{number % 7}", os.urandom(8_000))
        if number % 50 == 49:
            try:
                await one.log.flush()
            except Unavailable:
                return number
    raise AssertionError("the disk never got full")


def eat(place: Path) -> Path:
    """Somebody else takes what is left."""
    food = place / "food"
    with contextlib.suppress(OSError), food.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return food


async def test_a_full_disk_empties_into_kafka_and_nothing_accepted_is_lost(disk: Path, url: KafkaUrl) -> None:
    quick = {"retry_seconds": 0.01, "retry_limit_seconds": 0.1}
    async with machine(url, disk / "one", **quick) as one:
        assert Ballast(disk / "one").take()
        accepted = await fill_until_it_is_full(one)
        assert accepted > 500
        eat(disk)
        assert free_bytes(disk) < 4096
        for number in range(200):
            one.append(SHADOWS, f"e{number % 7}", os.urandom(8_000))
        one.append(SPECS, "e", b"kept too")
        async with shipping(url, one.folder):
            await one_flushed(one)
            await one.shipped()
            await until(one.spool.copy_is_current)
        assert not one.log.dropped()
    assert check_complete(await on_kafka(url, SHADOWS), [one], SHADOWS) == 0
    assert check_complete(await on_kafka(url, SPECS), [one], SPECS) == 0


async def one_flushed(one: Machine) -> None:
    """Until everything is committed, however often that fails first."""
    async with asyncio.timeout(120):
        while True:
            try:
                await one.log.flush()
                return
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_the_ballast_is_taken_back_when_there_is_room(disk: Path, url: KafkaUrl) -> None:
    async with machine(url, disk / "one") as one:
        food = eat(disk)
        async with shipping(url, one.folder):
            await until(lambda: one.spool.link() is not None or free_bytes(disk) < 4096)
            ballast = Ballast(one.folder)
            assert not ballast.held
            food.unlink()
            await until(lambda: ballast.held)
            assert (one.folder / "ballast").stat().st_blocks * 512 >= reserve_bytes(disk)
