"""Decides what a request makes of an endpoint: (newest revision, request) → the change, or an error that says why not.

Pure: no store, no clock, no chance. A change is always whole; a request with any problem changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.contract import azure
from router.contract.errors import Conflict, InvalidSpec, NotFound, Problem
from router.contract.specs import DeploymentSpec, EndpointSpec, Kind
from router.contract.spelling import nearest
from router.control.content import Change, Content, Document, KeyPair, OperationKind, Standing
from router.control.preconditions import ANY, Precondition

MAX_DEPLOYMENTS = 100
"""Per endpoint; five times what Azure allows, and a bound on the size of one revision."""


def put_endpoint(
    standing: Standing | None, name: str, body: Document, new_keys: KeyPair, precondition: Precondition = ANY
) -> Change:
    """Create the endpoint `name`, or replace its document. `new_keys` are only taken for a new endpoint."""
    exists = standing is not None and not standing.deleted
    precondition.check(standing if exists else None, f"endpoint {name}", exists=exists)
    before = standing.content if standing is not None and exists else None
    document = _named(azure.without_read_only(body), "name", name)
    spec = azure.endpoint_from_document(_without_idle_shares(document, before.deployments if before else {}))
    content = Content(_endpoint_document(spec))
    if before is None:
        _check_shares(spec, {}, "set it once the deployments exist: an endpoint is created without them")
        return Change(OperationKind.CREATE, content, "create endpoint", keys=new_keys, created=True)
    _check_fixed(before.document, content.document, {"compute": None})
    _check_shares(spec, before.deployments, "name a deployment of this endpoint")
    content = before.replace(document=content.document)
    return Change(OperationKind.UPDATE, content, _what_changed(before, content))


def delete_endpoint(standing: Standing | None, name: str, precondition: Precondition = ANY) -> Change:
    """Delete the endpoint with every deployment and both keys."""
    current = existing(standing, name)
    precondition.check(current, f"endpoint {name}", exists=True)
    about_deployments = ("traffic", "mirror_traffic", "tidegate")
    gone = Content({key: value for key, value in current.content.document.items() if key not in about_deployments})
    return Change(OperationKind.DELETE, gone, "delete endpoint", deleted=True)


def put_deployment(
    standing: Standing | None,
    endpoint: str,
    name: str,
    body: Document,
    *,
    all_traffic: bool = False,
    precondition: Precondition = ANY,
) -> Change:
    """Create the deployment `name`, or replace its document."""
    current = existing(standing, endpoint)
    before, key = current.content, name.lower()
    exists = key in before.deployments
    precondition.check(current, f"deployment {name} of endpoint {endpoint}", exists=exists)
    document = _named(azure.without_read_only(body), "name", name)
    document = _named(document, "endpoint_name", endpoint)
    written = _deployment_document(azure.deployment_from_document(document, kind=kind_of(before.document)), before)
    if exists:
        _check_fixed(before.deployments[key], written, {"egress_public_network_access": "enabled"})
    elif len(before.deployments) >= MAX_DEPLOYMENTS:
        raise Conflict(
            f"endpoint {endpoint} has {MAX_DEPLOYMENTS} deployments, the most there can be: delete one first"
        )
    content = before.replace(deployments={**before.deployments, key: written})
    operation = OperationKind.UPDATE if exists else OperationKind.CREATE
    words = f"{operation} deployment {key}"
    return Change(operation, content, words, deployment=key, all_traffic=all_traffic, created=not exists)


def delete_deployment(standing: Standing | None, endpoint: str, name: str, precondition: Precondition = ANY) -> Change:
    """Delete one deployment that gets neither live nor mirrored traffic."""
    current = existing(standing, endpoint)
    content, key = current.content, known(current, name)
    precondition.check(current, f"deployment {name}", exists=True)
    _check_idle(content, endpoint, key)
    rest = {other: document for other, document in content.deployments.items() if other != key}
    restarts = {other: count for other, count in content.restarts.items() if other != key}
    without = Content(_without_idle_shares(content.document, rest), rest, restarts)
    return Change(OperationKind.DELETE, without, f"delete deployment {key}", deployment=key)


def restart_deployment(standing: Standing | None, endpoint: str, name: str) -> Change:
    """Have every replica of the deployment replaced by a new one of the same template."""
    current = existing(standing, endpoint)
    key = known(current, name)
    restarts = {**current.content.restarts, key: current.content.restarts.get(key, 0) + 1}
    content = current.content.replace(restarts=restarts)
    return Change(OperationKind.RESTART, content, f"restart deployment {key}", deployment=key)


def roll_back(standing: Standing | None, endpoint: str, target: Standing) -> Change:
    """Make the content of an earlier revision the newest. Keys and restart counts stay the current ones."""
    current = existing(standing, endpoint)
    if target.deleted:
        raise Conflict(f"revision {target.revision} is the deletion of endpoint {endpoint}: choose another one")
    _check_fixed(current.content.document, target.content.document, {"compute": None})
    names = target.content.deployments
    restarts = {**target.content.restarts, **current.content.restarts}
    content = target.content.replace(restarts={name: count for name, count in restarts.items() if name in names})
    return Change(OperationKind.ROLLBACK, content, f"roll back to revision {target.revision}")


def regenerate_key(standing: Standing | None, endpoint: str, key_type: str, fresh: KeyPair) -> Change:
    """Replace the `primary` or the `secondary` key, or both where their text is not known here."""
    current = existing(standing, endpoint)
    words = f"regenerate the {key_type} key"
    if current.keys is None:
        return Change(OperationKind.UPDATE, current.content, "regenerate both keys", keys=fresh)
    if key_type == "primary":
        keys = KeyPair(fresh.primary, current.keys.secondary)
    else:
        keys = KeyPair(current.keys.primary, fresh.secondary)
    return Change(OperationKind.UPDATE, current.content, words, keys=keys)


def give_all_traffic(standing: Standing | None, endpoint: str, deployment: str) -> Change:
    """All live traffic to one deployment, which then cannot be mirrored to any more."""
    current = existing(standing, endpoint)
    key = known(current, deployment)
    document = _without_mirror(dict(current.content.document), key)
    document["traffic"] = {key: 100}
    written = _endpoint_document(azure.endpoint_from_document(document))
    return Change(OperationKind.UPDATE, current.content.replace(document=written), f"all traffic to {key}")


def existing(standing: Standing | None, name: str) -> Standing:
    """`standing`, unless the endpoint does not exist (any more): `NotFound`."""
    if standing is None or standing.deleted:
        raise NotFound(f"endpoint {name} does not exist; `tidegate online-endpoint list` shows those that do")
    return standing


def known(standing: Standing, name: str) -> str:
    """The canonical name of an existing deployment; raises `NotFound`."""
    if name.lower() in standing.content.deployments:
        return name.lower()
    there = ", ".join(sorted(standing.content.deployments)) or "none"
    raise NotFound(f"endpoint {standing.endpoint} has no deployment {name}; it has {there}")


def kind_of(document: Document) -> Kind:
    """An endpoint with `compute` is for Kubernetes, any other is managed."""
    return Kind.KUBERNETES if document.get("compute") else Kind.MANAGED


def _endpoint_document(spec: EndpointSpec) -> dict[str, Any]:
    """As written, but for the names of deployments, which are stored in lower case."""
    document = azure.endpoint_to_document(spec)
    for section, shares in (("traffic", spec.traffic), ("mirror_traffic", spec.mirror_traffic)):
        if section in document:
            document[section] = dict(shares)
    return document


def _deployment_document(spec: DeploymentSpec, endpoint: Content) -> dict[str, Any]:
    """As written, but for the type, which a reader without the endpoint at hand must find in it."""
    document = azure.deployment_to_document(spec)
    kind = kind_of(endpoint.document)
    if spec.kind is not kind:
        rule = f"must be {kind.value!r}, because the endpoint is a {kind.value} one"
        raise InvalidSpec([Problem("type", rule, spec.kind.value)])
    return {**document, "type": kind.value} if kind is Kind.KUBERNETES else document


def _named(document: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    """`document` with its name, which may be left out but not differ from the address."""
    found = document.get(key)
    if found is None:
        return {key: name, **document}
    if isinstance(found, str) and found.lower() != name.lower():
        raise InvalidSpec([Problem(key, f"must be {name!r}, as in the address, or absent", found)])
    return document


def _without_idle_shares(document: Document, deployments: Mapping[str, Document]) -> dict[str, Any]:
    """`document` without shares of 0 for deployments that do not exist: Azure's own tools leave them behind."""
    kept = dict(document)
    for section in ("traffic", "mirror_traffic"):
        shares = kept.get(section)
        if isinstance(shares, Mapping):
            left = {name: share for name, share in shares.items() if share != 0 or str(name).lower() in deployments}
            kept[section] = left
            if not left:
                del kept[section]
    return kept


def _check_shares(spec: EndpointSpec, deployments: Mapping[str, Document], rule: str) -> None:
    """Raise `InvalidSpec` when traffic or a mirror names a deployment that does not exist."""
    mirror = "mirror_traffic" if spec.mirror_traffic else "tidegate.mirror"
    shares: list[tuple[str, str, Any]] = [("traffic", name, share) for name, share in spec.traffic.items()]
    shares += [(mirror, target.deployment.lower(), target.fraction) for target in spec.mirrors()]
    problems = [
        Problem(f"{section}.{name}", f"there is no deployment {name!r}: {rule}", share, nearest(name, deployments))
        for section, name, share in shares
        if name not in deployments
    ]
    if problems:
        raise InvalidSpec(problems)


def _check_fixed(before: Document, after: Document, fields: Mapping[str, Any]) -> None:
    """Raise `InvalidSpec` when one of `fields` (name → default) changes: those cannot."""
    problems = [
        Problem(field, f"cannot be changed: it is {was!r}; delete and create it anew", after.get(field))
        for field, default in fields.items()
        if (was := before.get(field, default)) != after.get(field, default)
    ]
    if problems:
        raise InvalidSpec(problems)


def _check_idle(content: Content, endpoint: str, key: str) -> None:
    """Raise `Conflict` with the command to run first while a deployment still gets traffic."""
    update = f"tidegate online-endpoint update --name {endpoint}"
    traffic = content.traffic
    if traffic.get(key, 0) > 0:
        others = {name: share for name, share in traffic.items() if name != key}
        heir = max(others, key=lambda name: others[name], default=None)
        shares = {key: 0} if heir is None else {key: 0, **others, heir: others[heir] + traffic[key]}
        text = " ".join(f"{name}={share}" for name, share in shares.items())
        message = f'deployment {key} gets {traffic[key]} % of the live traffic; first run: {update} --traffic "{text}"'
        raise Conflict(message)
    spec = azure.endpoint_from_document(content.document)
    if key in {target.deployment.lower() for target in spec.mirrors()}:
        mirrored = content.mirror_traffic.get(key)
        fix = f'{update} --mirror-traffic "{key}=0"' if mirrored else f"{update} --set tidegate.mirror=[]"
        raise Conflict(f"traffic is mirrored to deployment {key}; first run: {fix}")


def _without_mirror(document: dict[str, Any], key: str) -> dict[str, Any]:
    shares = {name: share for name, share in (document.pop("mirror_traffic", None) or {}).items() if name != key}
    if shares:
        document["mirror_traffic"] = shares
    extras = dict(document.get("tidegate") or {})
    if isinstance(extras.get("mirror"), list | tuple):
        extras["mirror"] = [one for one in extras["mirror"] if str(one.get("deployment", "")).lower() != key]
        document["tidegate"] = {name: value for name, value in extras.items() if name != "mirror" or value}
        if not document["tidegate"]:
            del document["tidegate"]
    return document


def _what_changed(before: Content, after: Content) -> str:
    """The changed keys in words, with the new shares where the traffic changed."""
    keys = sorted(before.document.keys() | after.document.keys())
    changed = [key for key in keys if before.document.get(key) != after.document.get(key)]
    said = [_shares(key, after.document.get(key)) if key.endswith("traffic") else key for key in changed]
    return "update " + (", ".join(said) or "endpoint (nothing changed)")


def _shares(key: str, shares: Any) -> str:
    text = " ".join(f"{name}={share}" for name, share in (shares or {}).items())
    return f"{key} to {text or 'none'}"
