"""From objects to revisions: the same changes through the same door as REST, each on the revision that was looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from router.contract.errors import PreconditionFailed
from router.control import changes
from router.control.asset_references import check_files
from router.control.content import Change, Content, Document, Standing
from router.control.plane import Plane, fresh_keys
from router.control.resources import translation
from router.control.resources.kinds import DEPLOYMENT, ENDPOINT

Decide = Callable[[Standing | None], Change]


class Made(NamedTuple):
    """One revision that a round made."""

    revision: int
    words: str
    deployment: str | None
    """The one it is about; None when it is about the endpoint."""


class Committer:
    """Makes revisions of one endpoint, one after the other; `standing` is the newest."""

    def __init__(self, plane: Plane, endpoint: str, standing: Standing | None) -> None:
        self.standing = standing
        self.made: list[Made] = []
        """What was changed."""
        self._plane = plane
        self._endpoint = endpoint

    @property
    def content(self) -> Content | None:
        """Of the endpoint, where there is one."""
        return None if self.standing is None or self.standing.deleted else self.standing.content

    async def create(self, document: Document) -> None:
        """The endpoint, without traffic: its deployments come first."""
        body = translation.without_shares(translation.first_wording(document, ENDPOINT))
        await self._commit(partial(changes.put_endpoint, name=self._endpoint, body=body, new_keys=fresh_keys()))

    async def put_endpoint(self, document: Document) -> None:
        """The endpoint's document."""
        assert self.content is not None
        body = translation.worded_endpoint(document, self.content.document)
        await self._commit(partial(changes.put_endpoint, name=self._endpoint, body=body, new_keys=fresh_keys()))

    async def put_deployment(self, name: str, document: Document) -> None:
        """A deployment's document; its files are there."""
        assert self.content is not None
        before = self.content.deployments.get(name)
        if before is None:
            body = translation.first_wording(document, DEPLOYMENT)
        else:
            body = translation.worded_deployment(document, before, translation.kind_of(self.content))
        decide = partial(changes.put_deployment, endpoint=self._endpoint, name=name, body=body)
        # Decided once before: what is wrong with the document is said before what is wrong with its files.
        decided = decide(self.standing)
        await asyncio.to_thread(check_files, decided.content.deployments[name], self._plane.assets.exists)
        await self._commit(decide)

    async def delete_endpoint(self) -> None:
        """The endpoint with everything in it."""
        await self._commit(partial(changes.delete_endpoint, name=self._endpoint))

    async def delete_deployment(self, name: str) -> None:
        """A deployment that gets no traffic. Raises `Conflict` while it does."""
        await self._commit(partial(changes.delete_deployment, endpoint=self._endpoint, name=name))

    async def _commit(self, decide: Decide) -> None:
        """Raises `PreconditionFailed` when somebody else was faster."""
        expected = None if self.standing is None else self.standing.revision

        def on_what_was_seen(now: Standing | None) -> Change:
            if (None if now is None else now.revision) != expected:
                raise PreconditionFailed(f"endpoint {self._endpoint} was changed meanwhile")
            return decide(now)

        committed = await self._plane.commit(self._endpoint, on_what_was_seen)
        self.standing = committed.standing
        self.made.append(Made(committed.standing.revision, committed.change.words, committed.change.deployment))
