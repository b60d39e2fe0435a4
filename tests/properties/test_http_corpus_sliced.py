"""The corpus in memory, cut in any way: where the network cuts a message changes nothing about it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from router.gateway.upstream import Upstream
from tests.support.gateway_memory import MemoryGateway, feed, memory_gateway
from tests.support.http_corpus import Case, cases
from tests.support.http_reference import read_request
from tests.support.http_verdicts import check_answer, check_requests, question, sent

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def memory(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MemoryGateway]:
    async with memory_gateway(tmp_path_factory.mktemp("gateway")) as made:
        yield made


def slicings(data: bytes) -> list[list[bytes]]:
    """Whole, in equal pieces, and byte by byte where that is not for long."""
    sizes = [1, 7] if len(data) < 2000 else [997]
    return [[data], *([data[at : at + size] for at in range(0, len(data), size)] for size in sizes)]


@pytest.mark.parametrize("case", cases("requests"), ids=lambda case: case.id)
async def test_a_request_means_the_same_however_it_is_cut(memory: MemoryGateway, case: Case) -> None:
    memory.forget()
    for pieces in [[sent(case)]] if case.whole else slicings(sent(case)):
        got = await memory.converse(pieces, shut=case.ends)
        assert got.ended
        check_requests(case, got.answers, [read_request(raw)[0] for raw in got.requests])


@pytest.mark.parametrize("case", cases("answers"), ids=lambda case: case.id)
async def test_an_answer_means_the_same_however_it_is_cut(memory: MemoryGateway, case: Case) -> None:
    memory.forget()

    def replying(pieces: list[bytes]) -> Callable[[Upstream, bytes], None]:
        def reply(connection: Upstream, request: bytes) -> None:
            if b"/behind" in request:
                feed(connection, [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbehind"])
            else:
                feed(connection, pieces, closes="closes" in case.how)

        return reply

    for pieces in slicings(case.raw):
        got = await memory.converse([question(case)], shut=False, reply=replying(pieces))
        assert got.ended
        check_answer(case, got.answers, got.connections, whole=len(pieces) == 1)
