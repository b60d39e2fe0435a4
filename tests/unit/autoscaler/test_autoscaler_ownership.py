"""One owner per data folder, and a generation that only counts up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from autoscaler.control import ownership
from autoscaler.control.ownership import Mandate
from router.contract.errors import Conflict
from router.runtime.clock import ManualClock
from router.runtime.log.base import Share

NOTHING = Share(frozenset(), 0)

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


class Told:
    """A membership that says what a test sets."""

    def __init__(self, share: Share = NOTHING, *, reachable: bool = False) -> None:
        self.share, self.reachable = share, reachable

    async def changed(self) -> Share:
        await asyncio.Event().wait()
        return self.share

    async def close(self) -> None:
        """Nothing is open."""


async def mandate(root: Path, member: Told, clock: ManualClock, partitions: int = 4) -> Mandate:
    """Of a new process."""
    owner = await ownership.take(root)
    made = Mandate(member, owner, root, partitions, clock, assume_seconds=5.0)
    owner.release()
    return made


async def test_who_is_alone_has_everything_and_remembers_nothing(tmp_path: Path) -> None:
    (tmp_path / ownership.SHARE_FILE).write_text("{}")
    owner = await ownership.take(tmp_path)
    made = Mandate(Told(Share(frozenset({0}), 0), reachable=True), owner, tmp_path, 1, ManualClock())
    assert (made.alone, made.dealt, made.confirmed, made.assumed) == (True, True, True, False)
    assert made.floor == owner.generation == 1
    made.used(42)
    assert made.floor == 42
    assert not (tmp_path / ownership.SHARE_FILE).exists()
    owner.release()


async def test_the_last_share_counts_only_when_nobody_can_say_for_a_while(tmp_path: Path) -> None:
    clock, dealt = ManualClock(), Share(frozenset({1, 3}), 8)
    first = await mandate(tmp_path, Told(dealt, reachable=True), clock)
    assert (first.share, first.dealt, first.confirmed, first.floor) == (dealt, True, True, 8)
    first.used(9)
    member = Told()
    again = await mandate(tmp_path, member, clock)
    assert (again.share, again.dealt) == (NOTHING, False), "it may still answer"
    clock.advance(5)
    assert (again.share, again.dealt, again.assumed, again.confirmed) == (dealt, True, True, False)
    assert again.floor == 8
    member.reachable = True
    assert again.share == NOTHING, "somebody can say now, and will"
    member.share = Share(frozenset(), 9)
    assert (again.share, again.dealt, again.confirmed) == (member.share, True, True), "nothing, and that is an answer"
    again.used(9)
    member.share, member.reachable = NOTHING, False
    third = await mandate(tmp_path, member, clock)
    clock.advance(5)
    assert third.share == Share(frozenset(), 9)


async def test_a_share_of_before_stays_while_the_broker_is_away(tmp_path: Path) -> None:
    member = Told(Share(frozenset({1}), 8), reachable=True)
    made = await mandate(tmp_path, member, ManualClock())
    member.reachable = False
    assert (made.share, made.assumed, made.confirmed) == (member.share, False, False)


@pytest.mark.parametrize("text", ["", "[]", '{"partitions": 3}', '{"partitions": [1], "generation": 2, "of": 4}'])
async def test_a_note_that_cannot_be_read_is_left_out(tmp_path: Path, text: str) -> None:
    (tmp_path / ownership.SHARE_FILE).write_text(text)
    clock = ManualClock()
    made = await mandate(tmp_path, Told(), clock)
    clock.advance(60)
    assert (made.share, made.dealt) == (NOTHING, False)


async def test_a_note_about_another_number_of_partitions_is_left_out(tmp_path: Path) -> None:
    clock = ManualClock()
    (await mandate(tmp_path, Told(Share(frozenset({1}), 8), reachable=True), clock)).used(8)
    made = await mandate(tmp_path, Told(), clock, partitions=12)
    clock.advance(60)
    assert not made.dealt


async def test_generations_of_before_the_sharing_are_outdone(tmp_path: Path) -> None:
    for _ in range(3):
        (await ownership.take(tmp_path)).release()
    made = await mandate(tmp_path, Told(Share(frozenset({1}), 2), reachable=True), ManualClock())
    assert made.floor == 3, "backends of the folder have seen that one"
    owner = await ownership.take(tmp_path)
    again = Mandate(Told(Share(frozenset({1}), 2), reachable=True), owner, tmp_path, 4, ManualClock())
    again.used(50)
    owner.release()
    assert (await mandate(tmp_path, Told(Share(frozenset({1}), 4), reachable=True), ManualClock())).floor == 4
    alone = await ownership.take(tmp_path)
    assert alone.generation > 50, "and one that shares nothing any more outdoes what was used meanwhile"
    alone.release()
