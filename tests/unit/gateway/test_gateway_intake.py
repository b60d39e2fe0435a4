"""What a caller's bytes leave behind, on a connection in memory: between two requests nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import cast

import pytest

from router.gateway.downstream import Downstream
from tests.support.gateway_memory import Wire, memory_gateway
from tests.support.gateway_rig import KEY

ASKED = f"GET /endpoints/demo/score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()


@pytest.mark.interpreted
@pytest.mark.parametrize(
    "pieces",
    [
        (ASKED,),
        (ASKED[:5], ASKED[5:]),
        (ASKED, ASKED),
        (ASKED, ASKED, b"\r", b"\n" + ASKED),
        (ASKED, b"\r\n", b"\r", b"\n\r\n" + ASKED),
    ],
)
async def test_a_connection_without_a_request_ends_without_a_word(tmp_path: Path, pieces: tuple[bytes, ...]) -> None:
    async with memory_gateway(tmp_path) as gateway:
        heard: list[bytes | None] = []
        down = Downstream(gateway.state)
        wire = Wire(cast("asyncio.Protocol", down), heard.append)
        down.connection_made(wire)
        for piece in pieces:
            down.data_received(piece)
            while down.exchange is not None:
                await asyncio.sleep(0)
        answers = [one for one in heard if one]
        assert len(answers) == sum(ASKED[-20:] in piece for piece in pieces)
        assert all(one.startswith(b"HTTP/1.1 200 ") for one in answers)
        assert down.intake.is_idle()
        down.on_deadline(time.monotonic_ns())
        assert heard[len(answers) :] == [None]
        await asyncio.sleep(0)
