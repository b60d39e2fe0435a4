"""What is asked over HTTP/2, one function per kind: many streams share a connection, and none may feel the others."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING

from loadtests.soak.causes import UNAVAILABLE
from loadtests.soak.kinds import MIX, UPLOAD
from loadtests.soak.line import Broken, Wrong
from loadtests.soak.model.serve import pattern
from loadtests.soak.road import Unasked, is_told

if TYPE_CHECKING:
    from loadtests.soak.account import Request
    from loadtests.soak.call import Call
    from loadtests.soak.road import Road
    from loadtests.soak.wire import Head

CALLS = "calls"
"""The endpoint whose replicas speak HTTP/2."""
_AT_ONCE = 8
_MESSAGE_BYTES = 5
"""In front of each message of gRPC: whether it is packed, and its length."""


async def json_stream(road: Road, endpoint: str = MIX) -> None:
    """Small JSON."""
    kind = "HTTP/2, json" if endpoint == MIX else f"HTTP/2, json to {endpoint}"
    async with road.asking(kind, endpoint) as asked:
        body = json.dumps({"id": asked.id, "filling": "x" * road.chance.randrange(2000)}).encode()

        async def ask(call: Call) -> None:
            await call.send(body, ended=True)
            head = await road.mine(call, asked)
            is_told(await call.body(head), asked, body, head)

        await road.over_http2(asked, road.fields2(asked, f"Content-Length: {len(body)}"), ask)


async def at_once(road: Road) -> None:
    """Several at the same moment; they meet on few connections."""
    await asyncio.gather(*(json_stream(road) for _ in range(_AT_ONCE)))


async def events(road: Road) -> None:
    """Server-sent events: all of them, in order, with their end."""
    count, gap = road.chance.randrange(5, 60), road.chance.randrange(5, 80)
    async with road.asking("HTTP/2, event stream", MIX, repeatable=False) as asked:

        async def ask(call: Call) -> None:
            await call.send(b"", ended=True)
            head = await road.mine(call, asked)
            expected = "".join(f"data: {asked.id} {number}\n\n" for number in range(count)) + "data: [DONE]\n\n"
            if (data := await call.body(head)) != expected.encode():
                raise Wrong(f"{len(data)} bytes of events, {len(expected)} expected; the end is {data[-200:]!r}")

        fields = ("X-Soak-Do: events", f"X-Soak-Count: {count}", f"X-Soak-Gap-Ms: {gap}")
        await road.over_http2(asked, road.fields2(asked, *fields), ask)


async def upload(road: Road) -> None:
    """More than fits into any window, hashed by the model."""
    body = UPLOAD[: road.chance.randrange(100_000, 2_000_000)]
    async with road.asking("HTTP/2, upload", MIX, repeatable=False) as asked:

        async def ask(call: Call) -> None:
            await call.send(body, ended=True)
            head = await road.mine(call, asked)
            is_told(await call.body(head), asked, body, head)

        await road.over_http2(asked, road.fields2(asked), ask)


async def slow_reader(road: Road) -> None:
    """A large answer, read a little at a time, while others on the connection go on."""
    size = road.chance.randrange(200_000, 900_000)
    async with road.asking("HTTP/2, slow reader", MIX, repeatable=False) as asked:

        async def ask(call: Call) -> None:
            await call.send(b"", ended=True)
            head = await road.mine(call, asked)
            got = bytearray()
            async for piece in call.pieces(head):
                got += piece
                await asyncio.sleep(road.chance.uniform(0.02, 0.2))
            if bytes(got) != pattern(size):
                raise Wrong(f"{len(got)} bytes instead of {size}, or others")

        await road.over_http2(asked, road.fields2(asked, "X-Soak-Do: large", f"X-Soak-Bytes: {size}"), ask)


async def taken_back(road: Road) -> None:
    """A caller that resets its stream: somewhere in the body, while it waits, or in the answer."""
    stage = road.chance.choice(("body", "waiting", "stream"))
    do = (
        ("X-Soak-Do: events", "X-Soak-Count: 50", "X-Soak-Gap-Ms: 30")
        if stage == "stream"
        else ("X-Soak-Wait-Ms: 700",)
    )
    async with road.asking(f"HTTP/2, reset while {stage}", MIX) as asked:

        async def ask(call: Call) -> None:
            await call.send(b"x" * 400, ended=stage != "body")
            if stage == "stream":
                await road.mine(call, asked)
            await asyncio.sleep(road.chance.uniform(0, 0.4))

        await road.over_http2(asked, road.fields2(asked, *do), ask)


async def grpc_unary(road: Road) -> None:
    """One message there, the same back."""
    data = road.chance.randbytes(road.chance.choice((0, 10, 2000, 30_000)))
    async with road.asking("gRPC, unary", CALLS) as asked:

        async def ask(call: Call) -> None:
            await call.send(_message(data), ended=True)
            head = await _called(road, call, asked)
            got = await call.body(head)
            _is_done(call, asked, data)
            if got != _message(data):
                raise Wrong(f"{len(got)} bytes came back of {len(data)}")

        await road.over_http2(asked, _grpc(road, asked, f"X-Soak-Wait-Ms: {road.chance.randrange(50)}"), ask)


async def grpc_talk(road: Road) -> None:
    """Messages both ways: each must come back before the next one goes."""
    async with road.asking("gRPC, both ways", CALLS, repeatable=False) as asked:

        async def ask(call: Call) -> None:
            messages = [road.chance.randbytes(road.chance.randrange(3000)) for _ in range(road.chance.randrange(1, 15))]
            await call.send(_message(messages[0]))
            answers = call.pieces(await _called(road, call, asked))
            sent, got = _message(messages[0]), b""
            for one in messages[1:]:
                while len(got) < len(sent) and (piece := await anext(answers, b"")):
                    got += piece
                if len(got) < len(sent):
                    break
                sent += _message(one)
                await call.send(_message(one))
            await call.send(b"", ended=True)
            got += b"".join([piece async for piece in answers])
            _is_done(call, asked, None)
            if got != sent:
                raise Wrong(f"{len(got)} bytes came back of {len(sent)}, or others")

        await road.over_http2(asked, _grpc(road, asked), ask)


def _grpc(road: Road, asked: Request, *more: str) -> tuple[str, ...]:
    """The fields of a call; the endpoint is found by its host."""
    own = ("Content-Type: application/grpc", "TE: trailers", "grpc-timeout: 60S", *more)
    return road.fields2(asked, *own, path="/soak.Model/Echo", authority=f"{CALLS}.localhost")


def _message(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4) + data


async def _called(road: Road, call: Call, asked: Request) -> Head:
    """The head of a call's answer. Raises `Unasked` for a refusal in gRPC's words."""
    head = await call.head()
    fields = head.fields
    if "grpc-status" in fields:
        asked.status, asked.deployment = head.status, fields.get("azureml-model-deployment", "")
        asked.code = f"grpc-status {fields['grpc-status']}"
        raise Unasked(f"{asked.code} {fields.get('grpc-message')}")
    return await road.mine(call, asked)


def _is_done(call: Call, asked: Request, data: bytes | None) -> None:
    """What stands behind the body. A call that the gateway had to give up in its middle is broken."""
    trailers = call.trailers or {}
    status = trailers.get("grpc-status", "")
    if f"grpc-status {status}" == UNAVAILABLE:
        raise Broken(f"{UNAVAILABLE} behind an answer: {trailers.get('grpc-message')}")
    if status != "0":
        raise Wrong(f"trailers {trailers} of {asked.id}")
    if data is not None and trailers.get("x-soak-hash") != hashlib.sha256(_message(data)).hexdigest():
        raise Wrong(f"the model hashed something else of {asked.id}")
