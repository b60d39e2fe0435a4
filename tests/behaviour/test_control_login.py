"""A control plane that other machines reach: operators with the token, Prometheus with its own, pods for their own files; no one else."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from router.contract.errors import InvalidSpec
from router.contract.signatures import sign
from router.control.api import ROUTES
from router.runtime.login import for_control
from tests.support.control_plane import Running, running, tar_of

OPERATOR = "the-operators-own-token"
METRICS = "the-token-of-prometheus"
KEY = "the-key-that-signs-files"
ENVIRON = {
    "TIDEGATE_CONTROL_TOKEN": OPERATOR,
    "TIDEGATE_CONTROL_METRICS_TOKEN": METRICS,
    "TIDEGATE_ASSETS_KEY": KEY,
}
SHA256 = "ab" * 32


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Running]:
    async with running(tmp_path, login=for_control("0.0.0.0", ENVIRON)) as one:
        yield one


def path_of(template: str) -> str:
    words = {"endpoint": "e", "deployment": "d", "revision": "1", "operation": "o", "topic": "specs", "sha256": SHA256}
    return template.format(**words)


@pytest.mark.parametrize("headers", [{}, bearing("another-token-entirely"), {"Authorization": f"Basic {OPERATOR}"}])
async def test_every_address_but_health_is_closed_to_whoever_does_not_show_the_token(
    plane: Running, headers: dict[str, str]
) -> None:
    for route in ROUTES:
        answer = await plane.call(route.method, path_of(route.path), headers=headers)
        expected = 200 if route.path in ("/healthz", "/readyz") else 401
        assert answer.status == expected, (route.method, route.path)
        if expected == 401:
            assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_the_refusal_says_what_to_do_and_nothing_of_the_token(plane: Running) -> None:
    error = (await plane.call("GET", "/v1/endpoints")).json["error"]
    assert error["code"] == "Unauthorized"
    assert "no token" in error["message"]
    assert "TIDEGATE_CONTROL_TOKEN_FILE" in error["message"]
    error = (await plane.call("GET", "/nowhere", headers=bearing("another-token-entirely"))).json["error"]
    assert "another token than ours" in error["message"]
    assert OPERATOR not in error["message"]


async def test_with_the_token_everything_is_as_without_login(plane: Running) -> None:
    created = await plane.call("PUT", "/v1/endpoints/shop", {}, headers=bearing(OPERATOR))
    assert created.status == 201
    listed = await plane.call("GET", "/v1/endpoints", headers=bearing(OPERATOR))
    assert [one["name"] for one in listed.json["value"]] == ["shop"]


async def test_a_request_that_is_refused_changes_nothing_and_its_body_is_not_looked_at(plane: Running) -> None:
    refused = await plane.call("PUT", "/v1/endpoints/shop", data=b"\0" * 100_000)
    assert refused.status == 401
    assert (await plane.call("GET", "/v1/endpoints", headers=bearing(OPERATOR))).json == {"value": []}


async def test_two_authorizations_in_one_request_open_nothing(plane: Running) -> None:
    headers: Any = [("Authorization", f"Bearer {OPERATOR}"), ("Authorization", "Bearer x")]
    assert (await plane.call("GET", "/v1/endpoints", headers=headers)).status == 401


async def test_the_token_for_metrics_opens_metrics_alone(plane: Running) -> None:
    assert (await plane.call("GET", "/metrics", headers=bearing(METRICS))).status == 200
    assert (await plane.call("GET", "/v1/status", headers=bearing(METRICS))).status == 401


async def test_a_signature_opens_the_file_it_was_made_for_and_only_to_read(plane: Running) -> None:
    tar = tar_of({"score.py": b"def init(): ..."})
    sha256 = hashlib.sha256(tar).hexdigest()
    stored = await plane.call("PUT", f"/v1/assets/{sha256}", data=tar, headers=bearing(OPERATOR))
    assert stored.status == 201

    def signed(key: str, of: str) -> str:
        return f"?signature={sign(key, of)}"

    address = f"/v1/assets/{sha256}"
    assert (await plane.call("HEAD", address + signed(KEY, sha256))).status == 200
    assert (await plane.call("HEAD", address + signed("another-key-entirely", sha256))).status == 401
    assert (await plane.call("HEAD", f"/v1/assets/{SHA256}{signed(KEY, sha256)}")).status == 401
    assert (await plane.call("PUT", address + signed(KEY, sha256), data=tar)).status == 401
    assert (await plane.call("GET", f"/v1/endpoints{signed(KEY, sha256)}")).status == 401
    assert (await plane.call("HEAD", address + "?signature=%C3%BC")).status == 401


async def test_an_event_stream_needs_the_token_too(plane: Running) -> None:
    assert (await plane.call("GET", "/v1/events/specs?follow=true")).status == 401


async def test_without_a_token_it_does_not_listen_where_others_connect(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="TIDEGATE_CONTROL_TOKEN_FILE"):
        async with running(tmp_path, host="0.0.0.0"):
            pass


async def test_with_a_token_it_listens_everywhere(tmp_path: Path) -> None:
    async with running(tmp_path, host="0.0.0.0", login=for_control("0.0.0.0", ENVIRON)) as plane:
        assert (await plane.call("GET", "/v1/endpoints")).status == 401
        assert (await plane.call("GET", "/readyz")).status == 200
