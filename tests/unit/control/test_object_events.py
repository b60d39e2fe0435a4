"""Events are few: the same one is counted up, and one object cannot flood the cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from router.control.resources.telling import BURST, GAP_SECONDS, MESSAGE_CHARACTERS, NORMAL, SECONDS_EACH, Teller
from router.runtime.clock import ManualClock
from router.runtime.kubernetes import Absent, Resource
from tests.support.object_samples import an_object


class Recorder:
    """Keeps events as an API server would."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}

    async def create(self, _: Resource, manifest: Mapping[str, Any]) -> dict[str, Any]:
        self.events[manifest["metadata"]["name"]] = dict(manifest)
        return dict(manifest)

    async def merge(self, _: Resource, __: str, name: str, part: Mapping[str, Any]) -> dict[str, Any]:
        if name not in self.events:
            raise Absent("gone")
        self.events[name] |= part
        return self.events[name]


async def told(teller: Teller, clock: ManualClock, events: Sequence[tuple[str, str]], name: str = "shop") -> None:
    for reason, message in events:
        teller.tell(an_object({}, name), NORMAL, reason, message)
    working = asyncio.create_task(teller.run())
    for _ in range(len(events)):
        while not clock.sleepers and teller.waiting:
            await asyncio.sleep(0)
        clock.advance(GAP_SECONDS)
        for _ in range(5):
            await asyncio.sleep(0)
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def test_the_same_again_is_counted_up() -> None:
    server, clock = Recorder(), ManualClock()
    teller = Teller(server, clock)  # type: ignore[arg-type]
    await told(teller, clock, [("Ready", "yes")] * 3 + [("Ready", "no")])
    assert sorted((one["message"], one["count"]) for one in server.events.values()) == [("no", 1), ("yes", 3)]
    server.events.clear()  # the cluster forgets events after a while
    await told(teller, clock, [("Ready", "yes")])
    assert [one["count"] for one in server.events.values()] == [1]


async def test_one_object_gets_a_few_at_once_and_then_one_now_and_then() -> None:
    server, clock = Recorder(), ManualClock()
    teller = Teller(server, clock)  # type: ignore[arg-type]
    await told(teller, clock, [("Ready", str(number)) for number in range(BURST + 5)])
    assert (len(server.events), teller.dropped) == (BURST, 5)
    await told(teller, clock, [("Ready", "of another")], "other")
    assert len(server.events) == BURST + 1
    clock.advance(2 * SECONDS_EACH)
    await told(teller, clock, [("Ready", f"later {number}") for number in range(4)])
    assert (len(server.events), teller.dropped) == (BURST + 3, 7)


async def test_a_long_message_is_cut() -> None:
    server, clock = Recorder(), ManualClock()
    await told(Teller(server, clock), clock, [("Ready", "x" * 5000)])  # type: ignore[arg-type]
    (event,) = server.events.values()
    assert len(event["message"]) == MESSAGE_CHARACTERS
    assert event["involvedObject"]["uid"] == "uid-shop"
