"""One endpoint as this worker routes it: who may call, how traffic splits, what is mirrored.

`apply_revision` and `apply_replicas` take one message each, whole, between two requests; nothing is half-applied.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from mirror.sampling import Sampler
from router.contract.azure import deployment_from_document, endpoint_from_document
from router.contract.errors import InvalidSpec
from router.contract.events import DeploymentReplicas, EndpointReplicas, EndpointRevision, Phase
from router.contract.specs import AuthMode, DeploymentSpec, EndpointSpec, WebSocket
from router.gateway.lane import Lane
from router.gateway.limiter import Limiter
from router.gateway.records import Ledger
from router.gateway.splitting import Split
from router.gateway.sticking import Stick
from router.policy.cohorts import Cohorts
from router.policy.splitting import WHOLE

if TYPE_CHECKING:
    from router.contract.limits import Limits, Priorities
    from router.gateway.responses import Refusal
    from router.gateway.state import State

_LOG = logging.getLogger(__name__)
NO_LIMIT: Final = (1 << 62) - 1


class Endpoint:
    """The live state of one endpoint in one worker."""

    __slots__ = (
        "_closed",
        "_digests",
        "_fractions",
        "_phases",
        "_specs",
        "_state",
        "awake",
        "has_replicas",
        "held_bytes",
        "keys_in_use",
        "lanes",
        "last_report_ns",
        "leaving",
        "ledger",
        "limiter",
        "max_body",
        "mirrors",
        "name",
        "quiet",
        "refusals",
        "refuses",
        "replicas",
        "replicas_version",
        "revision",
        "sampler",
        "spec",
        "split",
        "stick",
        "websocket",
        "window_start_ns",
    )  # fmt: skip

    def __init__(self, state: State, name: str) -> None:
        self._state = state
        self.name = name
        self.ledger = Ledger(state.log, name, state.counters, state.ledgers)
        self.lanes: dict[str, Lane] = {}
        """Lower-case deployment name → its lane."""
        self.leaving: list[Lane] = []
        """Of deployments that are gone, as long as a request is inside: nobody may end its replica before."""
        self.revision = 0
        self.replicas_version = 0
        self.spec: EndpointSpec | None = None
        self._specs: dict[str, DeploymentSpec] = {}
        self.replicas: Mapping[str, DeploymentReplicas] = {}
        self.has_replicas = False
        """In any state."""
        self.split = Split(state, ())
        self.limiter: Limiter | None = None
        """Where the endpoint has limits of its own."""
        self.max_body = NO_LIMIT
        """Bytes of one request's body."""
        self.stick: Stick | None = None
        """Where callers stay with one deployment."""
        self.websocket = WebSocket()
        """Limits of connections that begin from now on."""
        self.mirrors: tuple[str, ...] = ()
        self.sampler: Sampler | None = None
        self._fractions: tuple[float, ...] = ()
        self._digests: tuple[bytes, ...] = ()
        self._closed = False
        self.held_bytes = 0
        """Of its waiting requests' bodies."""
        self.refusals: dict[Refusal, int] = {}
        """How often what was refused, here."""
        self.refuses = ""
        """Why nobody can be let in at all."""
        self.window_start_ns = 0
        self.last_report_ns = 0
        self.awake = False
        """Whether it is among those that are reported every period."""
        self.quiet = b""
        """Its last report, where nothing has happened since but time."""

    def wake(self) -> None:
        """Let it be reported with the next turn, and every period as long as anybody is inside."""
        if not self.awake:
            self.awake = True
            self.quiet = b""
            self._state.awake[self] = None

    def is_busy(self) -> bool:
        """Whether anybody is inside, waits, or has to leave."""
        return bool(self.leaving) or any(lane.is_busy() for lane in self.lanes.values())

    def opens(self, key: bytes | None) -> bool:
        """Whether `key` is one of the endpoint's keys; takes as long for a wrong one as for a right one."""
        if key is None:
            return False
        digest = hashlib.sha256(key).digest()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found

    def apply_revision(self, event: EndpointRevision) -> None:
        """Route by a new revision. Raises `InvalidSpec`, having changed nothing, when the endpoint makes no sense."""
        spec = endpoint_from_document(event.document)
        specs = {name.lower(): self._read(name.lower(), document) for name, document in event.deployments.items()}
        self.spec = spec
        self._specs = {name: one for name, one in specs.items() if one is not None}
        self.revision = event.revision
        self._digests = tuple(bytes.fromhex(one) for one in event.key_hashes)
        self.refuses = "" if spec.auth_mode is AuthMode.KEY else f"auth_mode {spec.auth_mode} is not supported"
        limits = spec.extras.limits
        self._renew_limiter(limits, spec.extras.priorities)
        own = limits.max_body_bytes if limits is not None else None
        self.max_body = (self._state.settings.max_body_bytes if own is None else own) or NO_LIMIT
        self._renew_lanes(set(specs) | {name for name, weight in spec.traffic.items() if weight > 0})
        self._renew_split(spec, event.cohorts)
        self._renew_mirrors(spec)
        self.websocket = spec.extras.websocket
        self.wake()

    def _renew_limiter(self, limits: Limits | None, priorities: Priorities | None) -> None:
        limiter = self.limiter
        if limiter is None and (limits is not None or priorities is not None):
            limiter = self.limiter = Limiter(self._state, self.name)
        if limiter is not None:
            limiter.configure(limits, priorities)
            if limiter.is_idle():
                limiter.close()
                self.limiter = None

    def _read(self, name: str, document: Mapping[str, Any]) -> DeploymentSpec | None:
        """The deployment's spec; the last good one where the document is broken."""
        try:
            return deployment_from_document(document, endpoint_name=self.name)
        except InvalidSpec as error:
            _LOG.error(
                "a deployment's document makes no sense; its last good one stays",
                extra={"endpoint": self.name, "deployment": name, "problems": str(error)},
            )
            return self._specs.get(name)

    def _renew_lanes(self, names: set[str]) -> None:
        for name in [one for one in self.lanes if one not in names]:
            lane = self.lanes.pop(name)
            lane.weight = 0
            self._reroute(lane)
            lane.close()
        for name in sorted(names):
            lane = self.lanes.get(name) or self._new_lane(name)
            known = self._specs.get(name)
            if known is not None:
                lane.apply_spec(known)

    def _new_lane(self, name: str) -> Lane:
        lane = Lane(self._state, self, name)
        self.lanes[name] = lane
        known = self._specs.get(name)
        if known is not None:
            lane.apply_spec(known)
        observed = self.replicas.get(name)
        if observed is not None:
            _apply(lane, observed)
        return lane

    def _renew_split(self, spec: EndpointSpec, cohorts: Cohorts) -> None:
        for name, lane in self.lanes.items():
            lane.weight = spec.traffic.get(name, 0)
            lane.rank(wanted=spec.extras.priorities is not None)
            lane.timed = spec.extras.server_timing
        live = tuple(lane for _, lane in sorted(self.lanes.items()) if lane.weight > 0)
        assert sum(lane.weight for lane in live) in (0, WHOLE)
        self.split = Split(self._state, live)
        sticky = spec.extras.stickiness
        self.stick = Stick(self.name, sticky, cohorts, self.lanes) if sticky is not None and cohorts else None
        for lane in self.lanes.values():
            if not lane.weight:
                self._reroute(lane)

    def _reroute(self, lane: Lane) -> None:
        """Who waits for a deployment that has no traffic any more, and did not name it, chooses again."""
        for exchange in list(lane.queue.waiting):
            if not exchange.named or lane.name not in self.lanes:
                exchange.choose_again()

    def _renew_mirrors(self, spec: EndpointSpec) -> None:
        targets = [one for one in spec.mirrors() if one.deployment in self.lanes]
        fractions = tuple(one.fraction for one in targets)
        self.mirrors = tuple(one.deployment for one in targets)
        if fractions != self._fractions:
            settings = self._state.settings
            phase = (settings.worker + 0.5) / settings.workers
            self.sampler = Sampler(fractions, phase) if fractions else None
            self._fractions = fractions

    def apply_replicas(self, event: EndpointReplicas) -> None:
        """Send to these replicas from now on."""
        drained = {one for lane in self.lanes.values() for one, _ in lane.draining()}
        self.replicas = event.deployments
        self.replicas_version = event.version
        self.has_replicas = any(bool(one.replicas) for one in event.deployments.values())
        self.wake()
        nothing = DeploymentReplicas(desired=0, revision=0)
        for name, lane in list(self.lanes.items()):
            _apply(lane, event.deployments.get(name, nothing))
        if {one for lane in self.lanes.values() for one, _ in lane.draining()} - drained:
            self._state.report_now(self)

    def close(self) -> None:
        """The endpoint is gone: whoever waits is told so, what is in flight ends by itself."""
        self._closed = True
        self.wake()
        if self.limiter is not None:
            self.limiter.close()
        lanes, self.lanes = self.lanes, {}
        # Who is sent back by a dying replica finds nothing to choose from any more.
        self.split, self.stick = Split(self._state, ()), None
        for lane in lanes.values():
            lane.close()
            lane.dismiss()

    def lane_over(self, lane: Lane) -> None:
        """The last request of a deployment that is gone has ended; after the endpoint's own end nobody else flushes."""
        self.leaving.remove(lane)
        if self._closed:
            self.ledger.flush()

    def abort(self) -> None:
        """Close every connection to replicas now."""
        for lane in self.lanes.values():
            lane.abort()


def _apply(lane: Lane, observed: DeploymentReplicas) -> None:
    failed = ""
    if observed.phase is Phase.FAILED:
        failed = ": ".join(part for part in (observed.reason, observed.message) if part) or "failed"
    lane.apply_replicas(observed.replicas, failed)
