"""The deployments that are to exist, as rows: revisions in, one table and one standing out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from autoscaler.policy import demand
from autoscaler.policy.decider import Standing, fresh_standing, taken
from autoscaler.policy.demand import DemandState, Target
from autoscaler.policy.sizing import Sizing, SpecTable, sizing_of, table_of
from autoscaler.policy.windows import Ints
from router.contract.errors import InvalidSpec
from router.contract.events import EndpointReplicas, EndpointRevision, Phase


class Fleet:
    """Every deployment of the newest revisions; rows are rebuilt when they change."""

    def __init__(self) -> None:
        self.revisions: dict[str, EndpointRevision] = {}
        self.sizings: dict[Target, Sizing] = {}
        self.unreadable: dict[Target, str] = {}
        """Deployments whose document cannot be read, and why."""
        self.targets: list[Target] = []
        self.index: dict[Target, int] = {}
        self.table: SpecTable = table_of([])
        self.standing: Standing = fresh_standing(0)
        self.rows: Ints = np.zeros(0, np.int64)
        """Row of each target in the demand state."""
        self._stale: set[str] = set()
        self._names: dict[str, set[str]] = {}

    def take(self, revision: EndpointRevision) -> None:
        """A newer revision of one endpoint; older ones than the newest seen are left out."""
        known = self.revisions.get(revision.endpoint)
        if known is None or revision.revision >= known.revision:
            self.revisions[revision.endpoint] = revision
            self._stale.add(revision.endpoint)

    def rebuild(self, state: DemandState, published: Mapping[str, EndpointReplicas]) -> set[str]:
        """Bring the rows up to the newest revisions; returns the endpoints that changed."""
        stale, self._stale = self._stale, set()
        if not stale:
            return stale
        before = dict(self.sizings)
        for endpoint in stale:
            self._read(endpoint)
        old_index = self.index
        self.targets = list(self.sizings)
        self.index = {target: at for at, target in enumerate(self.targets)}
        self.table = table_of([self.sizings[target] for target in self.targets])
        places = [old_index.get(target, -1) for target in self.targets]
        self.standing = self._with_history(
            taken(self.standing, np.array(places, np.int64)), before, published, set(old_index)
        )
        for target in set(old_index) - set(self.index):
            demand.forget(state, target)
        for target, polling_ns in zip(self.targets, self.table.polling_ns.tolist(), strict=True):
            demand.set_width(state, target, polling_ns)
        self.rows = np.array([demand.row_of(state, target) for target in self.targets], np.int64)
        return stale

    def desired(self, target: Target) -> int:
        """The count last decided for `target`; 0 for one that is not there."""
        at = self.index.get(target)
        return 0 if at is None else max(0, int(self.standing.desired[at]))

    def _read(self, endpoint: str) -> None:
        revision = self.revisions[endpoint]
        names = set() if revision.deleted else set(revision.deployments)
        for gone in self._names.get(endpoint, set()) - names:
            self.sizings.pop((endpoint, gone), None)
        for name in self._names.get(endpoint, set()) | names:
            self.unreadable.pop((endpoint, name), None)
        self._names[endpoint] = names
        for deployment in sorted(names):
            try:
                self.sizings[endpoint, deployment] = sizing_of(revision, deployment)
            except InvalidSpec as error:
                self.unreadable[endpoint, deployment] = error.message
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                # One strange document must not stop the scaling of all others.
                self.unreadable[endpoint, deployment] = f"the document cannot be read: {error!r}"

    def _with_history(
        self,
        standing: Standing,
        before: Mapping[Target, Sizing],
        published: Mapping[str, EndpointReplicas],
        known: set[Target],
    ) -> Standing:
        """New rows continue what was last published about them; a changed template is a trial."""
        desired, trial = standing.desired.copy(), standing.trial.copy()
        for at, target in enumerate(self.targets):
            template = self.sizings[target].template
            if target in known:
                trial[at] |= target in before and before[target].template != template
                continue
            last = published.get(target[0])
            told = last.deployments.get(target[1]) if last else None
            if told is not None and told.phase is not Phase.DELETING:
                desired[at] = told.desired
                trial[at] = bool(told.template) and told.template != template
        return replace(standing, desired=desired, trial=trial)
