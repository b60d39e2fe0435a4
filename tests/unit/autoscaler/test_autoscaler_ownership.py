"""One owner per data folder, and a generation that only counts up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from autoscaler.control import ownership
from router.contract.errors import Conflict

HOLD = """
import asyncio, sys
from pathlib import Path
from autoscaler.control.ownership import take
owner = asyncio.run(take(Path(sys.argv[1])))
print(owner.generation, flush=True)
sys.stdin.read()
"""


async def test_generations_count_up_over_owners(tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        owner = await ownership.take(tmp_path)
        assert owner.generation == expected
        owner.release()
    owner = await ownership.take(tmp_path)
    owner.raise_above(41)
    owner.raise_above(7)
    assert owner.generation == 42
    owner.release()
    after = await ownership.take(tmp_path)
    assert after.generation == 43
    after.release()


async def test_a_second_owner_waits_and_is_then_refused_or_let_in(tmp_path: Path) -> None:
    first = await ownership.take(tmp_path)
    with pytest.raises(Conflict, match="another autoscaler owns"):
        await ownership.take(tmp_path, wait_seconds=0.1)
    waiting = asyncio.create_task(ownership.take(tmp_path, wait_seconds=60))
    await asyncio.sleep(0)
    first.release()
    second = await waiting
    assert second.generation == first.generation + 1
    second.release()


async def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "1"
        with pytest.raises(Conflict):
            await ownership.take(tmp_path, wait_seconds=0.1)
        holder.kill()
    owner = await ownership.take(tmp_path, wait_seconds=30)
    assert owner.generation == 2
    owner.release()
