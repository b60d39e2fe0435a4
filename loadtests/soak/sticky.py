"""Callers with a cookie: each stays with its deployment until the weights change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadtests.soak.kinds import small
from loadtests.soak.line import Wrong

if TYPE_CHECKING:
    from loadtests.soak.road import Road

ENDPOINT = "sticky"
COOKIE = "tide"
_CALLERS = 40


@dataclass(slots=True)
class Caller:
    """One browser."""

    cookie: str = ""
    home: str = ""
    era: int = -1
    """Of the weights under which `home` was seen."""


@dataclass(slots=True)
class Stickiness:
    """What the callers may expect of the endpoint now."""

    era: int = 0
    """Grows when a change of weights begins and when it is done, so it is odd during a change."""
    callers: list[Caller] = field(default_factory=lambda: [Caller() for _ in range(_CALLERS)])

    @property
    def settled(self) -> bool:
        """Whether no change is under way."""
        return not self.era % 2


async def sticks(road: Road, state: Stickiness) -> None:
    """One request of one of the callers."""
    caller, era = road.chance.choice(state.callers), state.era
    async with road.asking("sticky caller", ENDPOINT) as asked, road.connection(asked) as connection:
        cookie = caller.cookie
        await small(road, connection, asked, *([f"Cookie: other=1; {COOKIE}={cookie}"] if cookie else []))
        if not cookie or cookie != caller.cookie or era != state.era or not state.settled:
            return
        if caller.era == era and caller.home != asked.deployment:
            raise Wrong(
                f"{cookie!r} was with {caller.home!r} and came to {asked.deployment!r}; the weights are as they were"
            )
        caller.home, caller.era = asked.deployment, era


async def gets_cookie(road: Road, state: Stickiness) -> None:
    """A caller without a cookie gets one, which keeps it where it came."""
    caller, era = road.chance.choice(state.callers), state.era
    async with road.asking("sticky caller, new", ENDPOINT) as asked, road.connection(asked) as connection:
        await connection.send(road.post(asked, b"{}"))
        head = await road.mine(connection, asked)
        await connection.body(head)
        name, _, rest = head.fields.get("set-cookie", "").partition("=")
        if name != COOKIE or not rest:
            raise Wrong(f"no cookie in {head.fields}")
        caller.cookie, caller.home, caller.era = rest.partition(";")[0], asked.deployment, -1
        if era == state.era and state.settled:
            caller.era = era
