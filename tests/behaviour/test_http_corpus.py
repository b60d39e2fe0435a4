"""The corpus of raw HTTP over real sockets: every case is refused, or passes as exactly what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.gateway_rig import PATIENCE, Rig, deployment, gateway, replica, until
from tests.support.gateway_upstream import Request, ScriptedReplica, caller, scripted
from tests.support.http_corpus import Case, cases
from tests.support.http_reference import Message
from tests.support.http_verdicts import check_answer, check_requests, question, sent

pytestmark = pytest.mark.asyncio(loop_scope="module")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedReplica) -> AsyncIterator[Rig]:
    async with gateway(tmp_path_factory.mktemp("gateway")) as rig:
        documents = {"blue": deployment(tidegate={"model_errors": "pass"})}
        await rig.publish("demo", documents, {"blue": 100}, {"blue": [replica(upstream.port)]})
        yield rig


async def everything(port: int, data: bytes, *, shut: bool = False) -> bytes:
    """What comes back until the gateway ends the connection."""
    async with caller(port) as connection:
        connection.send(data)
        if shut:
            connection.shut()
        return await asyncio.wait_for(connection.reader.read(), PATIENCE)


def as_message(request: Request) -> Message:
    fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers]
    return Message((request.method.encode(), request.target.encode()), fields, request.body, b"1.1")


@pytest.mark.parametrize("case", cases("requests"), ids=lambda case: case.id)
async def test_a_request_passes_as_one_or_not_at_all(rig: Rig, upstream: ScriptedReplica, case: Case) -> None:
    whole: list[Request] = []

    async def ok(request: Request, writer: asyncio.StreamWriter) -> None:
        await request.read_body()
        whole.append(request)
        writer.write(OK)

    upstream.script = ok
    answers = await everything(rig.port, sent(case), shut=case.ends)
    check_requests(case, answers, [as_message(one) for one in whole])


@pytest.mark.parametrize("case", cases("answers"), ids=lambda case: case.id)
async def test_an_answer_passes_as_one_or_not_at_all(rig: Rig, upstream: ScriptedReplica, case: Case) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.target == "/behind":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbehind")
            return
        writer.write(case.raw)
        if "closes" in case.how:
            writer.close()

    upstream.script = script
    await upstream.stop()  # so that it has no connection, whatever the case before has left
    await upstream.start()
    await until(lambda: upstream.open == 0, "no connection is left")
    upstream.connections = 0
    try:
        answers = await everything(rig.port, question(case))
    except ConnectionResetError:
        assert case.verdict == "cut"
    else:
        check_answer(case, answers, upstream.connections, whole=True)
