"""How often the kernel asks quiet replicas whether they are there."""

from __future__ import annotations

import asyncio
import socket

import pytest

from router.gateway.upstream import ask_whether_alive


@pytest.mark.parametrize(
    ("connections", "quiet", "between"), [(1, 3, 1), (999, 3, 1), (5_000, 18, 6), (50_000, 153, 51)]
)
async def test_of_very_many_connections_each_is_asked_more_seldom(connections: int, quiet: int, between: int) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        ask_whether_alive(writer.transport, connections)
        end = writer.get_extra_info("socket")
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [end.getsockopt(socket.IPPROTO_TCP, one) for one in options] == [quiet, between, 3]
        writer.close()
        await writer.wait_closed()
