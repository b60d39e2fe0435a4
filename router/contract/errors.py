"""What went wrong, whose fault it is, and whether trying again can help.

Every error that reaches a person is a `TidegateError`: a stable `code`, an HTTP `status`, and a message that names
the field, the value and the fix. Errors of the outside world are translated into these at the border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document: where it stands, what was found and what is allowed."""

    field: str
    """Dotted path from the document's root, list items by index: `request_settings.request_timeout_ms`."""
    message: str
    """What is allowed, as a sentence a person can act on."""
    value: Any = None
    """What was found."""
    suggestion: str | None = None
    """The nearest right spelling, where there is one."""
    file: str | None = None
    line: int | None = None
    """1-based line in `file`."""

    def __str__(self) -> str:
        """`file:line: field: message (found value; did you mean 'x'?)`."""
        where = "" if self.file is None else (f"{self.file}:{self.line}: " if self.line else f"{self.file}: ")
        found = "" if self.value is None else f"; found {self.value!r}"
        hint = "" if self.suggestion is None else f"; did you mean {self.suggestion!r}?"
        return f"{where}{self.field}: {self.message}{found}{hint}"

    def to_json(self) -> dict[str, Any]:
        """The fields that are set, JSON-ready."""
        pairs = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in pairs.items() if value is not None}


class TidegateError(Exception):
    """Base of every error that a person or a client may see."""

    code = "InternalServerError"
    status = 500
    retryable = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def to_json(self) -> dict[str, Any]:
        """The body of an error response: `{"error": {"code", "message"}}`."""
        return {"error": {"code": self.code, "message": self.message}}


class InvalidSpec(TidegateError):
    """A document breaks its rules. Carries every problem found, not only the first."""

    code = "BadArgument"
    status = 400

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def to_json(self) -> dict[str, Any]:
        """As the base, plus `details`: one entry per problem."""
        error = {"code": self.code, "message": self.message, "details": [p.to_json() for p in self.problems]}
        return {"error": error}


class NotFound(TidegateError):
    """The named endpoint, deployment, revision or operation does not exist."""

    code = "ResourceNotFound"
    status = 404


class Conflict(TidegateError):
    """Somebody else changed it meanwhile, or another operation is running on it."""

    code = "Conflict"
    status = 409
    retryable = True


class PreconditionFailed(TidegateError):
    """`If-Match` named a revision that is no longer the newest."""

    code = "PreconditionFailed"
    status = 412


class Unavailable(TidegateError):
    """Something needed is not there right now; trying again can help."""

    code = "ServiceUnavailable"
    status = 503
    retryable = True


class Fenced(TidegateError):
    """The caller acts for an ownership that has passed to somebody else."""

    code = "Fenced"
    status = 409
