"""Beside a strict reference: what passes means the same to h11, and what h11 refuses is refused."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.gateway_memory import MemoryGateway, memory_gateway
from tests.support.http_inputs import CHECKS, DICTIONARY, KEPT, kept, seeds, words

pytestmark = pytest.mark.asyncio(loop_scope="module")
_LONG = 4000
"""Cases of more bytes are for the corpus alone: cut byte by byte they take seconds."""
_RUNS = 1000
"""Of the fuzzer, per kind: the inputs that are kept, and as many again; it begins with the same seed every time."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def memory(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MemoryGateway]:
    async with memory_gateway(tmp_path_factory.mktemp("gateway"), open_to_all=True) as made:
        yield made


@pytest.mark.parametrize("kind", CHECKS)
async def test_every_case_and_every_input_that_was_kept(memory: MemoryGateway, kind: str) -> None:
    for data in kept(kind) + [one for one in seeds(kind) if len(one) < _LONG]:
        try:
            await CHECKS[kind](memory, data)
        except AssertionError as error:
            raise AssertionError(f"{data!r}") from error


@pytest.mark.parametrize("kind", CHECKS)
@settings(deadline=None)
@given(how=st.integers(0, 63), parts=st.lists(st.sampled_from(words()), max_size=12))
async def test_whatever_is_made_of_the_words_that_matter(
    memory: MemoryGateway, kind: str, how: int, parts: list[bytes]
) -> None:
    begin = {"requests": b"POST / HTTP/1.1\r\nHost: a\r\n", "answers": b"HTTP/1.1 200 OK\r\n"}.get(
        kind, b"\0\0\x40\1\5\0\0\0\1"
    )
    for front in (b"", begin):
        await CHECKS[kind](memory, bytes([how]) + front + b"".join(parts))


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this platform")
@pytest.mark.parametrize("kind", CHECKS)
async def test_a_short_run_of_the_fuzzer_finds_nothing(kind: str, tmp_path: Path) -> None:
    runs = [f"-runs={_RUNS}", "-seed=1", "-max_len=1000", f"-dict={DICTIONARY}", f"-artifact_prefix={tmp_path}/"]
    # What is found goes to the first folder: adding to what is kept is for `make fuzz`.
    folders = [str(tmp_path), str(KEPT / kind)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fuzz", kind, *runs, *folders, stdout=PIPE, stderr=STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said[-4000:].decode(errors="replace")
    assert f"Done {_RUNS} runs".encode() in said
