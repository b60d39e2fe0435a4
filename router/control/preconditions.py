"""`If-Match` and `If-None-Match`: a writer who says what it saw can never overwrite what it did not see.

The entity tag of an endpoint and of each of its deployments is the endpoint's revision number, because all of them
change together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from router.contract.errors import Conflict, InvalidSpec, PreconditionFailed, Problem
from router.control.content import Standing

_TAG = re.compile(r'(?:W/)?"(\d{1,18})"')


@dataclass(frozen=True, slots=True)
class Precondition:
    """What the writer says about the state that it changes."""

    revisions: frozenset[int] | None = None
    """Acceptable newest revisions; None = any."""
    must_exist: bool = False
    must_be_absent: bool = False

    def check(self, standing: Standing | None, what: str, *, exists: bool) -> None:
        """Raise `PreconditionFailed` or `Conflict` unless the change may go ahead; `what` names the resource."""
        if self.must_be_absent and exists:
            raise Conflict(f"{what} exists already; leave out If-None-Match to update it")
        if (self.must_exist or self.revisions is not None) and not exists:
            raise PreconditionFailed(f"If-Match was given, but {what} does not exist")
        if self.revisions is not None and standing is not None and standing.revision not in self.revisions:
            named = ", ".join(str(number) for number in sorted(self.revisions))
            raise PreconditionFailed(
                f"If-Match named revision {named}, but the newest revision of endpoint {standing.endpoint} is"
                f" {standing.revision}: read it again, apply the change to it and send that"
            )


ANY = Precondition()


def precondition_of(if_match: str | None, if_none_match: str | None) -> Precondition:
    """The precondition that the two headers state; raises `InvalidSpec` for what is no entity tag."""
    if if_none_match is not None and if_none_match.strip() != "*":
        raise InvalidSpec([Problem("If-None-Match", "only * is possible: create, never update", if_none_match)])
    if if_match is None:
        return Precondition(must_be_absent=if_none_match is not None)
    if if_none_match is not None:
        raise InvalidSpec([Problem("If-None-Match", "cannot be combined with If-Match", if_none_match)])
    if if_match.strip() == "*":
        return Precondition(must_exist=True)
    tags = [tag.strip() for tag in if_match.split(",")]
    found = [_TAG.fullmatch(tag) for tag in tags]
    if not all(found):
        raise InvalidSpec([Problem("If-Match", 'a revision number in double quotes, as the ETag: "7"', if_match)])
    return Precondition(frozenset(int(match[1]) for match in found if match))
