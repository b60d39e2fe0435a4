"""Large pieces of work: one in each turn of the loop, in their order, whatever becomes of one of them."""

from __future__ import annotations

import asyncio
from typing import Any

from router.gateway.turns import Turns


async def test_others_are_served_between_any_two_of_them() -> None:
    loop = asyncio.get_running_loop()
    turns = Turns(loop)
    done: list[str] = []

    def other() -> None:
        done.append("-")
        if len(done) < 10:
            loop.call_soon(other)

    loop.call_soon(other)
    for name in "abc":
        turns.add(lambda name=name: done.append(name))  # type: ignore[misc]
    while len(done) < 10:
        await asyncio.sleep(0)
    assert "".join(done)[:6] == "-a-b-c"


async def test_one_may_ask_for_another_turn() -> None:
    turns = Turns(asyncio.get_running_loop())
    done: list[str] = []

    def again() -> None:
        done.append("a")
        if done.count("a") < 3:
            turns.add(again)

    turns.add(again)
    turns.add(lambda: done.append("b"))
    while len(done) < 4:
        await asyncio.sleep(0)
    assert done == ["a", "b", "a", "a"]


async def test_one_that_fails_holds_up_no_other() -> None:
    loop = asyncio.get_running_loop()
    turns = Turns(loop)
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    done = asyncio.Event()

    def fail() -> None:
        raise ValueError("no")

    turns.add(fail)
    turns.add(done.set)
    await asyncio.wait_for(done.wait(), 30)
    assert [str(one["exception"]) for one in told] == ["no"]
