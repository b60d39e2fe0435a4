"""Azure's endpoint and deployment documents ↔ specs: nothing unknown passes, and what was written is written back.

Reading raises one `InvalidSpec` with every problem of the document. Writing keeps the user's own wording of every key
whose value is still the one that was read. No YAML here: the gateway imports this module and must stay small.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from router.contract.dialect import DEPLOYMENT_KEYS, ENDPOINT_KEYS, KUBERNETES_DEPLOYMENT_KEYS
from router.contract.errors import InvalidSpec, Problem
from router.contract.frozen import freeze, thaw
from router.contract.ineffective import ineffective
from router.contract.local_files import LocalFile, local_files, missing_files
from router.contract.reading import WRONG, Key, Record, Report, choice, mapping, text
from router.contract.rules import NAME_PATTERN
from router.contract.specs import (
    KUBERNETES_ONLY,
    MANAGED_ONLY,
    AuthMode,
    DefaultScale,
    DeploymentSpec,
    EndpointSpec,
    Kind,
    TargetUtilization,
    kind_of_schema,
)
from router.contract.writing import plain

__all__ = [
    "READ_ONLY_KEYS", "LocalFile", "deployment_from_document", "deployment_to_document", "endpoint_from_document",
    "endpoint_to_document", "ineffective", "local_files", "missing_files", "parse_traffic", "without_read_only",
]  # fmt: skip

READ_ONLY_KEYS = frozenset({
    "id", "kind", "location", "openapi_uri", "phase", "provisioning_state", "reason", "message", "log_tail",
    "replicas", "resource_group", "revision", "scoring_uri", "swagger_uri", "warnings",
})  # fmt: skip
"""What the control plane adds when it shows an endpoint or a deployment."""
MANAGED_ENDPOINT_KEYS = frozenset({"public_network_access"})
MANAGED_DEPLOYMENT_KEYS = frozenset({"egress_public_network_access"})
KUBERNETES_KEYS = frozenset({"resources"})
"""Keys that one kind has and the other must not have, not even with their default."""


def without_read_only(document: Mapping[str, Any]) -> dict[str, Any]:
    """A shown endpoint or deployment as a document that can be applied again."""
    return {key: thaw(value) for key, value in document.items() if key not in READ_ONLY_KEYS}


def endpoint_from_document(
    document: Mapping[str, Any], *, lines: Mapping[str, int] | None = None, file: str | None = None
) -> EndpointSpec:
    """The endpoint that `document` describes. `lines` maps dotted paths to lines of `file`, for the problems.

    Only `auth_mode: key` is taken: an endpoint that asks for a token that nobody checks must not open at all.
    """
    report = Report(file, lines)
    _refuse_read_only(report, document)
    spec: EndpointSpec = Record(EndpointSpec, ENDPOINT_KEYS)(report, "", document)
    if isinstance(document, Mapping):
        schema = document.get("$schema")
        by_schema = kind_of_schema(schema) if isinstance(schema, str) else None
        if "compute" in document or by_schema is Kind.KUBERNETES:
            _refuse_foreign(report, document, MANAGED_ENDPOINT_KEYS, MANAGED_ONLY)
        _refuse_tokens(report, document)
    report.close()
    return dataclasses.replace(spec, written=freeze(document))


def deployment_from_document(
    document: Mapping[str, Any],
    *,
    endpoint_name: str | None = None,
    kind: Kind | None = None,
    lines: Mapping[str, int] | None = None,
    file: str | None = None,
) -> DeploymentSpec:
    """The deployment that `document` describes.

    `endpoint_name` goes before the document's own, as on the command line. `kind` is what holds when neither the
    document's `type` nor its `$schema` says whether it is for managed or Kubernetes compute; managed if None.
    """
    report = Report(file, lines)
    _refuse_read_only(report, document)
    kind = _kind(report, document, kind)
    keys = KUBERNETES_DEPLOYMENT_KEYS if kind is Kind.KUBERNETES else DEPLOYMENT_KEYS
    if endpoint_name is not None:
        keys = {**keys, "endpoint_name": Key(text)}

    def build(**values: Any) -> DeploymentSpec:
        if endpoint_name is not None:
            values["endpoint_name"] = endpoint_name
        values.setdefault("scale_settings", _default_scale(kind, "instance_count" in values))
        return DeploymentSpec(**{**values, "kind": kind})

    spec: DeploymentSpec = Record(build, keys)(report, "", document)
    if kind is Kind.KUBERNETES:
        _refuse_foreign(report, document, MANAGED_DEPLOYMENT_KEYS, MANAGED_ONLY)
    else:
        _refuse_foreign(report, document, KUBERNETES_KEYS, KUBERNETES_ONLY)
    report.close()
    return dataclasses.replace(spec, written=freeze(document))


def endpoint_to_document(spec: EndpointSpec) -> dict[str, Any]:
    """The document of `spec`, which reads as `spec` again; as written where it was read from a document."""
    base = endpoint_from_document(spec.written) if spec.written is not None else None
    foreign = MANAGED_ENDPOINT_KEYS if spec.kind is Kind.KUBERNETES else frozenset()
    return _document(spec, base, ENDPOINT_KEYS, frozenset(), foreign)


def deployment_to_document(spec: DeploymentSpec) -> dict[str, Any]:
    """The document of `spec`, which reads as `spec` again; as written where it was read from a document.

    What the document did not say and the reader was told (`endpoint_name`, `kind`) is not added to it.
    """
    foreign = MANAGED_DEPLOYMENT_KEYS if spec.kind is Kind.KUBERNETES else KUBERNETES_KEYS
    base = None
    if spec.written is not None:
        own = None if "endpoint_name" in spec.written else spec.endpoint_name
        written = {key: value for key, value in spec.written.items() if key not in foreign}
        base = deployment_from_document(written, endpoint_name=own, kind=spec.kind)
    whole = {"type"} if spec.kind is not (base.kind if base else Kind.MANAGED) else set()
    scale = ("scale_settings", "instance_count")
    same = base is not None and all(getattr(base, name) == getattr(spec, name) for name in scale)
    if whole or (spec.kind is Kind.KUBERNETES and not same):
        whole.update(scale)  # whether one is written decides what the other means
    return _document(spec, base, DEPLOYMENT_KEYS, frozenset(whole), foreign)


def parse_traffic(words: str, field: str = "traffic") -> dict[str, int]:
    """`blue=90 green=10` as lower-case name → percent. Blanks or commas between, `%` allowed, `""` is no traffic.

    Whether the sum is right is for the spec to say: an update may name only some deployments.
    """
    shares: dict[str, int] = {}
    problems = []
    for item in words.replace(",", " ").split():
        name, equals, share = item.partition("=")
        share = share.removesuffix("%")
        if not equals or NAME_PATTERN.fullmatch(name) is None or not (share.isascii() and share.isdecimal()):
            problems.append(Problem(field, "<deployment>=<whole percent>, such as blue=90 green=10", item))
        elif name.lower() in shares:
            problems.append(Problem(field, "every deployment once", item))
        elif len(share) > 3 or int(share) > 100:
            problems.append(Problem(field, "a percentage from 0 to 100", item))
        else:
            shares[name.lower()] = int(share)
    if problems:
        raise InvalidSpec(problems)
    return shares


def _document(
    spec: Any, base: Any, keys: Mapping[str, Key], whole: frozenset[str], foreign: frozenset[str]
) -> dict[str, Any]:
    """The written document with every key replaced whose value differs from `base`.

    `whole` keys stand in it in any case, `foreign` ones (of the other kind, which the spec has left) in none.
    """
    document: dict[str, Any] = thaw({key: value for key, value in (spec.written or {}).items() if key not in foreign})
    for name, key in keys.items():
        attribute = key.attribute or name
        value, default = getattr(spec, attribute), _default(spec, attribute)
        if name in whole:
            document[name] = plain(value)
        elif value != (default if base is None else getattr(base, attribute)):
            document[name] = plain(value)
            if value == default:
                del document[name]
    return document


def _default(spec: Any, attribute: str) -> Any:
    field = next(field for field in dataclasses.fields(spec) if field.name == attribute)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _kind(report: Report, document: Any, fallback: Kind | None) -> Kind:
    if isinstance(document, Mapping):
        if "type" in document:
            said = choice(*Kind)(report, "type", document["type"])
            return Kind.MANAGED if said is WRONG else Kind(said)
        schema = document.get("$schema")
        by_schema = kind_of_schema(schema) if isinstance(schema, str) else None
        if by_schema is not None:
            return by_schema
    return fallback or Kind.MANAGED


def _default_scale(kind: Kind, counted: bool) -> DefaultScale | TargetUtilization:
    """Kubernetes follows the load unless the document gives a fixed count; managed compute is fixed."""
    return TargetUtilization() if kind is Kind.KUBERNETES and not counted else DefaultScale()


def _refuse_read_only(report: Report, document: Any) -> None:
    if mapping(report, "", document) is WRONG:
        return
    for key in sorted(READ_ONLY_KEYS.intersection(document)):
        report.add(key, "is set by the control plane; remove it", document[key])


def _refuse_foreign(report: Report, document: Any, keys: frozenset[str], message: str) -> None:
    for key in keys.intersection(document if isinstance(document, Mapping) else ()):
        report.add(key, message, document[key])


def _refuse_tokens(report: Report, document: Mapping[str, Any]) -> None:
    mode = choice(*AuthMode)(Report(), "auth_mode", document.get("auth_mode", "key"))
    if mode not in (WRONG, AuthMode.KEY):
        report.add(
            "auth_mode",
            "key; tokens are not available yet, so the endpoint would stand open",
            document["auth_mode"],
            "key",
        )
