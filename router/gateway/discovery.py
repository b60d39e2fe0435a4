"""From the log to the routing snapshot: one reader of `specs` and `replicas`, one whole swap per message.

Replicas come directly from the autoscaler too, so each set may come twice, and an older one after a newer: by
(generation, version) what is not newer than what an endpoint has is ignored. A higher generation is a later owner,
whatever its versions; a lower one is an owner that does not know yet that it is none. A message that makes no sense
changes nothing: the endpoint stays as it was, all others go on, and a line is logged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from router.contract.codec import Malformed, UnknownSchema, decode_replicas, decode_specs
from router.contract.errors import InvalidSpec, TidegateError
from router.contract.events import REPLICAS, SPECS, EndpointReplicas, EndpointRevision
from router.gateway.routes import Endpoint
from router.policy.matching import Table
from router.runtime.telemetry import Limited

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.gateway.state import State
    from router.runtime.log.base import Log, Message

_LOG = logging.getLogger(__name__)


class Discovery:
    """The endpoints this worker knows."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.endpoints: dict[str, Endpoint] = {}
        self.leaving: dict[str, Endpoint] = {}
        """Those that were deleted, until nobody is inside and their last replica has ended: that waits for our word."""
        self._replica_sets: dict[str, EndpointReplicas] = {}
        """Endpoint → the newest, also where the revision has not been read yet or the endpoint may come back."""
        self._say = Limited(_LOG)

    async def follow(self, log: Log, on_caught_up: Callable[[], None]) -> None:
        """Apply every message, for ever; `on_caught_up` is called once, when the past has been read."""
        reader = await log.reader((SPECS, REPLICAS))
        caught_up = False
        try:
            while True:
                if not caught_up and await reader.caught_up():
                    caught_up = True
                    on_caught_up()
                for message in await reader.next(0.1 if not caught_up else None):
                    self.apply(message)
        finally:
            await reader.close()

    def apply(self, message: Message) -> None:
        """Take one message."""
        # Keys, hosts and names may change with it.
        self._state.calls.clear()
        self._state.http2_calls.clear()
        try:
            if message.topic == SPECS:
                self._revision(decode_specs(message.value))
            else:
                self._replicas(decode_replicas(message.value))
        except (UnknownSchema, Malformed, InvalidSpec, ValueError, TidegateError) as error:
            _LOG.error(
                "a message makes no sense; the last good one stays",
                extra={"topic": message.topic, "endpoint": message.key, "problem": str(error)},
            )

    def take_replicas(self, value: bytes) -> None:
        """Take one `replicas` message that did not come from the log."""
        try:
            self._replicas(decode_replicas(value))
        except (UnknownSchema, Malformed, ValueError, TidegateError) as error:
            message = "replicas that were told directly make no sense; the last good ones stay"
            self._say.error("told", message, problem=str(error))

    def _revision(self, event: EndpointRevision) -> None:
        known = self.endpoints.get(event.endpoint)
        if event.deleted:
            if known is not None:
                del self.endpoints[event.endpoint]
                self._swap()
                known.close()
                known.ledger.flush()
                self.leaving[event.endpoint] = known
            return
        endpoint = known or Endpoint(self._state, event.endpoint)
        endpoint.apply_revision(event)
        if known is None:
            self.endpoints[event.endpoint] = endpoint
            before = self.leaving.pop(event.endpoint, None)
            if before is not None:
                endpoint.leaving = before.leaving  # the one list of both: lanes leave it where they were made
            early = self._replica_sets.get(event.endpoint)
            if early is not None:
                endpoint.apply_replicas(early)
        self._swap()

    def _replicas(self, event: EndpointReplicas) -> None:
        newest = self._replica_sets.get(event.endpoint)
        if newest is not None and (event.generation, event.version) <= (newest.generation, newest.version):
            return
        self._replica_sets[event.endpoint] = event
        endpoint = self.endpoints.get(event.endpoint)
        if endpoint is not None:
            endpoint.apply_replicas(event)
        elif (gone := self.leaving.get(event.endpoint)) is not None:
            gone.apply_replicas(event)
            self._state.report_now(gone)

    def _swap(self) -> None:
        domain = self._state.settings.domain.lower().encode()
        names: dict[bytes, Endpoint] = {}
        hosts: dict[bytes, Endpoint] = {}
        for name, endpoint in self.endpoints.items():
            key = name.encode()
            names[key] = names[key.lower()] = endpoint
            hosts[key.lower() + b"." + domain] = endpoint
            for host in endpoint.spec.extras.hosts if endpoint.spec is not None else ():
                hosts.setdefault(host.lower().rstrip(".").encode(), endpoint)
        self._state.table = Table(names, hosts)
