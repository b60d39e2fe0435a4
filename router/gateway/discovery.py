"""From the log to the routing snapshot: one reader of `specs` and `replicas`; each message is taken whole, between two requests.

What a message costs does not grow with the number of endpoints: names and hosts are changed in place, and made anew only
while two endpoints claim the same one.

Replicas come directly from the autoscaler too, so each set may come twice, and an older one after a newer: by
(generation, version) what is not newer than what an endpoint has is ignored. A higher generation is a later owner,
whatever its versions; a lower one is an owner that does not know yet that it is none. A message that makes no sense
changes nothing: the endpoint stays as it was, all others go on, and a line is logged.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

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
        self._names: dict[bytes, Endpoint] = {}
        self._hosts: dict[bytes, Endpoint] = {}
        state.table = Table(self._names, self._hosts)
        self._disputed = False
        """Some name or host is claimed by more than one endpoint."""
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
                    await asyncio.sleep(0)  # of thousands that come at once each is its own pause
        finally:
            await reader.close()

    def apply(self, message: Message) -> None:
        """Take one message."""
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
                self._reroute(known, self._claims(known), Claims())
                known.close()
                known.ledger.flush()
                self.leaving[event.endpoint] = known
            return
        endpoint = known or Endpoint(self._state, event.endpoint)
        before = Claims() if known is None else self._claims(known)
        endpoint.apply_revision(event)
        if known is None:
            self.endpoints[event.endpoint] = endpoint
            predecessor = self.leaving.pop(event.endpoint, None)
            if predecessor is not None:
                endpoint.leaving = predecessor.leaving  # the one list of both: lanes leave it where they were made
            early = self._replica_sets.get(event.endpoint)
            if early is not None:
                endpoint.apply_replicas(early)
        self._reroute(endpoint, before, self._claims(endpoint))

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

    def _claims(self, endpoint: Endpoint) -> Claims:
        """What requests for the endpoint may be addressed to."""
        key = endpoint.name.encode()
        own = key.lower() + b"." + self._state.settings.domain.lower().encode()
        more = endpoint.spec.extras.hosts if endpoint.spec is not None else ()
        return Claims(frozenset((key, key.lower())), own, tuple(host.lower().rstrip(".").encode() for host in more))

    def _reroute(self, endpoint: Endpoint, before: Claims, after: Claims) -> None:
        """Route by what `endpoint` claims `after` its change, and forget what was judged `before`."""
        state = self._state
        if before == after:
            state.calls.forget(endpoint)
            state.http2_calls.forget(endpoint)
            return
        state.calls.clear()
        state.http2_calls.clear()
        names, hosts = self._names, self._hosts
        new = after.hosts() - before.hosts()
        if not self._disputed and names.keys().isdisjoint(after.names - before.names) and hosts.keys().isdisjoint(new):
            for name in before.names - after.names:
                del names[name]
            for host in before.hosts() - after.hosts():
                del hosts[host]
            names.update(dict.fromkeys(after.names, endpoint))
            hosts.update(dict.fromkeys(new, endpoint))
        else:
            self._route_all()

    def _route_all(self) -> None:
        """Make the table anew. Its own name goes before what an endpoint only claims, then who came first."""
        names: dict[bytes, Endpoint] = {}
        hosts: dict[bytes, Endpoint] = {}
        claimed = 0
        for endpoint in self.endpoints.values():
            claims = self._claims(endpoint)
            names.update(dict.fromkeys(claims.names, endpoint))
            hosts[claims.own] = endpoint
            for host in claims.more:
                hosts.setdefault(host, endpoint)
            claimed += len(claims.names) + len(claims.hosts())
        self._disputed = claimed > len(names) + len(hosts)
        self._names, self._hosts = names, hosts
        self._state.table = Table(names, hosts)


class Claims(NamedTuple):
    """What leads to one endpoint, all in lower case but for its name as it is written."""

    names: frozenset[bytes] = frozenset()
    own: bytes = b""
    """Its host by its name."""
    more: tuple[bytes, ...] = ()

    def hosts(self) -> frozenset[bytes]:
        """All of them; none where there is no endpoint."""
        return frozenset((self.own, *self.more)) if self.own else frozenset()
