"""What every backend does, on every backend that can run here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from autoscaler.backends.base import Observation
from router.contract.errors import Fenced
from router.contract.events import Phase, ReplicaState
from tests.support.backend_rigs import DEADLINE_SECONDS, TARGET, LocalRig, MemoryRig, ids, plan, ready, until, wish
from tests.support.kubernetes_rig import KubernetesRig

Rig = MemoryRig | LocalRig | KubernetesRig


@pytest.fixture(params=["memory", "local", pytest.param("kubernetes", marks=pytest.mark.pods)])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cluster_rig(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> KubernetesRig | None:
    if kind != "kubernetes":
        return None
    cluster, image = request.getfixturevalue("cluster"), request.getfixturevalue("tidegate_image")
    return KubernetesRig(cluster, request.getfixturevalue("namespace"), image, tmp_path)


@pytest.fixture
async def rig(kind: str, cluster_rig: KubernetesRig | None, tmp_path: Path, backend_cache: Path) -> AsyncIterator[Rig]:
    made: Rig = cluster_rig or (MemoryRig() if kind == "memory" else LocalRig(tmp_path / "data", backend_cache))
    yield made
    await made.clean()


async def test_the_first_observation_comes_at_once_and_is_empty_at_first(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    async with aclosing(backend.observe()) as stream:  # type: ignore[type-var]
        first = await anext(stream)
    assert first.replicas == ()
    assert first.conditions == {}
    await backend.close(end_replicas=True)


async def test_a_plan_comes_true_and_says_so(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish({**rig.document, "instance_type": "Standard_F2s_v2"}, 2)))
    seen = await until(backend, lambda o: ready(2)(o) and o.conditions[TARGET].phase is Phase.READY)
    assert len(ids(seen)) == 2
    for one in seen.replicas:
        assert (one.endpoint, one.deployment, one.template) == (*TARGET, "t1")
        assert rig.may_be(one.host)
        assert one.port > 0
        assert one.instance_type == "Standard_F2s_v2"
        assert one.ready_ns >= one.created_ns > 0
        assert one.restarts == 0
    await backend.close(end_replicas=True)


async def test_applying_the_same_plan_again_changes_nothing(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    for _ in range(3):
        await backend.apply(plan(wish(rig.document, 2)))
    before = await until(backend, ready(2))
    await backend.apply(plan(wish(rig.document, 2)))
    after = await until(backend, ready(2))
    assert ids(after) == ids(before)
    await backend.close(end_replicas=True)


async def test_it_scales_out_beside_what_runs_and_removes_the_named_one_only(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    one = ids(await until(backend, ready(1)))
    await backend.apply(plan(wish(rig.document, 3)))
    three = ids(await until(backend, ready(3)))
    assert one < three
    victim = next(iter(one))
    await backend.apply(plan(wish(rig.document, 2, remove=frozenset({victim, "never-there"}))))
    assert ids(await until(backend, ready(2))) == three - {victim}
    await backend.close(end_replicas=True)


async def test_a_lower_count_alone_ends_nobody(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 2)))
    both = ids(await until(backend, ready(2)))
    await backend.apply(plan(wish(rig.document, 1)))
    await backend.apply(plan(wish(rig.document, 1), wish(rig.document, 1, template="g1", target=("shop", "green"))))
    assert both < ids(await until(backend, lambda o: ready(1, "g1")(o) and ready(2)(o)))
    await backend.close(end_replicas=True)


async def test_a_new_template_starts_beside_the_old_one(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    old = ids(await until(backend, ready(1)))
    await backend.apply(plan(wish(rig.document, 1, template="t2")))
    seen = await until(backend, lambda o: ready(1)(o) and ready(1, "t2")(o))
    assert old < ids(seen)
    assert seen.conditions[TARGET].template == "t2"
    await backend.apply(plan(wish(rig.document, 1, template="t2", remove=frozenset(old))))
    assert old.isdisjoint(ids(await until(backend, lambda o: len(o.replicas) == 1)))
    await backend.close(end_replicas=True)


async def test_a_deployment_absent_from_a_plan_is_left_as_it_is(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    blue = ids(await until(backend, ready(1)))
    await backend.apply(plan(wish(rig.document, 1, template="g1", target=("shop", "green"))))
    assert blue < ids(await until(backend, lambda o: ready(1)(o) and ready(1, "g1")(o)))
    await backend.close(end_replicas=True)


async def test_what_dies_by_itself_comes_back_and_the_restart_is_counted(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    (one,) = (await until(backend, ready(1))).replicas
    await rig.crash(backend, one)
    seen = await until(backend, lambda o: ready(1)(o) and o.replicas[0].restarts == 1)
    assert seen.replicas[0].ready_ns > one.ready_ns
    await backend.close(end_replicas=True)


async def test_an_older_generation_is_refused_also_by_the_next_owner(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1), generation=7))
    with pytest.raises(Fenced):
        await backend.apply(plan(wish(rig.document, 0), generation=6))
    await until(backend, ready(1))
    await backend.close(end_replicas=False)
    following = rig.backend()
    await following.start()
    await until(following, lambda o: o.generations == {TARGET[0]: 7})  # so that a next owner without memory outdoes it
    with pytest.raises(Fenced):
        await following.apply(plan(wish(rig.document, 0), generation=6))
    await following.apply(plan(wish(rig.document, 1), generation=7))
    await following.close(end_replicas=True)


async def test_replicas_outlive_their_owner_and_are_adopted_not_doubled(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 2)))
    before = await until(backend, ready(2))
    await backend.close(end_replicas=False)
    following = rig.backend()
    await following.start()
    await following.apply(plan(wish(rig.document, 2), generation=2))
    after = await until(following, ready(2))
    assert {(o.id, o.port) for o in after.replicas} == {(o.id, o.port) for o in before.replicas}
    victim = after.replicas[0].id
    await following.apply(plan(wish(rig.document, 1, remove=frozenset({victim})), generation=2))
    assert victim not in ids(await until(following, ready(1)))
    await following.close(end_replicas=True)


async def test_a_template_that_cannot_start_says_why_and_harms_nobody(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    green = ("shop", "green")
    await rig.break_template(backend, "bad")
    await backend.apply(plan(wish(rig.document, 1), wish(rig.broken, 1, template="bad", target=green)))

    def told(seen: Observation) -> bool:  # the server's last words may be found after its failure
        return seen.conditions[green].phase is Phase.FAILED and "weights" in seen.conditions[green].log_tail

    seen = await until(backend, lambda o: ready(1)(o) and told(o))
    condition = seen.conditions[green]
    assert condition.template == "bad"
    assert condition.reason == "ResourceNotReady"
    assert seen.conditions[TARGET].phase is Phase.READY
    assert all(one.state is not ReplicaState.READY for one in seen.replicas if one.deployment == "green")
    await backend.apply(plan(wish(rig.document, 1, template="good", target=green)))
    healed = await until(backend, lambda o: ready(1, "good")(o) and ready(1)(o))
    assert healed.conditions[green].phase is not Phase.FAILED
    await backend.close(end_replicas=True)


async def test_logs_are_the_newest_lines_behind_their_replica(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 2)))
    seen = await until(backend, ready(2))
    lines: list[str] = []
    async with asyncio.timeout(DEADLINE_SECONDS):  # being ready does not wait for what was said to be written
        while {line.split()[0].rstrip(":") for line in lines} != ids(seen):
            await asyncio.sleep(0.02)
            lines = (await backend.logs(*TARGET, 100)).splitlines()
    assert (await backend.logs(*TARGET, 1)).splitlines() == lines[-1:]
    assert await backend.logs(*TARGET, 0) == ""
    assert await backend.logs("shop", "green", 10) == ""
    await backend.close(end_replicas=True)


async def test_closing_with_replicas_ends_them(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 2)))
    await until(backend, ready(2))
    await backend.close(end_replicas=True)
    following = rig.backend()
    await following.start()
    assert (await until(following, lambda _: True)).replicas == ()
    await following.close(end_replicas=True)


async def test_nothing_is_kept_of_a_deployment_that_is_gone(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    one = ids(await until(backend, ready(1)))
    await backend.apply(plan(wish(rig.document, 0, gone=True)))
    assert ids(await until(backend, lambda _: True)) == one  # still nobody's to end but the planner's
    await backend.apply(plan(wish(rig.document, 0, remove=frozenset(one), gone=True)))
    seen = await until(backend, lambda o: not o.replicas and TARGET not in o.conditions)
    assert seen.conditions == {}
    await backend.close(end_replicas=True)


async def test_zero_replicas_of_a_deployment_that_is_not_gone_are_a_state_like_others(rig: Rig) -> None:
    backend = rig.backend()
    await backend.start()
    await backend.apply(plan(wish(rig.document, 1)))
    one = ids(await until(backend, ready(1)))
    await backend.apply(plan(wish(rig.document, 0, remove=frozenset(one))))
    seen = await until(backend, lambda o: not o.replicas)
    assert seen.conditions[TARGET].phase is Phase.READY
    await backend.apply(plan(wish(rig.document, 1)))
    assert one.isdisjoint(ids(await until(backend, ready(1))))
    await backend.close(end_replicas=True)
