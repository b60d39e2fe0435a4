"""Values → plain trees with the keys of the documents: what differs from the default, and what is required."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from router.contract.parts import Environment, Model
from router.contract.scaling import DefaultScale, TargetUtilization


def plain(value: Any) -> Any:
    """A tree of dicts, lists and scalars that reads as `value` again."""
    if isinstance(value, Model | Environment) and value.reference is not None:
        return value.reference
    if isinstance(value, DefaultScale):
        return {"type": "default"}
    if isinstance(value, TargetUtilization):
        return {"type": "target_utilization", **_fields(value)}
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _fields(value: Any) -> dict[str, Any]:
    tree = {}
    for field in dataclasses.fields(value):
        found = getattr(value, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if found != default:
            tree[field.name] = plain(found)
    return tree
