"""The mirror's small parts: budget, marker, heads, captures, comparison words."""

from __future__ import annotations

import gzip
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.budget import Budget, Grant
from mirror.capture import Refused, RequestBody, ResponseCapture, Spill
from mirror.comparison import KEEP_BYTES, Body, compare_bodies, first_difference
from mirror.heads import CREDENTIALS, BadHead, content_of, shadow_head
from mirror.marker import load_key, sign, verify_marker

KEY = b"k" * 32


@given(st.lists(st.tuples(st.sampled_from("agsr"), st.integers(0, 40), st.integers(0, 5))))
def test_a_budget_never_gives_more_than_it_has_and_gets_everything_back(steps: list[tuple[str, int, int]]) -> None:
    budget = Budget(100, 3, "memory")
    grants: list[Grant] = []
    for what, size, which in steps:
        grant = grants[which] if which < len(grants) else None
        if what == "a":
            admitted = budget.admit(size)
            if isinstance(admitted, str):
                assert admitted == "memory"
            else:
                grants.append(admitted)
        elif grant is not None and what == "g":
            grant.grow(size)
        elif grant is not None and what == "s":
            grant.shrink(size)
        elif grant is not None:
            grant.release()
        assert budget.used_bytes == sum(one.held_bytes for one in grants) <= 100
        assert 0 <= budget.used_count <= 3
    for grant in grants:
        grant.release()
    assert (budget.used_bytes, budget.used_count) == (0, 0)


def test_a_released_grant_takes_nothing_more() -> None:
    budget = Budget(100, 3, "memory")
    grant = budget.admit(10)
    assert isinstance(grant, Grant)
    grant.release()
    assert grant.grow(1) == "released"
    assert budget.used_bytes == 0


@given(st.text(), st.text(min_size=1), st.text(min_size=1))
def test_a_marker_opens_its_own_candidate_only(request_id: str, candidate: str, other: str) -> None:
    marker = sign(KEY, request_id, candidate)
    assert verify_marker(KEY, marker, candidate)
    assert not verify_marker(b"another key", marker, candidate)
    assert verify_marker(KEY, marker, other) == (other == candidate)
    assert not verify_marker(KEY, "x" + marker, candidate)


@pytest.mark.parametrize("forged", ["", ".", "id.", "id", "id." + "0" * 64, "id.ä", "\ud800.00"])
def test_a_forged_marker_is_refused(forged: str) -> None:
    assert not verify_marker(KEY, forged, "green")


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "shadow.key"
    key = load_key(path)
    assert len(key) == 32
    assert load_key(path) == key
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["shadow.key"]


@pytest.mark.parametrize("name", sorted(CREDENTIALS))
def test_no_spelling_of_a_credential_passes(name: bytes) -> None:
    spelled = name.decode().title().encode()
    head = b"POST / HTTP/1.1\r\nHost: x\r\n" + spelled + b":secret\r\nX-Other: 1\r\n\r\n"
    assert shadow_head(head).lines == b"POST / HTTP/1.1\r\nHost: x\r\nX-Other: 1\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"POST\r\n\r\n",
        b"POST / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nauthorization : secret\r\n\r\n",
        b"POST / HTTP/1.1\r\nx: 1\r\n secret\r\n\r\n",
        b"POST / HTTP/1.1\r\nx: 1\nauthorization: secret\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\n",
    ],
)
def test_a_head_that_could_hide_something_is_refused(head: bytes) -> None:
    with pytest.raises(BadHead):
        shadow_head(head)


@pytest.mark.parametrize(
    ("headers", "body", "framing"),
    [
        (b"", 0, b""),
        (b"content-length: 0\r\n", 0, b"content-length: 0\r\n"),
        (b"Content-Length: 5\r\n", 5, b"content-length: 5\r\n"),
        (b"", 5, b"content-length: 5\r\n"),
        (b"Transfer-Encoding: chunked\r\n", 5, b"transfer-encoding: chunked\r\n"),
    ],
)
def test_the_framing_follows_the_live_request(headers: bytes, body: Any, framing: bytes) -> None:
    head = shadow_head(b"POST / HTTP/1.1\r\n" + headers + b"\r\n")
    assert head.for_candidate("m", body) == b"POST / HTTP/1.1\r\n" + framing + b"x-tidegate-shadow: m\r\n\r\n"


def test_content_type_and_encoding_of_an_answer() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: Application/JSON; charset=utf-8\r\nContent-Encoding: GZIP\r\n\r\n"
    assert content_of(head) == ("application/json", "gzip", "")


def _grant(size: int = 10 << 20) -> tuple[Budget, Grant]:
    budget = Budget(size, 10, "memory")
    grant = budget.admit(0)
    assert isinstance(grant, Grant)
    return budget, grant


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_a_request_body_reads_as_written_for_several_readers(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    budget, grant = _grant()
    disk = Budget(1 << 20, 10, "spill_full")
    body = RequestBody(grant, Spill(tmp_path_factory.getbasetemp(), disk, exchange_bytes=1000, memory_bytes=60))
    for piece in pieces:
        body.feed(piece)
    whole = b"".join(pieces)
    assert b"".join(body.pieces()) == whole == b"".join(body.pieces())
    assert (budget.used_bytes, disk.used_bytes) == ((0, len(whole)) if len(whole) > 60 else (len(whole), 0))
    body.close()
    body.close()
    assert (budget.used_bytes, disk.used_bytes, disk.used_count) == (0, 0, 0)


@pytest.mark.parametrize("size", [10, 100])
def test_a_closed_body_breaks_off_instead_of_looking_whole(tmp_path: Path, size: int) -> None:
    _, grant = _grant()
    body = RequestBody(grant, Spill(tmp_path, Budget(1000, 1, "spill_full"), exchange_bytes=1000, memory_bytes=60))
    body.feed(b"x" * size)
    body.feed(b"y")
    reading = body.pieces()
    body.close()
    with pytest.raises(OSError, match="gone"):
        list(reading)


@pytest.mark.parametrize(
    ("disk", "folder", "reason"), [(100, "", "spill_full"), (1000, "absent", "spill_failed"), (1000, "", "too_large")]
)
def test_a_body_that_finds_no_room_is_refused(tmp_path: Path, disk: int, folder: str, reason: str) -> None:
    _, grant = _grant()
    spill = Spill(tmp_path / folder, Budget(disk, 1, "spill_full"), exchange_bytes=500, memory_bytes=60)
    body = RequestBody(grant, spill)
    with pytest.raises(Refused) as refused:
        for _ in range(6):
            body.feed(b"x" * 90)
    assert refused.value.reason == reason
    body.close()
    assert spill.budget.used_bytes == 0


def test_a_long_answer_gives_its_memory_back_and_is_hashed_whole() -> None:
    budget, grant = _grant()
    small, large, other = (ResponseCapture(grant, 10) for _ in range(3))
    small.feed(b"0123456789")
    for capture in (large, other):
        capture.feed(b"01234")
    large.feed(b"5678901")
    other.feed(b"567890")
    other.feed(b"1")
    assert budget.used_bytes == 10
    assert small.body("", "").kept == b"0123456789"
    assert large.body("", "") == other.body("", "")
    assert large.body("", "").kept is None


def _body(data: bytes, encoding: str = "", kind: str = "application/json") -> Body:
    return Body(len(data), data, content_type=kind, content_encoding=encoding)


@pytest.mark.parametrize(
    ("live", "shadow", "words"),
    [
        ("[1,2]", "[1]", "body: $ has 2 items live, 1 in the candidate's"),
        ('{"a":{"b":null}}', '{"a":{"b":0}}', "body: $.a.b is null live, 0 in the candidate's"),
        ('{"a":1}', '{"a":1,"x y":2}', 'body: $["x y"] is only in the candidate answer'),
        ("[true]", "[1]", "body: $[0] is true live, 1 in the candidate's"),
        ("[{}]", "[[]]", "body: $[0] is an object of 0 keys live, a list of 0 items in the candidate's"),
        ("cat", "dog", "body: first difference at byte 0"),
        ("cat", "cats", "body: first difference at byte 3 (live 3 bytes, candidate 4)"),
        ('{"a":1', '{"b":1', "body: first difference at byte 2"),
    ],
)
def test_the_words_of_a_difference(live: str, shadow: str, words: str) -> None:
    assert compare_bodies(_body(live.encode()), _body(shadow.encode())).difference == words


def test_another_content_encoding_is_a_difference() -> None:
    packed = gzip.compress(b"{}")
    assert (
        compare_bodies(_body(b"{}"), _body(packed, "gzip")).difference
        == "content-encoding: live identity, candidate gzip"
    )


def test_hostile_answers_are_compared_without_harm() -> None:
    bomb, other = gzip.compress(bytes(20 << 20)), gzip.compress(bytes(21 << 20))
    assert len(bomb) < KEEP_BYTES
    assert "byte" in compare_bodies(_body(bomb, "gzip"), _body(other, "gzip")).difference
    deep, deeper = b"[" * 500_000, b"[" * 499_999 + b"1"
    assert "byte" in compare_bodies(_body(deep), _body(deeper)).difference
    nested: list[Any] = [1]
    for _ in range(5000):
        nested = [nested]
    assert first_difference(nested, nested) is None
    huge = json.dumps([10**4000]).encode()
    assert "13288 bits" in compare_bodies(_body(huge), _body(b"[1.5]")).difference


def test_a_long_value_is_not_copied_into_the_log() -> None:
    words = compare_bodies(_body(json.dumps(["x" * 5000]).encode()), _body(b'["y"]')).difference
    assert len(words) < 200


def test_a_truncated_stream_is_a_difference() -> None:
    live, cut = b"data: 1\n\ndata: 2\n\n", b"data: 1\n\n"
    found = compare_bodies(_body(live, kind="text/event-stream"), _body(cut, kind="text/event-stream"))
    assert found.difference == "events: live 2, candidate 1"
