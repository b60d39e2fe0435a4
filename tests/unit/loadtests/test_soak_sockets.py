"""The soak's WebSockets against a common library, and what they take for a fault."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from loadtests.soak import sockets
from loadtests.soak.account import Account
from loadtests.soak.causes import LEAVES
from loadtests.soak.road import Road


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def something_else(connection: ServerConnection) -> None:
    async for _ in connection:
        await connection.send("something else")


async def unasked(connection: ServerConnection) -> None:
    await connection.send("nobody asked")
    await connection.wait_closed()


async def leaves(connection: ServerConnection) -> None:
    await connection.recv()
    await connection.close(1001)


async def breaks(connection: ServerConnection) -> None:
    await connection.recv()
    await connection.close(1011)


def marked(_: ServerConnection, request: Request, response: Response) -> Response:
    response.headers["x-soak-id"] = request.headers["x-soak-id"]
    response.headers["x-soak-seen"] = "1"
    response.headers["x-request-id"] = request.headers["x-soak-id"]
    return response


async def accounts(handler: Callable[[ServerConnection], Awaitable[None]], seconds: float) -> Account:
    """What is accounted of one that is served so."""
    account = Account()
    options = {"ping_interval": None, "max_size": 1 << 24, "close_timeout": 2}
    async with asyncio.timeout(60), serve(handler, "127.0.0.1", 0, process_response=marked, **options) as server:  # type: ignore[arg-type]
        port = next(iter(server.sockets)).getsockname()[1]
        road = Road(f"http://127.0.0.1:{port}", {sockets.ENDPOINT: "key"}, account, random.Random(5))
        await (sockets.stays(road, seconds) if seconds else sockets.echoes(road))
        road.end()
    return account


@pytest.mark.parametrize("seconds", [0, 1])
async def test_what_comes_back_as_it_went_is_well(seconds: float) -> None:
    account = await accounts(echo, seconds)
    assert account.failures == []
    assert sum(kind.ok for kind in account.kinds.values()) == 1


@pytest.mark.parametrize(
    ("handler", "how", "code"),
    [
        (something_else, "wrong", ""),
        (unasked, "wrong", ""),
        (leaves, "status", LEAVES),
        (breaks, "broken", ""),
    ],
)
async def test_everything_else_is_told_apart(
    handler: Callable[[ServerConnection], Awaitable[None]], how: str, code: str
) -> None:
    (failed,) = (await accounts(handler, 1)).failures
    assert (failed.how, failed.code) == (how, code)
