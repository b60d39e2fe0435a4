"""Probes of servers that speak nothing but HTTP/2."""

from __future__ import annotations

from autoscaler.backends.local.probes import greets
from loadtests.waiting import free_port
from tests.support.gateway_upstream import scripted
from tests.support.grpc_model import grpc_model
from tests.support.http2_replica import http2_replica


async def test_a_server_that_tells_its_settings_is_well() -> None:
    async with http2_replica() as one, grpc_model() as other:
        assert await greets("127.0.0.1", one.port, 10)
        assert await greets("127.0.0.1", other.port, 10)


async def test_one_that_speaks_something_else_or_nothing_is_not() -> None:
    async with scripted() as server:
        assert not await greets("127.0.0.1", server.port, 0.3)
    assert not await greets("127.0.0.1", free_port(), 10)
