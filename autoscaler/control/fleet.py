"""The deployments that are to exist, as rows: revisions in, one table and one standing out.

Revisions of all endpoints are kept, because any of them may become ours; documents are read where we follow, rows are
made where we act.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from autoscaler.control.territory import Territory
from autoscaler.policy import demand
from autoscaler.policy.decider import History, Standing, fresh_standing, history_of, taken, with_histories
from autoscaler.policy.demand import DemandState, Target
from autoscaler.policy.sizing import Sizing, SpecTable, sizing_of, table_of
from autoscaler.policy.windows import Ints
from router.contract.errors import InvalidSpec
from router.contract.events import EndpointReplicas, EndpointRevision, Phase


class Fleet:
    """Every deployment of the newest revisions; rows are rebuilt when they change."""

    def __init__(self, territory: Territory) -> None:
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
        self.histories: dict[Target, History] = {}
        """Of deployments that have no row now: restored ones, and those for which we do not act at the moment."""
        self._territory = territory
        self._stale: set[str] = set()
        self._names: dict[str, set[str]] = {}
        self._templates: dict[Target, str] = {}
        """What each row's template was when it was built."""
        self.moving = False
        """Whether the rows are to be those of other endpoints."""

    def take(self, revision: EndpointRevision) -> None:
        """A newer revision of one endpoint; older ones than the newest seen are left out."""
        known = self.revisions.get(revision.endpoint)
        if known is None or revision.revision >= known.revision:
            self.revisions[revision.endpoint] = revision
            self._stale.add(revision.endpoint)

    def moved(self) -> None:
        """We act for other endpoints than before."""
        self.moving = True

    def read(self, state: DemandState) -> set[str]:
        """Read the newest documents of what is followed and give their windows a width; returns what has changed."""
        stale = {endpoint for endpoint in self._stale if self._territory.follows(endpoint)}
        self._stale -= stale
        for endpoint in stale:
            before = self._names.get(endpoint, set())
            self._read(endpoint)
            for name in before - self._names[endpoint]:
                demand.forget(state, (endpoint, name))
                self.histories.pop((endpoint, name), None)
            for name in self._names[endpoint]:
                sizing = self.sizings.get((endpoint, name))
                if sizing is not None:
                    demand.set_width(state, (endpoint, name), max(1, int(sizing.polling_seconds * 1e9)))
        return stale

    def rebuild(self, state: DemandState, published: Mapping[str, EndpointReplicas]) -> set[str]:
        """Bring the rows up to the newest revisions; returns the endpoints that changed."""
        stale = self.read(state)
        if not stale and not self.moving:
            return stale
        self.moving = False
        old_index, old_standing = self.index, self.standing
        self.targets = [target for target in self.sizings if self._territory.acts_for(target[0])]
        self.index = {target: at for at, target in enumerate(self.targets)}
        for target in set(old_index) - set(self.index):
            if target in self.sizings:
                self.histories[target] = history_of(old_standing, old_index[target])
        self.table = table_of([self.sizings[target] for target in self.targets])
        places = [old_index.get(target, -1) for target in self.targets]
        self.standing = self._with_past(taken(old_standing, np.array(places, np.int64)), published, set(old_index))
        self._templates = {target: self.sizings[target].template for target in self.targets}
        self.rows = np.array([demand.row_of(state, target) for target in self.targets], np.int64)
        return stale

    def desired(self, target: Target) -> int:
        """The count last decided for `target`; 0 for one that is not there."""
        at = self.index.get(target)
        return 0 if at is None else max(0, int(self.standing.desired[at]))

    def rows_of(self, endpoints: Iterable[str]) -> list[int]:
        """The rows of all deployments of `endpoints` that have one."""
        targets = ((endpoint, name) for endpoint in endpoints for name in self._names.get(endpoint, ()))
        return [self.index[target] for target in targets if target in self.index]

    def histories_of(self, endpoint: str) -> dict[str, History]:
        """What was decided about each deployment of `endpoint` that has a row."""
        names = ((name, self.index.get((endpoint, name))) for name in self._names.get(endpoint, ()))
        return {name: history_of(self.standing, at) for name, at in names if at is not None}

    def drop(self, endpoints: Iterable[str]) -> None:
        """These are followed no longer: keep nothing but their revisions."""
        for endpoint in endpoints:
            for name in self._names.pop(endpoint, set()):
                for kept in (self.sizings, self.unreadable, self.histories):
                    kept.pop((endpoint, name), None)
            if endpoint in self.revisions:
                self._stale.add(endpoint)
        self.moving = True

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

    def _with_past(self, standing: Standing, published: Mapping[str, EndpointReplicas], known: set[Target]) -> Standing:
        """New rows continue what was remembered and last published about them; a changed template is a trial."""
        desired, trial = standing.desired.copy(), standing.trial.copy()
        remembered: dict[int, History] = {}
        for at, target in enumerate(self.targets):
            template = self.sizings[target].template
            history = self.histories.pop(target, None)
            if target in known:
                trial[at] |= self._templates.get(target, template) != template
                continue
            last = published.get(target[0])
            told = last.deployments.get(target[1]) if last else None
            if last is None or told is None or told.phase is Phase.DELETING:
                continue
            desired[at] = told.desired
            trial[at] = bool(told.template) and told.template != template
            if history is not None and history.desired >= 0:
                remembered[at] = history.after(told.desired, last.at_ns)
        return with_histories(replace(standing, desired=desired, trial=trial), remembered)
