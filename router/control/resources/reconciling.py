"""One endpoint with all its objects: made to agree with the store, in an order that never needs a human.

First the endpoint is there, then its deployments, then its traffic, then what is to go. A round looks at what is, never
at what happened, and may be cut off anywhere and begun again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from router.contract import azure
from router.contract.errors import InvalidSpec, PreconditionFailed, TidegateError, Unavailable
from router.contract.specs import DeploymentSpec, EndpointSpec
from router.control.content import Document
from router.control.plane import Plane
from router.control.resources import agreement, files, translation
from router.control.resources.agreement import Side, Told
from router.control.resources.committing import Committer
from router.control.resources.conditions import Verdict
from router.control.resources.editing import Editor, is_orphan
from router.control.resources.kinds import DEPLOYMENT, ENDPOINT, KINDS
from router.control.resources.objects import Found
from router.control.resources.telling import NORMAL, WARNING, Teller
from router.runtime.kubernetes import DEFINITIONS, Absent, Cluster, Denied, KubernetesError, Rejected

Step = Callable[[Found], Awaitable[None]]
_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What a round came to."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """uid → what became of the object; those that are gone are not in it."""
    objects: dict[str, Found] = field(default_factory=dict)
    """uid → the object as it is now."""
    again: bool = False
    """Whether something waits for what no event will tell, such as an upload."""


@dataclass(slots=True)
class Round:
    """One look at one endpoint."""

    plane: Plane
    cluster: Cluster
    editor: Editor
    teller: Teller
    committer: Committer
    endpoint: Found | None
    deployments: Mapping[str, Found]
    """Canonical name → the object that counts."""
    superfluous: Sequence[Found] = ()
    """Objects about deployments that have an older one."""
    outcome: Outcome = field(default_factory=Outcome)

    async def run(self) -> Outcome:
        """Until everything agrees or waits. Raises `PreconditionFailed`, `Unavailable` or `KubernetesError`: look again."""
        one = self.endpoint
        if one is not None and one.deleting:
            await self._guarded(one, self._end_endpoint)
        elif one is not None:
            await self._guarded(one, self._begin)
        for found in self.deployments.values():
            if not found.deleting:
                await self._guarded(found, self._deployment)
        one = self.endpoint
        if one is not None and not one.deleting and self.committer.content is not None:
            await self._guarded(one, self._whole_endpoint)
        for found in self.deployments.values():
            if found.deleting:
                await self._guarded(found, self._end_deployment)
        for found in self.superfluous:
            await self._guarded(found, self._second)
        return self.outcome

    async def _guarded(self, found: Found, step: Step) -> None:
        """Take one step; what is wrong with the object becomes its verdict, what is wrong with the world is raised."""
        self.outcome.objects.setdefault(found.uid, found)
        try:
            await step(found)
        except (PreconditionFailed, Unavailable):
            raise
        except Denied as error:
            self._refuse(found, Told(error.code, error.message), final=False)
            self.outcome.again = True
        except KubernetesError:
            raise
        except InvalidSpec as error:
            self._refuse(found, Told(error.code, "; ".join(f"spec.{problem}" for problem in error.problems)))
            self.outcome.again = True  # a file that is missing may be uploaded
        except TidegateError as error:
            self._refuse(found, Told(error.code, error.message), final=False)

    # the endpoint --------------------------------------------------------------------------------------------------

    async def _begin(self, found: Found) -> None:
        """Have the endpoint there, without its traffic."""
        document = translation.endpoint_document(found, self.committer.content)
        if self.committer.content is not None:
            return
        if agreement.side(found, self.committer.standing, exists=False, same=False) is Side.GONE:
            await self._deleted_elsewhere(found)
            self.endpoint = None
            return
        azure.endpoint_from_document(document)
        found = await self._claimed(found, None)
        await self.committer.create(document)
        self.endpoint = found

    async def _whole_endpoint(self, found: Found) -> None:
        """Have the endpoint as its object says, its traffic included, or the object as the endpoint is."""
        content, standing = self.committer.content, self.committer.standing
        assert content is not None
        assert standing is not None
        document = translation.endpoint_document(found, content)
        spec = azure.endpoint_from_document(document)
        same = translation.same_endpoint(document, content.document)
        side = agreement.side(found, standing, exists=True, same=same)
        found = await self._claimed(found, None)
        if side is Side.STORE:
            meant = translation.endpoint_spec(content.document, document)
            found = await self._written_back(found, document, meant)
        elif side is Side.OBJECT:
            waits = agreement.waits_for_deployments(document, standing, self.plane.fleet.replicas(standing.endpoint))
            if waits is not None:
                self._refuse(found, waits, final=False)
                return
            if not same:
                await self.committer.put_endpoint(document)
        found = await self._kept(found)
        self._accept(found, spec, {})

    async def _end_endpoint(self, found: Found) -> None:
        """Delete the endpoint, and let its object go once nothing of it is left."""
        if not found.held:
            return
        content = self.committer.content
        if content is not None and await self._only_the_object_goes(found):
            await self.editor.release(found)
            return
        if content is not None:
            document = translation.endpoint_document(found, content)
            if found.revision is None and not translation.same_endpoint(document, content.document):
                await self.editor.release(found)  # it never was this object's
                return
            await self.committer.delete_endpoint()
            self.teller.tell(found, NORMAL, "Deleting", "the endpoint takes no more requests; its replicas end")
        left = self.plane.fleet.replicas(found.endpoint)
        if left:
            count = sum(len(one.replicas) for one in left.values())
            self._refuse(found, Told("Draining", f"{count} replicas still to drain and end"), final=False)
            return
        _LOG.info("endpoint %s is deleted, and so is its object", found.endpoint)
        await self.editor.release(found)

    # deployments ---------------------------------------------------------------------------------------------------

    async def _deployment(self, found: Found) -> None:
        """Have a deployment as its object says, or the object as the deployment is."""
        name, content, standing = found.deployment, self.committer.content, self.committer.standing
        if content is None:
            if agreement.side(found, standing, exists=False, same=False) is Side.GONE:
                await self._deleted_elsewhere(found)
                return
            self._refuse(found, agreement.no_endpoint(found, self.endpoint), final=False)
            return
        if self.endpoint is not None and self.endpoint.deleting:
            self._refuse(found, Told("EndpointDeleting", f"endpoint {found.endpoint} is being deleted"), final=False)
            return
        kind, before = translation.kind_of(content), content.deployments.get(name)
        made = files.remembered(found)
        same = before is not None and translation.same_deployment(
            translation.deployment_document(found, made), before, kind
        )
        side = agreement.side(found, standing, exists=before is not None, same=same)
        if side is Side.GONE:
            await self._deleted_elsewhere(found)
            return
        found = await self._claimed(found, self.endpoint)
        if side is Side.OBJECT:
            made = await files.made_of(found, self.cluster, self.plane.assets)
            document = translation.deployment_document(found, made)
            spec = azure.deployment_from_document(document, kind=kind)
            if before is None or not translation.same_deployment(document, before, kind):
                await self.committer.put_deployment(name, document)
        else:
            document = translation.deployment_document(found, made)
            if side is Side.STORE:
                assert before is not None
                meant = translation.deployment_spec(before, document, kind)
                found = await self._written_back(found, document, meant)
                made = files.remembered(found)
                document = translation.deployment_document(found, made)
            spec = azure.deployment_from_document(document, kind=kind)
        found = await self._kept(found)
        self._accept(found, spec, made, keep_revision=side is Side.NONE)

    async def _end_deployment(self, found: Found) -> None:
        """Drain and delete a deployment, and let its object go once nothing of it is left."""
        if not found.held:
            return
        name, content = found.deployment, self.committer.content
        if content is not None and name in content.deployments:
            if is_orphan(found, self.endpoint) or await self._only_the_object_goes(found):
                _LOG.warning("%s: its object vanished with its kind or its owner; the deployment stays", found.name)
                await self.editor.release(found)
                return
            if found.revision is None:
                await self.editor.release(found)  # it never was this object's
                return
            try:
                await self.committer.delete_deployment(name)
            except (PreconditionFailed, Unavailable):
                raise
            except TidegateError as error:
                hint = f"or change spec.traffic of OnlineEndpoint {found.endpoint}; it is deleted by itself then"
                self._refuse(found, Told("HasTraffic", f"{error.message}; {hint}"), final=False)
                return
            self.teller.tell(found, NORMAL, "Deleting", "requests under way are answered, then the replicas end")
        left = self.plane.fleet.replicas(found.endpoint).get(name)
        if left is not None:
            message = f"{len(left.replicas)} replicas still to drain and end"
            self._refuse(found, Told("Draining", message), final=False)
            return
        await self.editor.release(found)

    async def _second(self, found: Found) -> None:
        """An object about what an older one is about already."""
        if found.deleting:
            await self.editor.release(found)
            return
        first = self.deployments[found.deployment].name
        message = (
            f"deployment {found.deployment} of endpoint {found.endpoint} is described by OnlineDeployment {first} already: "
            "delete one of the two, or give this one another spec.name"
        )
        self._refuse(found, Told("DeploymentAlreadyExists", message))

    # parts of these ------------------------------------------------------------------------------------------------

    async def _only_the_object_goes(self, found: Found) -> bool:
        """Whether an object is deleted because its kind is: then what it describes must go on serving."""
        for kind in KINDS if found.kind is DEPLOYMENT else (ENDPOINT,):
            try:
                definition = await self.cluster.get(DEFINITIONS, "", kind.crd)
            except Absent:
                return True
            if "deletionTimestamp" in definition["metadata"]:
                return True
        return False

    async def _deleted_elsewhere(self, found: Found) -> None:
        _LOG.info(
            "%s %s: deleted through REST or the command line, so its object goes too", found.kind.kind, found.name
        )
        await self.editor.delete(found)
        del self.outcome.objects[found.uid]

    async def _claimed(self, found: Found, owner: Found | None) -> Found:
        return self._now(await self.editor.claim(found, owner))

    async def _kept(self, found: Found) -> Found:
        return self._now(await self.editor.forget_written(found))

    async def _written_back(self, found: Found, shown: Document, meant: Document) -> Found:
        """Have what was changed elsewhere in the object too."""
        patch = translation.patch_between(shown, meant, found.spec)
        revision = self.committer.standing.revision if self.committer.standing else 0
        try:
            after = self._now(await self.editor.write_back(found, patch)) if patch else found
        except Rejected as error:
            message = f"revision {revision} came from elsewhere and is in force, but cannot stand here: {error.message}"
            self.teller.tell(found, WARNING, "OutOfStep", message)
            return found
        keys = ", ".join(sorted(patch)) or "nothing"
        self.teller.tell(
            after, NORMAL, "WrittenBack", f"revision {revision} was made elsewhere; it changed {keys} here"
        )
        return after

    def _now(self, found: Found) -> Found:
        self.outcome.objects[found.uid] = found
        if self.endpoint is not None and self.endpoint.uid == found.uid:
            self.endpoint = found
        return found

    def _accept(
        self, found: Found, spec: EndpointSpec | DeploymentSpec, made: Mapping[str, str], *, keep_revision: bool = False
    ) -> None:
        assert self.committer.standing is not None
        revision = self.committer.standing.revision
        if keep_revision and found.agreed and found.revision is not None:
            revision = found.revision
        warnings = "".join(f"; {problem.field} {problem.message}" for problem in translation.without_effect(spec))
        told = Told("Accepted", f"it is part of revision {revision}{warnings}")
        self.outcome.verdicts[found.uid] = Verdict(True, told, revision, made)

    def _refuse(self, found: Found, told: Told, *, final: bool = True) -> None:
        self.outcome.verdicts[found.uid] = Verdict(False, told, final=final)
