"""Whatever is asked in whatever order: revisions have no holes, refused requests change nothing, the outbox is whole."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.contract.errors import TidegateError
from router.control import changes
from router.control.content import KeyPair
from router.control.store import Decide, Store

NAMES = ("shop", "news")
DEPLOYMENTS = ("blue", "green")
BODY: dict[str, Any] = {"environment": {"image": "x/y:1"}, "instance_type": "small"}


def fresh() -> KeyPair:
    return KeyPair(uuid.uuid4().hex, uuid.uuid4().hex)


def steps() -> st.SearchStrategy[tuple[str, str, Any]]:
    shares = st.sampled_from([{}, {"blue": 100}, {"blue": 50, "green": 50}, {"green": 100}, {"blue": 40}])
    return st.tuples(
        st.sampled_from(["put", "delete", "deploy", "undeploy", "restart", "key", "back"]),
        st.sampled_from(NAMES),
        st.tuples(st.sampled_from(DEPLOYMENTS), shares, st.integers(1, 6)),
    )


def sticky(shares: dict[str, int], number: int) -> dict[str, Any]:
    extras = {"tidegate": {"stickiness": {"by": "client"}}} if number % 3 else {}
    return {"traffic": shares, **extras}


async def decision(store: Store, step: tuple[str, str, Any]) -> Decide:
    what, name, (deployment, shares, number) = step
    if what == "back":
        target = (await store.recorded(name, number)).standing
        return partial(changes.roll_back, endpoint=name, target=target)
    choices: dict[str, Decide] = {
        "put": partial(changes.put_endpoint, name=name, body=sticky(shares, number), new_keys=fresh()),
        "delete": partial(changes.delete_endpoint, name=name),
        "deploy": partial(changes.put_deployment, endpoint=name, name=deployment, body=BODY),
        "undeploy": partial(changes.delete_deployment, endpoint=name, name=deployment),
        "restart": partial(changes.restart_deployment, endpoint=name, name=deployment),
        "key": partial(changes.regenerate_key, endpoint=name, key_type="primary", fresh=fresh()),
    }
    return choices[what]


async def follow(path: Path, plan: list[tuple[str, str, Any]], publish_every: int) -> None:
    store = await Store.open(path, revisions_kept=1000, on_commit=lambda: None)
    accepted: dict[str, list[str]] = {name: [] for name in NAMES}
    events: dict[str, list[int]] = {name: [] for name in NAMES}

    async def publish() -> None:
        batch = await store.unpublished(1000)
        for _, event in batch:
            events[event.endpoint].append(event.revision)
            live = sum(event.document.get("traffic", {}).values())
            assert live in (0, 100)
            assert set(event.document.get("traffic", {})) <= set(event.deployments)
            assert len(event.key_hashes) == (0 if event.deleted else 2)
            has = {name: len(parts) for name, parts in event.cohorts.items()}
            shares = {name: share for name, share in event.document.get("traffic", {}).items() if share}
            assert has == (shares if "tidegate" in event.document else {})
        if batch:
            await store.mark_published(batch[-1][0])

    try:
        for number, step in enumerate(plan):
            try:
                committed = await store.change(step[1], uuid.uuid4().hex, await decision(store, step))
            except TidegateError:
                continue
            accepted[step[1]].append(committed.change.words)
            assert committed.standing.revision == len(accepted[step[1]])
            if number % publish_every == 0:
                await publish()
        await publish()
        for name in NAMES:
            history = await store.history(name)
            assert [one.change for one in reversed(history)] == accepted[name]
            assert events[name] == list(range(1, len(accepted[name]) + 1))
            open_operations = [one for one in await store.open_operations() if one.endpoint == name]
            per_deployment = [one.deployment for one in open_operations if one.deployment is not None]
            assert len(per_deployment) == len(set(per_deployment)), "a newer change supersedes the older operation"
    finally:
        await store.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps(), max_size=25), st.integers(1, 5))
def test_revisions_have_no_holes_and_refused_requests_change_nothing(
    plan: list[tuple[str, str, Any]], publish_every: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(follow(Path(folder) / "control.db", plan, publish_every))
