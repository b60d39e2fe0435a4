"""What must be true behind a case of the corpus, wherever it was run."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.gateway_rig import KEY
from tests.support.http_corpus import WORDS, Case, Passed
from tests.support.http_reference import Incomplete, Message, read_answer, read_answers

BEHIND = (
    f"GET /endpoints/demo/behind HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
)
"""Sent behind every case: it is read exactly where the case's own bytes end, or not at all."""
_LAST = Passed("GET", "/behind", "none", b"")


def sent(case: Case) -> bytes:
    """All the bytes of a caller."""
    return case.raw if case.ends else case.raw + BEHIND.encode()


def check_requests(case: Case, answers: bytes, requests: Sequence[Message]) -> None:
    """A request file's case: `answers` the caller got until the end, `requests` the replica."""
    steps = case.steps
    goes_on = not case.closes and not case.ends
    passed = [step for step in steps if isinstance(step, Passed)]
    methods = [step.method.encode() if isinstance(step, Passed) else b"POST" for step in steps]
    got = [int(one.first[0]) for one in read_answers(answers, methods)]
    wanted = [200 if isinstance(step, Passed) else step.status for step in steps]
    assert got == wanted + [200] * goes_on, answers
    for message, step in zip(requests, [*passed, *[_LAST] * goes_on], strict=True):
        seen = Passed(message.first[0].decode(), message.first[1].decode(), message.framing, message.body)
        assert seen == step
    _check_fields(case, requests[len(passed) - 1] if passed else None)


def _check_fields(case: Case, message: Message | None) -> None:
    if case.has or case.lacks:
        assert message is not None
        for name, value in case.has:
            assert message.values(name.encode()) == [value], name
        for name in case.lacks:
            assert message.values(name.encode()) == [], name


def question(case: Case) -> bytes:
    """The request that an answer file's case answers, and the one behind it."""
    text = WORDS["head" if "HEAD" in case.how else "old" if "old" in case.how else "get"]
    return (text + "\r\n" + BEHIND).encode()


def check_answer(case: Case, answers: bytes, connections: int, *, whole: bool) -> None:
    """An answer file's case; `connections` is how many the replica has had, `whole` that all of it came at once.

    The request behind is answered `behind`.
    """
    method = b"HEAD" if "HEAD" in case.how else b"GET"
    verdict = case.verdict
    if verdict == "502 or cut":
        verdict = "502" if whole or answers.startswith(b"HTTP/1.1 502") else "cut"
    if verdict == "cut":
        try:
            read_answer(answers, method, ended="old" not in case.how)
        except Incomplete:
            return
        raise AssertionError(f"taken for whole: {answers!r}")
    message, rest = read_answer(answers, method, ended=True)
    *interim, final = verdict.split(", ")
    assert message.interim == tuple(map(int, interim)), answers
    status, *wanted = final.split(" ")
    assert message.first[0].decode() == status, answers
    assert len(message.values(b"date")) == 1
    if status == "502":
        assert not wanted
        assert b"InvalidReplicaResponse" in message.body or b"ReplicaFailed" in message.body
    else:
        kind, _, body = wanted[0].partition("=")
        assert (message.framing, message.body.decode("latin-1")) == (kind, body.replace("_", " "))
        assert message.values(b"via") != []
        if len(wanted) > 1:
            assert connections == {"kept": 1, "fresh": 2}[wanted[1]]
    _check_fields(case, message)
    if "old" not in case.how:
        assert read_answers(rest, [b"GET"])[0].body == b"behind", answers
