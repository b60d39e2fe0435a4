"""Over random lives of a Deployment, with a ReplicaSet that takes pods as Kubernetes does: only named ones ever go."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from autoscaler.backends.kubernetes.reading import Pod, Workload
from autoscaler.backends.kubernetes.steps import VICTIM_COST, Work, step

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("count"), st.integers(0, 5)),
        st.tuples(st.just("remove"), st.integers(0, 9)),
        st.tuples(st.just("ready"), st.integers(0, 9)),
        st.tuples(st.just("unready"), st.integers(0, 9)),
        st.tuples(st.just("controller"), st.just(0)),
        st.tuples(st.just("see"), st.just(0)),
        st.tuples(st.just("foreign"), st.integers(0, 6)),
        st.tuples(st.just("act"), st.just(0)),
    ),
    max_size=40,
)


def pod(name: str, **changes: object) -> Pod:
    made = Pod(
        name=name, uid=name, endpoint="e", deployment="d", template="t", workload="w", ending=False, over=False,
        scheduled=True, running=True, ready=True, lapsed=False, preparing=False, host="h", port=1, instance_type="",
        restarts=0, created_ns=0, ready_ns=0, cost=0, trouble=None,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type] # by field name


def workload(replicas: int, running: int) -> Workload:
    return Workload(
        name="w", uid="w", version="1", endpoint="e", deployment="d", template="t", generation=1, manifest="m", edits=1,
        labelled=True, replicas=replicas, running=running, failure="", failure_since_ns=0, ending=False,
    )  # fmt: skip


class Cluster:
    """A Deployment whose controllers act when told to, and the backend's view of it, which lags behind."""

    def __init__(self, *, keep: bool) -> None:
        self.names = (f"p{number:02}" for number in itertools.count())
        self.keep = keep
        self.pods: dict[str, Pod] = {}
        self.replicas = 0
        self.count = 0
        self.remove: set[str] = set()
        self.dropped = False
        self.killed: list[str] = []
        self.seen: dict[str, Pod] = {}
        self.counted = 0

    def controller(self) -> None:
        """The ReplicaSet has its way."""
        while len(self.pods) < self.replicas:
            name = next(self.names)
            self.pods[name] = pod(name, ready=False, scheduled=False, running=False)
        order = sorted(self.pods.values(), key=lambda one: (one.scheduled, one.running, one.ready, one.cost))
        for one in order[: max(0, len(self.pods) - self.replicas)]:
            self.end(one.name)

    def end(self, name: str) -> None:
        one = self.pods.pop(name)
        if one.ready:
            self.killed.append(name)

    def see(self) -> None:
        self.seen, self.counted = dict(self.pods), len(self.pods)

    def act(self) -> Work:
        live = workload(self.replicas, self.counted)
        work = step(live, list(self.seen.values()), self.count, self.remove, keep=self.keep)
        if work.drop:
            assert not [one for one in self.pods.values() if one.ready and one.name not in self.remove]
            self.dropped = True
            return work
        for one in work.price:
            self.change(one.name, cost=VICTIM_COST)
        self.delete(work.delete_first)
        if work.scale is not None:
            self.replicas = work.scale
        self.delete(work.delete_then)
        return work

    def delete(self, pods: tuple[Pod, ...]) -> None:
        for one in pods:
            assert one.name in self.remove
            self.seen.pop(one.name, None)
            if one.name in self.pods:
                self.end(one.name)

    def change(self, name: str, **changes: object) -> None:
        for where in (self.pods, self.seen):
            if name in where:
                where[name] = dataclasses.replace(where[name], **changes)  # type: ignore[arg-type] # by field name


def play(cluster: Cluster, action: str, value: int) -> None:
    names = sorted(cluster.pods)
    chosen = names[value % len(names)] if names else ""
    moves: dict[str, Callable[[], object]] = {
        "count": lambda: setattr(cluster, "count", value),
        "remove": lambda: cluster.remove.add(chosen),
        "ready": lambda: cluster.change(chosen, ready=True, scheduled=True, running=True),
        "unready": lambda: cluster.change(chosen, ready=False),
        "controller": cluster.controller,
        "see": cluster.see,
        "foreign": lambda: setattr(cluster, "replicas", max(cluster.replicas, value)),
        "act": cluster.act,
    }
    moves[action]()


@given(ACTIONS)
def test_no_ready_pod_goes_that_was_not_named(actions: list[tuple[str, int]]) -> None:
    cluster = Cluster(keep=True)
    for action, value in actions:
        if action == "act":  # a backend acts on what it sees; readiness it learns at once here
            cluster.see()
        play(cluster, action, value)
    assert set(cluster.killed) <= cluster.remove


@given(ACTIONS, st.integers(0, 5))
def test_in_the_end_all_is_as_wished_and_nothing_is_written_any_more(
    actions: list[tuple[str, int]], count: int
) -> None:
    cluster = Cluster(keep=True)
    for action, value in actions:
        play(cluster, action, value)
    cluster.count = count
    for _ in range(10):
        cluster.see()
        cluster.act()
        cluster.controller()
        for name in list(cluster.pods):
            cluster.change(name, ready=True, scheduled=True, running=True)
    cluster.see()
    assert not cluster.act()
    assert not cluster.remove & cluster.pods.keys()
    assert len(cluster.pods) >= count
    cluster.remove |= set(sorted(cluster.pods)[count:])  # the planner names what is more than enough
    for _ in range(10):
        cluster.see()
        cluster.act()
        cluster.controller()
    assert len(cluster.pods) == count == cluster.replicas


@given(st.integers(0, 5), st.integers(0, 5))
def test_an_old_template_goes_with_its_last_replica(running: int, named: int) -> None:
    cluster = Cluster(keep=False)
    cluster.replicas = running
    cluster.controller()
    for name in list(cluster.pods):
        cluster.change(name, ready=True, scheduled=True, running=True)
    cluster.see()
    cluster.remove = set(sorted(cluster.pods)[:named])
    for _ in range(5):
        cluster.see()
        cluster.act()
        cluster.controller()
    assert cluster.dropped is (named >= running)
    assert len(cluster.pods) == max(0, running - named)


def test_two_writes_take_one_of_many() -> None:
    pods = [pod(f"p{number}") for number in range(3)]
    work = step(workload(3, 3), pods, 2, {"p1"}, keep=True)
    assert work == Work(price=(pods[1],), scale=2)


def test_one_write_takes_what_would_go_anyway_and_all_of_them() -> None:
    pods = [pod("p0"), pod("p1", ready=False), pod("p2")]
    assert step(workload(3, 3), pods, 2, {"p1"}, keep=True) == Work(scale=2)
    assert step(workload(3, 3), pods, 0, {"p0", "p1", "p2"}, keep=True) == Work(scale=0)


def test_a_sibling_that_starts_makes_the_victim_go_by_name() -> None:
    pods = [pod("p0"), pod("p1", ready=False)]
    work = step(workload(2, 2), pods, 1, {"p0"}, keep=True)
    assert work == Work(delete_first=(pods[0],), scale=1)


def test_a_victim_that_was_spared_by_a_race_goes_by_name() -> None:
    pods = [pod("p0", cost=VICTIM_COST), pod("p2")]
    assert step(workload(2, 2), pods, 2, {"p0"}, keep=True) == Work(delete_then=(pods[0],))


def test_pods_that_have_failed_for_good_are_cleared_away() -> None:
    pods = [pod("p0"), pod("p1", ending=True, over=True, ready=False), pod("p2", ending=True)]
    assert step(workload(1, 1), pods, 1, (), keep=True) == Work(delete_then=(pods[1],))


def test_surplus_pods_of_a_rollout_do_not_make_it_want_more() -> None:
    pods = [pod(f"p{number}") for number in range(3)]  # two wanted, one more while the controller exchanges them
    assert not step(workload(2, 3), pods, 2, (), keep=True)


def test_a_victim_waits_for_a_count_that_lags_behind_or_it_would_be_replaced() -> None:
    last = pod("p1")
    assert not step(workload(1, 2), [pod("p0", ending=True), last], 0, {"p0", "p1"}, keep=True)
    assert step(workload(1, 1), [pod("p0", ending=True), last], 0, {"p0", "p1"}, keep=True) == Work(scale=0)


@given(st.integers(1, 5), st.integers(0, 3), st.booleans())
def test_one_scale_in_right_after_another_replaces_nobody(running: int, lag: int, keep: bool) -> None:
    cluster = Cluster(keep=keep)
    cluster.replicas = cluster.count = running
    cluster.controller()
    for name in list(cluster.pods):
        cluster.change(name, ready=True, scheduled=True, running=True)
    before = set(cluster.pods)
    for victim in sorted(before):
        cluster.remove.add(victim)
        cluster.count -= 1
        cluster.see()
        cluster.counted += lag  # the controller has not counted again yet
        cluster.act()
        cluster.controller()
        assert cluster.pods.keys() <= before
    for _ in range(5):
        cluster.see()
        cluster.act()
        cluster.controller()
    assert not cluster.pods
