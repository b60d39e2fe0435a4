"""The routing table is changed in place: always what making it anew would give; of what was judged, only what changed goes."""

from __future__ import annotations

import hashlib
import random
from types import SimpleNamespace
from typing import Any

import pytest

from router.contract.codec import encode_specs
from router.contract.events import SPECS, EndpointRevision
from router.gateway.calls import Calls
from router.gateway.discovery import Discovery
from router.gateway.state import Counters
from router.policy.matching import Table
from router.runtime.log.base import Message

pytestmark = pytest.mark.interpreted  # the worker is a stand-in


class Worker:
    """Discovery with as much of a worker as endpoints without deployments need."""

    def __init__(self) -> None:
        settings: Any = SimpleNamespace(domain="Models.example", max_body_bytes=0, worker=0, workers=1)
        self.state: Any = SimpleNamespace(
            settings=settings, log=None, counters=Counters(), ledgers=[], awake={}, board=SimpleNamespace(cells=[], steps=[]),
            calls=Calls(), http2_calls=Calls(), table=Table({}, {}),
        )  # fmt: skip
        self.discovery = Discovery(self.state)  # type: ignore[arg-type]  # it is enough of one
        self._revision = 0

    def publish(self, name: str, *hosts: str, deleted: bool = False, key: str = "key") -> None:
        self._revision += 1
        document = {"name": name, "auth_mode": "key", "traffic": {}, "tidegate": {"hosts": list(hosts)}}
        keys = (hashlib.sha256(key.encode()).hexdigest(),)
        event = EndpointRevision(name, self._revision, 1, document, {}, keys, deleted=deleted)
        self.discovery.apply(Message(SPECS, 0, self._revision, name, encode_specs(event), "w", self._revision, 0))

    def routes(self) -> tuple[dict[bytes, str], dict[bytes, str]]:
        table = self.state.table
        return {key: one.name for key, one in table.names.items()}, {key: one.name for key, one in table.hosts.items()}

    def judged(self, path: str, host: str = "gateway") -> int:
        """How many calls are known after this one."""
        head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer key\r\ncontent-length: 0\r\n\r\n"
        if head.encode() not in self.state.calls.whole:
            self.state.calls.find(head.encode(), self.state.table)
        return len(self.state.calls.whole)


@pytest.mark.parametrize("seed", range(10))
def test_the_table_is_always_what_making_it_anew_would_give(seed: int) -> None:
    worker, chance = Worker(), random.Random(seed)
    names, hosts = ["tides", "waves", "foam"], ["a.example", "b.example", "waves.models.example", "c.example"]
    present: set[str] = set()
    for _ in range(200):
        name = chance.choice(names)
        gone = name in present and chance.random() < 0.3
        worker.publish(name, *chance.sample(hosts, chance.randrange(3)), deleted=gone)
        (present.discard if gone else present.add)(name)
        found = worker.routes()
        worker.discovery._route_all()
        assert found == worker.routes()
        assert set(found[0].values()) == present


def test_a_revision_of_one_endpoint_leaves_the_judged_calls_of_others() -> None:
    worker = Worker()
    for name in ("tides", "waves"):
        worker.publish(name)
        table = worker.state.table
    worker.judged("/endpoints/tides/score")
    assert worker.judged("/endpoints/waves/score") == 2
    worker.publish("waves", key="another")
    assert worker.state.table is table, "nothing was made anew"
    (left,) = worker.state.calls.whole.values()
    assert left.endpoint is worker.discovery.endpoints["tides"]
    worker.judged("/endpoints/waves/score")
    calls = [call for call in worker.state.calls.whole.values() if call.endpoint is not left.endpoint]
    assert [call.refusal is not None for call in calls] == [True], "its key is another one now"


def test_a_new_name_or_host_is_found_also_where_it_was_judged_to_be_nobodys() -> None:
    worker = Worker()
    worker.publish("tides")
    worker.judged("/endpoints/waves/score")
    worker.judged("/score", "new.example")
    worker.publish("waves", "new.example")
    worker.judged("/endpoints/waves/score")
    assert worker.judged("/score", "new.example") == 2
    assert all(call.refusal is None for call in worker.state.calls.whole.values())
    worker.publish("waves", deleted=True)
    worker.judged("/endpoints/waves/score")
    assert [call.endpoint for call in worker.state.calls.whole.values()] == [None]
