"""Callers that stay with one deployment: the right ratio, the same in every worker and life, and few that move."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from router.policy.cohorts import PARTS, Cohorts, part_of
from tests.support.gateway_rig import Rig, deployment, gateway, replica
from tests.support.gateway_upstream import Caller, ScriptedReplica, caller, post, scripted

NAMES = ("blue", "green", "red")
DOCUMENTS = {name: deployment() for name in NAMES}
Shares = dict[str, int]


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[ScriptedReplica]:
    async with scripted() as server:
        yield server


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with gateway(tmp_path / "one") as rig:
        yield rig


async def split(rig: Rig, upstream: ScriptedReplica, shares: Shares, by: str = "header", **named: Any) -> Cohorts:
    """The endpoint `demo` with these shares; returns who has which hundredths."""
    sets = {name: [replica(upstream.port, replica_id=name)] for name in NAMES}
    rule = {"by": by, **named}
    await rig.publish("demo", DOCUMENTS, shares, sets, tidegate={"stickiness": rule})
    return rig.publisher.cohorts["demo"]


def one_of_each() -> list[str]:
    """Names of 100 users, one of each hundredth of the callers."""
    found: dict[int, str] = {}
    for number in range(100_000):
        found.setdefault(part_of("demo", b"user-%d" % number), f"user-{number}")
        if len(found) == PARTS:
            break
    return [found[part] for part in range(PARTS)]


USERS = one_of_each()


async def served(connection: Caller, extra: str) -> tuple[str, dict[str, str]]:
    """(deployment, fields of the answer) of one request."""
    connection.send(post(b"x", extra=extra))
    got = await connection.answer()
    assert got.status == 200, got
    return got.headers["azureml-model-deployment"], got.headers


async def of_users(rig: Rig, field: str = "X-User: {}\r\n") -> dict[int, str]:
    """Hundredth of the callers → the deployment that serves its user."""
    async with caller(rig.port) as connection:
        return {part: (await served(connection, field.format(user)))[0] for part, user in enumerate(USERS)}


def owners(cohorts: Cohorts) -> dict[int, str]:
    return {part: name for name, parts in cohorts.items() for part in parts}


async def test_each_caller_stays_and_the_ratio_is_that_of_the_weights(rig: Rig, upstream: ScriptedReplica) -> None:
    cohorts = await split(rig, upstream, {"blue": 83, "green": 10, "red": 7}, name="x-user")
    first = await of_users(rig)
    assert first == owners(cohorts) == await of_users(rig, "X-USER:{0}\r\nX-Once: {0}\r\n")
    assert Counter(first.values()) == {"blue": 83, "green": 10, "red": 7}


async def test_a_change_of_weights_moves_the_needed_share_and_back(rig: Rig, upstream: ScriptedReplica) -> None:
    await split(rig, upstream, {"blue": 80, "green": 10, "red": 10}, name="x-user")
    before = await of_users(rig)
    await split(rig, upstream, {"blue": 60, "green": 25, "red": 15}, name="x-user")
    after = await of_users(rig)
    moved = Counter((before[part], after[part]) for part in range(PARTS) if before[part] != after[part])
    assert moved == {("blue", "green"): 15, ("blue", "red"): 5}
    await split(rig, upstream, {"blue": 0, "green": 100, "red": 0}, name="x-user")
    assert set((await of_users(rig)).values()) == {"green"}


async def test_another_gateway_knows_the_same(rig: Rig, upstream: ScriptedReplica, tmp_path: Path) -> None:
    shares = {"blue": 50, "green": 50, "red": 0}
    await split(rig, upstream, shares, name="x-user")
    async with gateway(tmp_path / "two") as other:
        await split(other, upstream, shares, name="x-user")
        assert await of_users(other) == await of_users(rig)


async def test_who_says_nothing_is_split_exactly(rig: Rig, upstream: ScriptedReplica) -> None:
    await split(rig, upstream, {"blue": 70, "green": 20, "red": 10}, name="x-user")
    async with caller(rig.port) as connection:
        answers = [await served(connection, "") for _ in range(100)]
        named, _ = await served(connection, f"X-User: {USERS[0]}\r\nazureml-model-deployment: red\r\n")
    assert Counter(name for name, _ in answers) == {"blue": 70, "green": 20, "red": 10}
    assert not any("set-cookie" in fields for _, fields in answers)
    assert named == "red"


async def test_a_caller_without_the_cookie_gets_one_that_keeps_it(rig: Rig, upstream: ScriptedReplica) -> None:
    await split(rig, upstream, {"blue": 70, "green": 20, "red": 10}, "cookie", name="tide")
    async with caller(rig.port) as connection:
        new = [await served(connection, "Cookie: other=1; tided=2\r\n") for _ in range(100)]
        assert Counter(name for name, _ in new) == {"blue": 70, "green": 20, "red": 10}
        for name, fields in new[:20]:
            cookie, *attributes = fields["set-cookie"].split("; ")
            assert cookie.startswith("tide=")
            assert attributes == ["Path=/", "HttpOnly", "SameSite=Lax"]
            for sent in (cookie, f"a=b; {cookie}", f"{cookie};a=b"):
                again, answered = await served(connection, f"cookie: {sent}\r\n")
                assert again == name
                assert "set-cookie" not in answered
    assert await of_users(rig, "Cookie: a=1; tide={}\r\n") == owners(rig.publisher.cohorts["demo"])


async def test_a_client_is_its_address(rig: Rig, upstream: ScriptedReplica) -> None:
    cohorts = await split(rig, upstream, {"blue": 50, "green": 50, "red": 0}, "client")
    mine = owners(cohorts)[part_of("demo", b"127.0.0.1")]
    for _ in range(3):
        async with caller(rig.port) as connection:
            assert {(await served(connection, f"X-User: {user}\r\n"))[0] for user in USERS[:10]} == {mine}


@pytest.mark.parametrize("by", ["header", "client"])
async def test_a_revision_that_deals_nobody_is_split_as_ever(rig: Rig, upstream: ScriptedReplica, by: str) -> None:
    """As an older control plane writes it."""
    sets = {name: [replica(upstream.port, replica_id=name)] for name in NAMES}
    rule = {"by": by, **({"name": "x-user"} if by == "header" else {})}
    rig.publisher.cohorts["demo"] = {}
    extras = {"stickiness": rule}
    revision = rig.publisher.endpoint("demo", DOCUMENTS, {"blue": 50, "green": 50}, tidegate=extras, dealt=False)
    version = rig.publisher.replicas("demo", sets)
    await rig.applied("demo", revision=revision, version=version)
    async with caller(rig.port) as connection:
        names = [(await served(connection, f"X-User: {USERS[0]}\r\n"))[0] for _ in range(10)]
    assert Counter(names) == {"blue": 5, "green": 5}
