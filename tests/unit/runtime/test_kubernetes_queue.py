"""Each deployment once in the queue and with one worker; what fails waits longer and longer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from router.runtime.clock import SystemClock
from router.runtime.kubernetes.queue import FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS, Queue

A, B, C = ("e", "a"), ("e", "b"), ("e", "c")


@pytest.fixture
def queue() -> Iterator[Queue]:
    made = Queue(SystemClock(), lambda: 0.0)
    yield made
    made.close()


async def taken(queue: Queue) -> tuple[str, str] | None:
    """The next one, if there is one at once."""
    try:
        async with asyncio.timeout(0.01):
            return await queue.next()
    except TimeoutError:
        return None


async def test_many_calls_are_one_look(queue: Queue) -> None:
    for _ in range(5):
        queue.add(A)
        queue.add(B)
    assert [await taken(queue) for _ in range(3)] == [A, B, None]


async def test_what_happens_while_it_is_looked_at_is_looked_at_afterwards(queue: Queue) -> None:
    queue.add(A)
    assert await taken(queue) == A
    queue.add(A)
    queue.add(A, urgent=True)
    assert await taken(queue) is None
    queue.done(A)
    assert await taken(queue) == A
    queue.done(A)
    assert await taken(queue) is None


async def test_urgent_ones_go_first_and_once(queue: Queue) -> None:
    for target in (A, B, C):
        queue.add(target)
    queue.add(C, urgent=True)
    assert [await taken(queue) for _ in range(4)] == [C, A, B, None]


async def test_after_a_failure_nothing_but_time_helps(queue: Queue) -> None:
    queue.add(A)
    await queue.next()
    pauses = []
    for _ in range(12):
        queue._busy.add(A)
        pauses.append(queue.done(A, failed=True))
    assert pauses[:3] == [FIRST_PAUSE_SECONDS / 2, FIRST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2]
    assert pauses[-1] == MOST_PAUSE_SECONDS / 2  # half of it is drawn, and chance says nothing here
    for _ in range(10):
        queue.add(A)
    assert await taken(queue) is None


async def test_a_new_wish_waits_the_first_pause_only(queue: Queue) -> None:
    queue.add(A)
    await queue.next()
    queue.done(A, failed=True, least_seconds=3600)
    for _ in range(10):
        queue.add(A, urgent=True)
    assert await taken(queue) is None
    async with asyncio.timeout(30):
        assert await queue.next() == A


async def test_success_forgets_failures(queue: Queue) -> None:
    queue.add(A)
    await queue.next()
    for _ in range(5):
        queue._busy.add(A)
        queue.done(A, failed=True)
    queue._busy.add(A)
    queue.done(A)
    assert queue.done(A, failed=True) == FIRST_PAUSE_SECONDS / 2


async def test_a_waiting_worker_gets_what_comes(queue: Queue) -> None:
    worker = asyncio.create_task(queue.next())
    await asyncio.sleep(0)
    queue.add(B)
    assert await asyncio.wait_for(worker, 30) == B
