"""A candidate's answer is read as a live one's would be: the gateway's own corpus of answers, cut in any way."""

from __future__ import annotations

import re

import pytest

from mirror.reading import Lost, Reader, Reply
from tests.support.http_corpus import Case, cases

_PASSES = re.compile(r"(?:1\d\d, )*(\d{3}) (none|length|chunked)(?:=([^ ]*))?(?: (kept|fresh))?")


def _read(case: Case, size: int) -> tuple[Reply, bytes, Reader, bool]:
    """(reply, body, reader, whether it was lost) of the answer in pieces of `size` bytes."""
    body = bytearray()
    reply = Reply(take=body.extend)
    reader = Reader(reply, "HEAD" if "HEAD" in case.how else "POST")
    try:
        for at in range(0, len(case.raw), size):
            reader.feed(case.raw[at : at + size])
        if not reply.complete and "closes" in case.how:
            reader.eof()
    except Lost:
        return reply, bytes(body), reader, True
    return reply, bytes(body), reader, False


@pytest.mark.parametrize("case", cases("answers"), ids=lambda case: case.id)
def test_what_passes_the_gateway_is_an_answer_and_nothing_else_is(case: Case) -> None:
    for size in (len(case.raw), 7, 1):
        reply, body, reader, lost = _read(case, size)
        passes = _PASSES.fullmatch(case.verdict)
        if passes is None:
            # What breaks off behind its end has been whole before; then the connection is not used again.
            assert lost or (not reply.complete and "closes" not in case.how), case.verdict
            continue
        status, _, expected, kept = passes.groups()
        assert not lost
        assert (reply.complete, reply.status, body) == (True, int(status), (expected or "").encode())
        if kept and size == len(case.raw):
            assert reader.reusable == (kept == "kept")
