"""What holds of every plan, over random lives of a deployment: nothing that may serve is removed unacknowledged."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.policy.draining import Drain, Listeners, may_remove
from router.contract.events import Phase, ReplicaState
from tests.support.autoscaler_fleet import SECOND, World, deployment, revision

GATEWAYS = ("gateway-0", "gateway-1")
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("count"), st.integers(1, 6)),
        st.tuples(st.just("template"), st.integers(0, 2)),
        st.tuples(st.just("deaf"), st.sampled_from(GATEWAYS)),
        st.tuples(st.just("hears"), st.sampled_from(GATEWAYS)),
        st.tuples(st.just("ready"), st.integers(0, 5)),
        st.tuples(st.just("unready"), st.integers(0, 5)),
        st.tuples(st.just("dies"), st.integers(0, 5)),
        st.tuples(st.just("time"), st.integers(1, 20)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=30,
)


class Life:
    """One deployment under random actions, watched by two gateways that never fall silent."""

    def __init__(self) -> None:
        self.world = World(slow=True, gateways=GATEWAYS)
        self.number, self.count, self.template = 1, 2, 0
        self.revise()
        self.world.begin()
        self.tick()

    def revise(self) -> None:
        body = deployment(instance_count=self.count, environment_variables={"T": str(self.template)})
        self.specs = revision(self.number, {"blue": body})
        self.world.reconciler.take_specs(self.specs)
        self.number += 1

    def tick(self) -> None:
        """100 ms pass; what was removed meanwhile must have been let go of by both gateways."""
        world = self.world
        routable = {
            one.id: version
            for event in world.told
            for version in [event.version]
            for one in event.deployments["blue"].replicas
            if one.state in (ReplicaState.READY, ReplicaState.UNREADY)
        }
        gone = set(world.removed)
        world.run(0.1)
        for name in set(world.removed) - gone:
            if name in routable:
                heard = min(world.heard_version.get(gateway, 0) for gateway in GATEWAYS)
                assert heard > routable[name], f"{name} was removed while a gateway still routed to it"

    def act(self, action: str, value: object) -> None:
        world = self.world
        names = sorted(world.replicas)
        if action == "count":
            self.count = int(str(value))
            self.revise()
        elif action == "template":
            self.template = int(str(value))
            self.revise()
        elif action == "deaf":
            world.deaf.add(str(value))
        elif action == "hears":
            world.deaf.discard(str(value))
        elif action in ("ready", "unready") and names:
            name = names[int(str(value)) % len(names)]
            was = world.replicas[name].state
            if action == "ready" or was is ReplicaState.READY:
                world.become(name, ReplicaState.READY if action == "ready" else ReplicaState.UNREADY)
        elif action == "dies" and names:
            del world.replicas[names[int(str(value)) % len(names)]]
            world.reconciler.take_observation("memory", world.observation())
        elif action == "restart":
            world.restart()
            world.reconciler.take_specs(self.specs)
            for gateway in GATEWAYS:
                world.say(gateway)
            world.begin()
        elif action == "time":
            for _ in range(int(str(value))):
                self.tick()


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_no_replica_goes_before_the_gateways_let_go_of_it_and_all_ends_as_wished(
    actions: list[tuple[str, object]],
) -> None:
    life = Life()
    for action, value in actions:
        life.act(action, value)
        life.tick()
    world = life.world
    world.deaf.clear()
    for _ in range(60):
        for name in sorted(world.replicas):
            if world.replicas[name].state is not ReplicaState.READY:
                world.become(name, ReplicaState.READY)
                break
        missing = world.wishes["tides", "blue"].count - len(world.replicas)
        if missing > 0:  # a backend replaces what died by itself
            world._apply(("tides", "blue"), world.wishes["tides", "blue"])
            world.reconciler.take_observation("memory", world.observation())
        life.tick()
    shown = world.shown()
    assert (shown.phase, shown.desired) == (Phase.READY, life.count)
    assert world.states() == ["ready"] * life.count
    assert {one.template for one in world.replicas.values()} <= {shown.template}


@given(st.floats(0, 400), st.integers(0, 3), st.booleans())
def test_a_drain_ends_by_its_deadline_whatever_gateways_say(waited: float, version: int, alive: bool) -> None:
    world = World()
    world.say("gateway-0")
    world.turn()
    now = world.now_ns + round(waited * SECOND)
    listeners = Listeners({}, {"gateway-0": now if alive else 0}, frozenset(), 10)
    gone = may_remove("blue-1", Drain(world.now_ns, version), listeners, 300, now)
    assert gone or waited < 300
    assert not gone or waited >= 1
