"""Demand of very many endpoints: what is urgent or moves at once, the others a few at a time until all have had their turn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mirror.demand import Meter
from mirror.discovery import Directory, EndpointView
from mirror.recorder import MOST_IDLE, Recorder


class Log:
    """What was reported, in order."""

    writer = "boot"

    def __init__(self) -> None:
        self.keys: list[str] = []

    def append(self, topic: str, key: str, value: bytes) -> int:
        assert topic == "demand"
        assert value
        self.keys.append(key)
        return len(self.keys)


@pytest.mark.asyncio
async def test_idle_endpoints_are_reported_in_turns_and_those_that_move_always() -> None:
    directory, log = Directory(), Log()
    names = [f"e{number}" for number in range(3 * MOST_IDLE + 1)]
    directory.endpoints = {name: EndpointView(revision=1, mirrors=("candidate",)) for name in names}
    directory.endpoints["plain"] = EndpointView(revision=1)
    moving = [("e3", "candidate")]
    dispatcher: Any = SimpleNamespace(moving=lambda: moving, row=lambda key, now: Meter(key[1]).row(now, 0, 0.0))
    recorder = Recorder(log, directory, lambda *_: None)  # type: ignore[arg-type]  # append is all it needs
    recorder.report(dispatcher, everything=True)
    for _ in range(3):
        assert len(log.keys) <= MOST_IDLE + 1
        seen = set(log.keys)
        assert "e3" in seen
        names = [name for name in names if name not in seen]
        log.keys.clear()
        recorder.report(dispatcher, everything=False)
    assert not set(names) - set(log.keys), "all have had their turn"
    log.keys.clear()
    recorder.urge("plain")
    recorder.report(dispatcher, everything=False)
    assert sorted(log.keys) == ["e3", "plain"]
