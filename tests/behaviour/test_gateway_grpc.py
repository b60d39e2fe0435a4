"""gRPC through the gateway, with gRPC's own library as caller and as model server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from grpc import StatusCode

from router.contract.events import Outcome
from tests.support.gateway_rig import PATIENCE, Rig, deployment, gateway, replica, until
from tests.support.grpc_model import GrpcCaller, GrpcModel, failure, grpc_caller, grpc_model

HTTP2 = {"protocol": "http2"}


@pytest_asyncio.fixture
async def model() -> AsyncIterator[GrpcModel]:
    async with grpc_model() as server:
        yield server


@pytest_asyncio.fixture
async def rig(tmp_path: Path, model: GrpcModel, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    settings: dict[str, Any] = getattr(request, "param", {})
    async with gateway(tmp_path) as rig:
        document = deployment(tidegate=HTTP2, **settings)
        await rig.publish("demo", {"blue": document}, {"blue": 100}, {"blue": [replica(model.port, replica_id="blue")]})
        yield rig


@pytest_asyncio.fixture
async def peer(rig: Rig) -> AsyncIterator[GrpcCaller]:
    async with grpc_caller(rig.port) as channel:
        yield channel


async def record(rig: Rig, count: int = 1) -> Any:
    """The last of so many records."""
    found = await until(lambda: [one for one in rig.records if one.deployment][count - 1 :], "a record")
    return found[0]


async def test_a_call_and_its_answer_pass_with_what_stands_around_them(
    rig: Rig, peer: GrpcCaller, model: GrpcModel
) -> None:
    call = peer.unary(b"hello", extra=[("x-mine", "1"), ("data-bin", b"\0\1")])
    assert await call == b"hello"
    assert (await call.code(), dict(await call.trailing_metadata())["x-trailer"]) == (StatusCode.OK, "1")
    answered = dict(await call.initial_metadata())
    sent = model.metadata[0]
    assert answered["azureml-model-deployment"] == "blue"
    assert sent["data-bin"] == b"\0\1"
    assert (sent["x-mine"], sent["x-request-id"]) == ("1", answered["x-request-id"])
    assert "authorization" not in sent
    found = await record(rig)
    assert (found.status, found.model_status, found.outcome, found.replica) == (200, 200, Outcome.OK, "blue")


async def test_many_questions_have_one_answer(peer: GrpcCaller) -> None:
    async def questions() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d," % number

    assert await peer.gather(questions()) == b"".join(b"%d," % number for number in range(100))


async def test_one_question_has_many_answers_and_each_comes_when_it_is_there(
    peer: GrpcCaller, model: GrpcModel
) -> None:
    call = peer.spread(2)
    assert [await call.read(), await call.read()] == [b"0", b"1"]
    assert not call.done()
    model.go.set()
    assert [one async for one in peer.spread(1000)] == [b"%d" % number for number in range(1000)]


async def test_questions_and_answers_take_turns(peer: GrpcCaller) -> None:
    call = peer.talk()
    for number in range(100):
        await call.write(b"a%d" % number)
        assert await call.read() == (b"a%d" % number)[::-1]
    await call.done_writing()
    assert await call.code() is StatusCode.OK


async def test_large_messages_pass_both_ways(peer: GrpcCaller) -> None:
    message = bytes(range(256)) * 12_000
    assert all(await asyncio.gather(*(_echoed(peer, message) for _ in range(8))))


async def _echoed(peer: GrpcCaller, message: bytes) -> bool:
    return bool(await peer.unary(message) == message)


async def test_an_error_of_the_model_reaches_the_caller_with_its_words(rig: Rig, peer: GrpcCaller) -> None:
    error = await failure(peer.unary(b"refuse"))
    assert (error.code(), error.details()) == (StatusCode.INVALID_ARGUMENT, "not a picture: 100 %")
    assert dict(error.trailing_metadata() or ())["x-why"] == "because"
    assert (await record(rig)).outcome is Outcome.OK


@pytest.mark.parametrize(("asked", "code"), [(b"raise", StatusCode.UNKNOWN), (b"internal", StatusCode.INTERNAL)])
async def test_a_failure_of_the_model_counts_as_one(rig: Rig, peer: GrpcCaller, asked: bytes, code: StatusCode) -> None:
    assert (await failure(peer.unary(asked))).code() is code
    found = await record(rig)
    assert (found.status, found.model_status, found.outcome) == (200, 500, Outcome.MODEL_ERROR)


async def test_a_caller_whose_deadline_passes_is_gone_for_the_model_too(peer: GrpcCaller, model: GrpcModel) -> None:
    assert (await failure(peer.unary(b"long", timeout=0.3))).code() is StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(PATIENCE):
        await model.cancelled.wait()


async def test_a_caller_that_cancels_is_gone_for_the_model_too(rig: Rig, peer: GrpcCaller, model: GrpcModel) -> None:
    call = peer.unary(b"long")
    await until(lambda: model.metadata, "the call")
    call.cancel()
    async with asyncio.timeout(PATIENCE):
        await model.cancelled.wait()
    assert (await record(rig)).outcome is Outcome.CLIENT_ABORTED
    assert await peer.unary(b"next") == b"next"


async def test_many_calls_share_few_connections(rig: Rig, peer: GrpcCaller, model: GrpcModel) -> None:
    calls = [peer.unary(b"wait") for _ in range(90)]
    await until(lambda: model.waiting == 90, "90 calls at once")
    model.go.set()
    assert await asyncio.gather(*calls) == [b"wait"] * 90
    assert len(model.peers) == 1


async def test_more_calls_than_one_connection_takes_get_another(rig: Rig, model: GrpcModel) -> None:
    async with grpc_caller(rig.port) as one, grpc_caller(rig.port) as other:
        await rig.publish(
            "demo", {"blue": deployment(concurrency=500, tidegate=HTTP2)}, {"blue": 100}, {"blue": [replica(model.port, replica_id="blue")]}
        )  # fmt: skip
        calls = [peer.unary(b"wait") for peer in (one, other) for _ in range(80)]
        await until(lambda: model.waiting == 160, "160 calls at once")
        model.go.set()
        assert await asyncio.gather(*calls) == [b"wait"] * 160
        assert len(model.peers) == 2


async def test_the_split_is_exact_per_call(tmp_path: Path, model: GrpcModel) -> None:
    async with gateway(tmp_path) as rig:
        documents = {"blue": deployment(tidegate=HTTP2), "green": deployment(tidegate=HTTP2)}
        sets = {name: [replica(model.port, replica_id=name)] for name in documents}
        await rig.publish("demo", documents, {"blue": 80, "green": 20}, sets)
        found: Counter[str] = Counter()
        async with grpc_caller(rig.port) as peer:
            for _ in range(50):
                call = peer.unary(b"x")
                await call
                found[dict(await call.initial_metadata())["azureml-model-deployment"]] += 1
    assert found == {"blue": 40, "green": 10}


async def test_what_the_gateway_refuses_is_said_in_grpcs_words(rig: Rig, model: GrpcModel) -> None:
    async with grpc_caller(rig.port, "wrong") as peer:
        error = await failure(peer.unary(b"x"))
        assert error.code() is StatusCode.UNAUTHENTICATED
        assert "Authorization" in (error.details() or "")
        assert dict(error.initial_metadata() or error.trailing_metadata() or ())["x-request-id"]
    async with grpc_caller(rig.port, host="other.localhost") as peer:
        assert (await failure(peer.unary(b"x"))).code() is StatusCode.NOT_FOUND


@pytest.mark.parametrize("rig", [{"concurrency": 1}], indirect=True)
async def test_too_many_calls_are_told_so(rig: Rig, peer: GrpcCaller, model: GrpcModel) -> None:
    calls = [asyncio.ensure_future(_code(peer.unary(b"wait"))) for _ in range(3)]
    done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
    assert [one.result() for one in done] == [StatusCode.RESOURCE_EXHAUSTED]
    model.go.set()
    assert await asyncio.gather(*waiting) == [StatusCode.OK, StatusCode.OK]


async def _code(call: Any) -> Any:
    """How whatever is awaited ends."""
    try:
        await call
    except Exception as error:  # the code says which
        return error.code()  # type: ignore[attr-defined] # only gRPC's have one
    return StatusCode.OK


@pytest.mark.parametrize("rig", [{"timeout_ms": 300}], indirect=True)
async def test_a_model_that_takes_too_long_is_given_up(rig: Rig, peer: GrpcCaller, model: GrpcModel) -> None:
    assert (await failure(peer.unary(b"long"))).code() is StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(PATIENCE):
        await model.cancelled.wait()


async def test_a_server_that_stops_finishes_what_it_has_and_the_rest_goes_elsewhere(
    rig: Rig, peer: GrpcCaller, model: GrpcModel
) -> None:
    under_way = [peer.unary(b"wait") for _ in range(5)]
    await until(lambda: model.waiting == 5, "the calls")
    async with grpc_model() as second:
        replicas = [replica(model.port, replica_id="blue"), replica(second.port, replica_id="second")]
        await rig.publish("demo", {"blue": deployment(tidegate=HTTP2)}, {"blue": 100}, {"blue": replicas})
        stopping = asyncio.ensure_future(model.server.stop(PATIENCE))
        answers = [await peer.unary(b"%d" % number) for number in range(30)]
        assert answers == [b"%d" % number for number in range(30)]
        model.go.set()
        assert await asyncio.gather(*under_way) == [b"wait"] * 5
        await stopping


async def test_a_server_that_dies_fails_what_it_had_once(rig: Rig, peer: GrpcCaller, model: GrpcModel) -> None:
    call = peer.spread(2)
    assert await call.read() == b"0"
    await model.server.stop(0)
    assert await _code(_rest(call)) in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)


async def _rest(call: Any) -> None:
    while await call.read():
        pass
