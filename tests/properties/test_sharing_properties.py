"""Random lives of three autoscalers: deals, deaths, machines cut off, late words; in the end each endpoint has one owner
and everything runs there, and meanwhile nobody who hears the others ends what they still route to.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.backends.base import Plan
from router.contract.events import ReplicaState
from tests.support.autoscaler_group import PARTITIONS, Ground, Group, Machine, specs

ENDPOINTS = ("tides-0", "winds-1", "rains-1", "snows-3")
WHO = st.integers(0, 2)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("deal"), st.lists(WHO, min_size=PARTITIONS, max_size=PARTITIONS)),
        st.tuples(st.just("cut"), WHO),
        st.tuples(st.just("join"), WHO),
        st.tuples(st.just("restart"), WHO),
        st.tuples(st.just("slow"), WHO),
        st.tuples(st.just("ready"), WHO),
        st.tuples(st.just("lose"), WHO),
        st.tuples(st.just("keep"), WHO),
        st.tuples(st.just("count"), st.tuples(st.sampled_from(ENDPOINTS), st.integers(1, 4))),
        st.tuples(st.just("time"), st.integers(1, 15)),
    ),
    max_size=25,
)


class Watched(Ground):
    """Notes what is ended although the newest word, which its machine has heard, routes to it."""

    group: Group
    machine: Machine
    wrong: list[str]

    def apply(self, plan: Plan, prefix: str) -> set[str]:
        routed = {
            one.id
            for endpoint, _ in plan.deployments
            if any(word.endpoint == endpoint for word in self.group.words)
            for one in self.group.routed(endpoint).replicas
            if one.state is ReplicaState.READY
        }
        before = len(self.removed)
        late = super().apply(plan, prefix)
        if not any(machine.cut_off for machine in self.group.machines):
            self.wrong += [one for one in self.removed[before:] if one in routed]
        return late


class Life:
    """Three machines and whoever deals."""

    def __init__(self, *, shared: bool) -> None:
        self.group = Group()
        self.counts = dict.fromkeys(ENDPOINTS, 2)
        self.group.revise(*(specs(one, instance_count=2) for one in ENDPOINTS))
        self.wrong: list[str] = []
        grounds = [self._ground() for _ in range(1 if shared else 3)]
        self.machines = [self.group.machine(f"m{at}", grounds[0 if shared else at]) for at in range(3)]
        for ground in grounds:
            ground.group, ground.wrong = self.group, self.wrong
        self.generation, self.number = 0, 1
        self.owners = [0, 1, 2, 0]
        self.deal()

    def _ground(self) -> Watched:
        return Watched()

    def deal(self) -> None:
        """All who can be reached are dealt the shares anew; the partitions of others go to those who can."""
        self.generation += 1
        there = [at for at, machine in enumerate(self.machines) if not machine.cut_off]
        self.owners = [one if one in there else (there or [one])[0] for one in self.owners]
        for at in there:
            self.machines[at].settle(self.share(at), self.generation)

    def share(self, who: int) -> set[int]:
        return {partition for partition, owner in enumerate(self.owners) if owner == who}

    def act(self, action: str, value: object) -> None:
        machine = self.machines[value] if isinstance(value, int) and value < 3 else self.machines[0]
        if action == "deal":
            assert isinstance(value, list)
            self.owners = list(value)
            self.deal()
        elif action == "cut" and not machine.cut_off:
            machine.cut_off = True
        elif action == "join" and machine.cut_off:
            machine.reconnect()
            self.deal()
        elif action == "restart":
            self.restart(machine)
        elif action == "slow":
            machine.ground.slow = True
        elif action == "ready":
            self.ready(machine)
        elif action == "lose" and machine.ground.replicas:
            del machine.ground.replicas[min(machine.ground.replicas)]
            machine.look()
        elif action == "keep" and not machine.cut_off:
            self.group.keep(machine)
        elif action == "count":
            assert isinstance(value, tuple)
            self.number += 1
            self.counts[value[0]] = value[1]
            self.group.revise(specs(value[0], self.number, instance_count=value[1]))
        elif action == "time":
            assert isinstance(value, int)
            self.group.run(value / 10)

    def restart(self, machine: Machine) -> None:
        share, said = machine.reconciler.territory.acting, machine.waiting
        machine.begin()
        for event in said:
            machine.reconciler.take_replicas(event)
        if machine.cut_off:
            machine.settle(share, machine.generation, confirmed=False)
        else:
            self.deal()

    def ready(self, machine: Machine) -> None:
        machine.ground.slow = False
        machine.ground.make_ready()
        for one in self.machines:
            if one.ground is machine.ground:
                one.look()

    def heal(self) -> None:
        """Everybody is back, starts what it should, and time passes."""
        for machine in self.machines:
            self.act("join", self.machines.index(machine))
        self.deal()
        for _ in range(6):
            for machine in self.machines:
                self.ready(machine)
            self.group.run(3)


def check(life: Life, *, shared: bool) -> None:
    assert not life.wrong
    life.heal()
    for endpoint in ENDPOINTS:
        owner = life.machines[life.owners[int(endpoint[-1])]]
        assert [machine.name for machine in life.machines if machine.acts_for(endpoint)] == [owner.name]
        newest = life.group.newest(endpoint)
        versions = [word.version for word in life.group.words if word.endpoint == endpoint]
        assert newest.version == max(versions), "who routes by the last word and who by the highest do the same"
        there = {one.id for one in owner.ground.replicas.values() if one.endpoint == endpoint}
        assert life.group.ids(endpoint) == life.group.ids(endpoint, ReplicaState.READY) == there
        assert len(there) == life.counts[endpoint]
        if not shared:
            for machine in life.machines:
                if machine is not owner:
                    assert endpoint not in {one.endpoint for one in machine.ground.replicas.values()}
    assert not life.wrong


@settings(max_examples=15)
@given(ACTIONS)
def test_each_with_a_backend_of_its_own(actions: list[tuple[str, object]]) -> None:
    life = Life(shared=False)
    for action, value in actions:
        life.act(action, value)
    check(life, shared=False)


@settings(max_examples=15)
@given(ACTIONS)
def test_all_on_one_backend(actions: list[tuple[str, object]]) -> None:
    life = Life(shared=True)
    for action, value in actions:
        life.act(action, value)
    check(life, shared=True)
