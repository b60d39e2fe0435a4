"""Rules over several fields, as CEL for the API server, so that `kubectl apply` itself says what is wrong. Pure.

The contract has the same rules and the last word. What needs more than CEL may cost is left to it: names of deployments
that differ by case alone, and limits below requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from router.contract.limits import CLASS_ALLOWED, CLASS_LENGTH, CLASS_PATTERN, MOST_CLASSES
from router.contract.rules import NAME, NAME_LENGTH
from router.contract.specs import KUBERNETES_ONLY, MANAGED_ONLY
from router.control.changes import MAX_DEPLOYMENTS
from router.control.resources.schema import Schema

MAX_KEYS = 256
"""Of the maps and lists that rules look into: the API server wants to know a bound on the work."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the section at `path` of an object; `self` is the section."""

    path: str
    holds: str
    """CEL."""
    message: str
    said: str = ""
    """CEL of the message, where it names what was found."""
    at: str = ""
    """The field that the message is about, from the section on."""

    def to_schema(self) -> Schema:
        """One item of `x-kubernetes-validations`."""
        found = {"rule": self.holds, "message": self.message, "messageExpression": self.said, "fieldPath": self.at}
        return {key: value for key, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Bound:
    """How many items the map or list at `path` may have, or how long the text there may be."""

    path: str
    keyword: str
    most: int


_LENGTHS = f"size(%s) >= {NAME_LENGTH.start} && size(%s) < {NAME_LENGTH.stop}"


def _is_name(of: str) -> str:
    return f"{of}.matches('^{NAME.expression.pattern}$') && {_LENGTHS.replace('%s', of)}"


_OWN_NAME = "must be the object's own name (metadata.name), or be left out"
_NEVER_BOTH = "a deployment gets live or mirrored traffic, never both: take it out of one of the two"
_EITHER = "use either mirror_traffic or tidegate.mirror, not both"
_TOKENS = "key; tokens are not available yet, so the endpoint would stand open"
_FIXED = "cannot be changed, because it would be another deployment: delete the object and create it anew"
_ONCE = "1: one success is enough for this probe"
_INSIDE = "a file inside the code folder, as a path from there"
_GPU = "GPUs are asked for in limits only"
_NEEDED = "cpu and memory are required where resources are given"
_TARGET = (
    "has(self.scale_settings) && has(self.scale_settings.type) && self.scale_settings.type == 'target_utilization'"
)
_COUNTED = "!has(self.scale_settings) || (has(self.scale_settings.type) && self.scale_settings.type == 'default')"
_SIDE = "self.{}.all(n, !(n in self.traffic) || self.traffic[n] == 0 || self.{}[n] == 0)"

ENDPOINT: tuple[Rule, ...] = (
    Rule(
        "",
        _is_name("self.metadata.name").replace("a-zA-Z", "a-z"),
        f"the object's name is the endpoint's: {NAME.allowed}, all in lower case",
        at=".metadata.name",
    ),
    Rule("", "!has(self.spec.name) || self.spec.name.lowerAscii() == self.metadata.name", _OWN_NAME, at=".spec.name"),
    Rule(
        "spec.traffic",
        "self.map(n, self[n]).sum() in [0, 100]",
        "the percentages must add up to 0 or 100",
        "'the percentages must add up to 0 or 100; they add up to %d'.format([self.map(n, self[n]).sum()])",
    ),
    Rule("spec.mirror_traffic", "size(self) <= 1", "at most one deployment; tidegate.mirror takes several"),
    Rule(
        "spec",
        "!has(self.mirror_traffic) || !has(self.traffic) || " + _SIDE.format("mirror_traffic", "mirror_traffic"),
        _NEVER_BOTH,
        at=".mirror_traffic",
    ),
    Rule(
        "spec",
        "!has(self.tidegate) || !has(self.tidegate.mirror) || !has(self.traffic) || "
        "self.tidegate.mirror.all(m, !(m.deployment in self.traffic) || self.traffic[m.deployment] == 0)",
        _NEVER_BOTH,
        at=".tidegate",
    ),
    Rule(
        "spec",
        "!has(self.mirror_traffic) || size(self.mirror_traffic) == 0 || !has(self.tidegate) || "
        "!has(self.tidegate.mirror) || size(self.tidegate.mirror) == 0",
        _EITHER,
        at=".mirror_traffic",
    ),
    Rule("spec", "!has(self.auth_mode) || self.auth_mode == 'key'", _TOKENS, at=".auth_mode"),
    Rule(
        "spec",
        "!has(self.compute) || !has(self.public_network_access)",
        MANAGED_ONLY,
        at=".public_network_access",
    ),
    Rule(
        "spec.tidegate.mirror",
        "self.all(m, self.exists_one(other, other.deployment == m.deployment))",
        "every deployment once",
    ),
    Rule(
        "spec.tidegate.stickiness",
        "(self.by == 'client') != has(self.name)",
        "name: the header's or cookie's name; none when sticking by client",
    ),
    Rule(
        "spec.tidegate.limits",
        "!has(self.burst) || has(self.requests_per_second)",
        "only with requests_per_second",
        at=".burst",
    ),
    Rule(
        "spec.tidegate.priorities",
        "!has(self.default) || self.default in self.classes",
        "one of the classes",
        at=".default",
    ),
    Rule("spec.tidegate.priorities.classes", "size(self) >= 2", f"2 to {MOST_CLASSES} names, the highest first"),
    Rule("spec.tidegate.priorities.classes", "self.all(c, self.exists_one(other, other == c))", "every class once"),
    Rule(
        "spec.tidegate.priorities.classes",
        f"self.all(c, c.matches('^{CLASS_PATTERN.pattern}$'))",
        CLASS_ALLOWED,
    ),
)

DEPLOYMENT: tuple[Rule, ...] = (
    Rule(
        "",
        "has(self.spec.name) || (" + _is_name("self.metadata.name") + ")",
        f"the object's name cannot be the deployment's; set spec.name: {NAME.allowed}",
        at=".metadata.name",
    ),
    Rule(
        "spec",
        "has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)",
        f"name {_FIXED}",
    ),
    Rule("spec.endpoint_name", "self == oldSelf", _FIXED),
    Rule(
        "spec",
        "!has(self.type) || self.type != 'kubernetes' || !has(self.name) || size(self.name) + size(self.endpoint_name) <= 62",
        "together with the endpoint's name at most 62 characters on Kubernetes",
        at=".name",
    ),
    Rule(
        "spec",
        "!has(self.type) || self.type != 'kubernetes' || !has(self.egress_public_network_access)",
        MANAGED_ONLY,
        at=".egress_public_network_access",
    ),
    Rule("spec", "!has(self.type) || self.type != 'managed' || !has(self.resources)", KUBERNETES_ONLY, at=".resources"),
    *(Rule(f"spec.{probe}", "!has(self.success_threshold) || self.success_threshold == 1", _ONCE, at=".success_threshold")
      for probe in ("liveness_probe", "startup_probe")),
    Rule(
        "spec.code_configuration.scoring_script",
        "!self.startsWith('/') && !self.split('/').exists(part, part == '..')",
        _INSIDE,
    ),
    Rule(
        "spec.environment_variables",
        "self.all(n, n != '' && !n.contains('='))",
        "names are not empty and have no =",
    ),
    Rule(
        "spec.scale_settings",
        "!has(self.type) || self.type == 'target_utilization' || !(has(self.min_instances) || has(self.max_instances)"
        " || has(self.target_utilization_percentage) || has(self.polling_interval))",
        "with `type: default` there are no other keys: the number of replicas is instance_count",
    ),
    Rule(
        "spec.scale_settings",
        "(has(self.type) && self.type == 'default') || (has(self.min_instances) ? self.min_instances : 1) <= "
        "(has(self.max_instances) ? self.max_instances : 1)",
        "max_instances must be at least min_instances; both are 1 when left out",
    ),
    Rule(
        "spec.tidegate",
        "!has(self.min_instances) || !has(self.max_instances) || self.min_instances <= self.max_instances",
        "min_instances must be at most max_instances",
    ),
    Rule(
        "spec",
        f"!({_COUNTED}) || !has(self.tidegate) || has(self.tidegate.max_instances) || !has(self.tidegate.min_instances)"
        " || self.tidegate.min_instances == 0 || self.tidegate.min_instances <= self.instance_count",
        "tidegate.min_instances must be at most instance_count, unless tidegate.max_instances says more",
        at=".tidegate",
    ),
    Rule(
        "spec",
        f"!({_COUNTED}) || !has(self.tidegate) || !has(self.tidegate.max_instances) || has(self.tidegate.min_instances)"
        " || self.instance_count <= self.tidegate.max_instances",
        "instance_count must be at most tidegate.max_instances, unless tidegate.min_instances says less",
        at=".instance_count",
    ),
    Rule(
        "spec.resources",
        "(!has(self.requests) && !has(self.limits)) || (has(self.requests) && 'cpu' in self.requests && 'memory' in"
        " self.requests) || ((!has(self.requests) || size(self.requests) == 0) && (!has(self.limits) || size(self.limits)"
        " == 0))",
        _NEEDED,
    ),
    Rule(
        "spec.tidegate",
        "!has(self.server_name) || (has(self.scheme) && self.scheme == 'https')",
        "server_name: only with `scheme: https`",
    ),
    Rule(
        "spec.tidegate.hedging",
        "has(self.after_ms) != has(self.percentile)",
        "either after_ms or percentile, exactly one of them",
    ),
    Rule(
        "spec.tidegate.affinity",
        "(self.by == 'header' || self.by == 'cookie') == has(self.name)",
        "name: the header's or cookie's name; none with client or body",
    ),
    Rule(
        "spec.tidegate.affinity",
        "self.by == 'body' || (!has(self.json_field) && !has(self.prefix_bytes))",
        "json_field and prefix_bytes: only with `by: body`",
    ),
    Rule("spec.resources", "!has(self.requests) || !('nvidia.com/gpu' in self.requests)", _GPU),
)  # fmt: skip

BOUNDS: tuple[Bound, ...] = (
    Bound("spec.traffic", "maxProperties", MAX_DEPLOYMENTS),
    Bound("spec.mirror_traffic", "maxProperties", MAX_DEPLOYMENTS),
    Bound("spec.tidegate.mirror", "maxItems", MAX_DEPLOYMENTS),
    Bound("spec.tidegate.priorities.classes", "maxItems", MOST_CLASSES),
    Bound("spec.tidegate.priorities.classes.*", "maxLength", CLASS_LENGTH),
    Bound("spec.tidegate.priorities.default", "maxLength", CLASS_LENGTH),
    Bound("spec.identity.user_assigned_identities", "maxItems", MAX_KEYS),
    Bound("spec.environment_variables", "maxProperties", 4 * MAX_KEYS),
    Bound("spec.code_configuration.scoring_script", "maxLength", 1024),
    Bound("spec.resources.requests", "maxProperties", MAX_KEYS),
    Bound("spec.resources.limits", "maxProperties", MAX_KEYS),
)


def validate(schema: Schema, rules: Iterable[Rule]) -> None:
    """Put the rules, and the bounds of what they look into, into the schema of a whole object."""
    for bound in BOUNDS:
        section = _at(schema, bound.path)
        if section is not None:
            section[bound.keyword] = bound.most
    for rule in rules:
        section = _at(schema, rule.path)
        if section is None:
            raise KeyError(f"no section {rule.path} to have the rule {rule.holds}")
        section.setdefault("x-kubernetes-validations", []).append(rule.to_schema())


def _at(schema: Schema, path: str) -> dict[str, Any] | None:
    found: Any = schema
    for name in path.split(".") if path else ():
        if isinstance(found, Mapping):
            found = found.get("items") if name == "*" else found.get("properties", {}).get(name)
    return found if isinstance(found, dict) else None
