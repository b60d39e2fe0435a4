"""From the log to the routing snapshot: one reader of `specs` and `replicas`, one whole swap per message.

A message that makes no sense changes nothing: the endpoint stays as it was, all others go on, and a line is logged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from router.contract.codec import Malformed, UnknownSchema, decode_replicas, decode_specs
from router.contract.errors import InvalidSpec, TidegateError
from router.contract.events import REPLICAS, SPECS, EndpointReplicas, EndpointRevision
from router.gateway.routes import Endpoint
from router.policy.matching import Table

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
        self._early: dict[str, EndpointReplicas] = {}
        """Replica sets of endpoints whose revision has not been read yet."""

    async def follow(self, log: Log, on_caught_up: Callable[[], None]) -> None:
        """Apply every message, for ever; `on_caught_up` is called once, when the past has been read."""
        reader = log.reader((SPECS, REPLICAS))
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

    def _revision(self, event: EndpointRevision) -> None:
        known = self.endpoints.get(event.endpoint)
        if event.deleted:
            if known is not None:
                del self.endpoints[event.endpoint]
                self._early.pop(event.endpoint, None)
                self._swap()
                known.close()
                known.ledger.flush()
            return
        endpoint = known or Endpoint(self._state, event.endpoint)
        endpoint.apply_revision(event)
        if known is None:
            self.endpoints[event.endpoint] = endpoint
            early = self._early.pop(event.endpoint, None)
            if early is not None:
                endpoint.apply_replicas(early)
        self._swap()

    def _replicas(self, event: EndpointReplicas) -> None:
        endpoint = self.endpoints.get(event.endpoint)
        if endpoint is not None:
            endpoint.apply_replicas(event)
        else:
            self._early[event.endpoint] = event

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
