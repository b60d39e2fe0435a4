"""What users may do under load without losing a request: wake from zero, change weights, scale in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.support.whole import Load, until, whole


async def test_200_first_requests_at_once_to_an_endpoint_at_zero_are_all_answered(tmp_path: Path) -> None:
    async with whole(tmp_path) as running:
        extra = {"tidegate": {"min_instances": 0, "idle_seconds": 1}}
        await running.create("sleepy", {"blue": extra}, {"blue": 100})

        async def at_zero() -> bool:
            return await running.counts("sleepy", "blue") == {"observed": 0, "ready": 0, "desired": 0}

        await until("scale to zero", at_zero)
        load = await running.burst("sleepy", 200)
        assert load.failures == []
        assert load.answers == {"blue": 200}


async def test_100_weight_changes_under_load_fail_nothing_and_keep_the_split_exact(tmp_path: Path) -> None:
    async with whole(tmp_path, workers=2) as running:
        await running.create("rollout", {"blue": {}, "green": {}}, {"blue": 100})
        async with running.load("rollout") as load:
            for step in range(100):
                green = (step * 7) % 101
                await running.api("PUT", "/v1/endpoints/rollout", _split(green))
                await running.more(load, 5)
        assert load.failures == []
        # A fixed split from here on: whatever happened before, the deviation over any stretch stays below two
        # requests (below one at each of its ends), and from the start of the endpoint below one.
        changed = await running.api("PUT", "/v1/endpoints/rollout", _split(30))
        await running.routed_by("rollout", changed["revision"], workers=2)
        steady = await running.send("rollout", 1000)
        assert steady.failures == []
        assert abs(steady.answers["green"] - 300) <= 2


def _split(green: int) -> dict[str, object]:
    return {"name": "rollout", "auth_mode": "key", "traffic": {"blue": 100 - green, "green": green}}


async def test_scale_in_under_load_fails_nothing(tmp_path: Path) -> None:
    async with whole(tmp_path) as running:
        await running.create("shrink", {"blue": {"instance_count": 3}}, {"blue": 100})
        async with running.load("shrink", callers=8, body={"delay": 0.02}) as load:
            for count in (1, 3, 1):
                update = (
                    "online-deployment",
                    "update",
                    "-n",
                    "blue",
                    "-e",
                    "shrink",
                    "--set",
                    f"instance_count={count}",
                )
                await running.tree.run(*update)

                async def reached(count: int = count) -> bool:
                    counts = await running.counts("shrink", "blue")
                    return counts == {"observed": count, "ready": count, "desired": count}

                await until(f"{count} replicas", reached)
                await running.more(load, 200)
        assert load.failures == []
        assert load.answered == load.sent


async def test_who_is_inside_a_deployment_that_is_deleted_is_answered_by_it(tmp_path: Path) -> None:
    async with whole(tmp_path) as running:
        await running.create("rollout", {"blue": {}, "green": {}}, {"blue": 100})
        async with running.load("rollout", callers=4, body={"delay": 3}) as load:
            await until("callers inside blue", _as_many_as(load, 4))
            await running.tree.run("online-endpoint", "update", "-n", "rollout", "--traffic", "blue=0 green=100")
            await running.tree.run("online-deployment", "delete", "-n", "blue", "-e", "rollout", "--yes")
        assert load.failures == []
        assert load.answers["blue"] >= 4


def _as_many_as(load: Load, count: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return load.sent >= count

    return look
