"""A head that is taken apart is judged as it is judged whole, whatever came before it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.gateway import calls as calls_module
from router.gateway.calls import Call, Calls, judge
from router.gateway.responses import Refusal
from router.gateway.routes import Endpoint
from router.gateway.templates import Templates
from router.policy.deadlines import written_in
from router.policy.matching import Table


class Door:
    """As much of an endpoint as judging a head asks for."""

    refuses = ""
    max_body = 1 << 50
    keys = (b"one", b"two")

    def opens(self, key: bytes | None) -> bool:
        return key in self.keys


TABLE: Table[Endpoint] = Table({b"demo": Door()}, {})  # type: ignore[dict-item] # a door is all that is asked for
FIRST = (b"POST /endpoints/demo/score HTTP/1.1", b"GET /endpoints/demo/?a=b HTTP/1.1", b"GET /endpoints/demo/ HTTP/1.0",
         b"X-Front: 1", b"X-Front: 2", b"GET /healthz HTTP/1.1", b"CONNECT demo:80 HTTP/1.1", b"GET /endpoints/demo/", b"GET /endpoints/other/ HTTP/1.1")  # fmt: skip
LINES = (
    b"Host: a", b"host: b", b"Authorization: Bearer one", b"Authorization: Bearer two", b"Authorization: Bearer x",
    b"Content-Length: 1", b"Content-Length: 25", b"content-length: 025", b"Content-Length: +1", b"Content-Length: 1, 1",
    b"Content-Length: ", b"Content-Length: " + b"9" * 19, b"Content-Length:1", b"Content-Length : 1", b"Content_Length: 1",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"transfer-encoding:chunked", b"Connection: close",
    b"Connection: keep-alive", b"Connection: x-hop", b"Connection: X-Other, close", b"Connection: upgrade",
    b"Upgrade: websocket", b"Upgrade: h2c", b"Expect: 100-continue", b"Expect: miracles",
    b"azureml-model-deployment: blue", b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Proto: https", b"X-Request-Id: 1",
    b"X-Request-Id: 2", b"x-tidegate-shadow: 1", b"X-Tidegate-Other: 2", b"x_tidegate_shadow: 1", b"X_Request_Id: 1",
    b"traceparent: 00-1", b"traceparent: 00-2", b"Traceparent: 00-3", b"X-Hop: 1", b"x-hop: 2", b"X-Other: a b",
    b"X-Other: c", b"x-other:d", b"X-Other:  e ", b"X-Empty:", b"X-Empty: ", b" folded", b"\tfolded", b"X: a\nY: b",
    b"X: a\rY: b", b"X: a\x00", b"X: \xff", b"X: \x7f", b"no colon", b": no name", b"X Y: 1", b"", b"TE: trailers",
    b"Keep-Alive: 5", b"x-ms-client-request-id: a!b",
    b"X-Request-Deadline: 1", b"x-request-deadline: 2000000000.5", b"X-Request-Deadline: 2050-01-01T00:00:00Z",
    b"X-Request-Deadline: soon", b"X_Request_Deadline: 1", b"X-Other: x-request-deadline: 1",
)  # fmt: skip
USUAL = (b"Host: a", b"Authorization: Bearer one", b"Content-Length: 1")
heads = st.builds(
    lambda first, usual, lines: b"\r\n".join([first, *usual, *lines, b"", b""]),
    st.sampled_from(FIRST[:3]) | st.sampled_from(FIRST),
    st.sampled_from([USUAL, USUAL[:2], USUAL[:1], ()]),
    st.lists(st.sampled_from(LINES), max_size=4),
)


def test_a_field_before_the_request_line_is_no_field() -> None:
    calls = Calls()
    good = b"\r\n".join([FIRST[0], *USUAL, b"", b""])
    for raw in (good, good, b"X-Front: 1\r\n" + good, b"X-Front: 2\r\n" + good):
        call, _, _ = calls.find(raw, TABLE)
        assert call.refusal is judge(raw, TABLE).refusal
    assert call.refusal is Refusal.BAD_REQUEST


def meaning(call: Call, length: int, after_peer: bytes) -> tuple[object, ...]:
    """Everything that a request's fate depends on; the order of fields only where they have one name."""
    if call.refusal is not None:
        return call.refusal, call.message, call.keep_alive, call.chunked, length, call.method
    lines = call.for_replica(b"ID", b"PEER", after_peer).split(b"\r\n") if call.endpoint else []
    fields = sorted(lines[1:], key=lambda line: line.partition(b":")[0].lower())
    return (
        call.endpoint, call.own, call.path, call.method, call.deployment, call.http10, call.keep_alive, call.chunked,
        call.expects_continue, length, lines[:1], fields, call.deadline or written_in(after_peer),
    )  # fmt: skip


def first_head(head: bytes) -> bytes:
    """As the connection cuts it: up to the first empty line."""
    return head[: head.find(b"\r\n\r\n") + 4]


@settings(max_examples=1500, deadline=None)
@given(st.lists(heads.map(first_head).filter(lambda head: not head.startswith(b"\r\n")), min_size=1, max_size=12))
def test_taken_apart_or_whole_a_head_means_the_same(history: list[bytes]) -> None:
    calls = Calls()
    for raw in history:
        whole = judge(raw, TABLE)
        assert meaning(*calls.find(raw, TABLE)) == meaning(whole, whole.length, whole.after_peer)


def test_heads_that_differ_in_one_plain_field_are_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = []

    def counted(raw: bytes, table: Table[Endpoint], scheme: bytes, received: str) -> Call:
        judged.append(raw)
        return judge(raw, table, scheme, received)

    monkeypatch.setattr(calls_module, "judge", counted)
    calls = Calls()
    for number in range(50):
        lines = (
            b"traceparent: 00-%d" % number,
            b"Content-Length: %d" % (100 + number),
            b"X-Request-Deadline: 2000000000.%d" % number,
        )
        raw = b"\r\n".join([FIRST[0], *USUAL[:2], *lines, b"", b""])
        call, length, after_peer = calls.find(raw, TABLE)
        assert (call.refusal, length) == (None, 100 + number)
        sent = call.for_replica(b"ID", b"PEER", after_peer)
        assert all(sent.count(line.lower()) == 1 for line in lines)
    assert len(judged) == 2


def test_what_is_remembered_is_bounded() -> None:
    calls = Calls()
    for number in range(3 * calls_module._LINES):
        calls.find(b"\r\n".join([FIRST[0], *USUAL, b"X_%d: 1" % number, b"", b""]), TABLE)
        assert len(calls.whole) <= calls_module.MOST_CALLS
        assert calls._whole_bytes <= calls_module._CALL_BYTES + calls_module.LONGEST
        assert len(calls._lines) <= calls_module._LINES + len(USUAL) + 1
    assert calls._whole_bytes == sum(map(len, calls.whole))


def test_what_was_learnt_of_heads_with_a_line_of_their_own_ends_with_what_it_stood_for() -> None:
    calls, door = Calls(), Door()
    table: Table[Endpoint] = Table({b"demo": door}, {})  # type: ignore[dict-item] # as above

    def ask(number: int) -> Call:
        raw = b"\r\n".join([FIRST[0], *USUAL, b"traceparent: 00-%d" % number, b"X-Last: 1", b"", b""])
        return calls.find(raw, table)[0]

    for number in range(5):
        assert ask(number).refusal is None
    door.keys = (b"two", b"three")
    calls.forget(door)  # type: ignore[arg-type] # as above
    assert ask(5).refusal is Refusal.UNAUTHORISED
    door.keys = (b"one", b"two")
    calls.clear()
    assert ask(6).refusal is None


def test_templates_are_bounded_and_each_request_line_has_the_last_one() -> None:
    templates, call = Templates(), judge(b"\r\n".join([FIRST[0], *USUAL, b"", b""]), TABLE)
    long = b"X-Long: " + b"a" * 1800
    for number in range(3000):
        line = b"traceparent: 00-%d" % number
        for of_one in (b"X: 1", b"X: 2"):
            first = b"POST /endpoints/demo/%d HTTP/1.1" % number
            raw = b"\r\n".join([first, *USUAL, of_one, long, line, b"", b""])
            templates.learn(raw, line, b"traceparent", call)
            found = templates.of(raw)
            assert found is not None
            assert found.read(raw) == (1, call.after_peer[:-2] + line + b"\r\n\r\n")
            assert found.read(raw.replace(of_one, b"X: 3")) is None
            assert found.read(raw.replace(line, b"tracestate: a=1")) is None
            assert found.read(raw.replace(line, line + b"\r\nX-More: 1")) is None
    assert templates._bytes == sum(len(one.before) + len(one.after) for one in templates._known.values())
    assert templates._bytes <= (4 << 20) + 4096
