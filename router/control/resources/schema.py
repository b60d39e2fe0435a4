"""The contract's tables of keys → OpenAPI v3 structural schemas, so that what the API server takes is what we take. Pure.

A structural schema cannot say that a value is text *or* a map (`environment: azureml:…`): that is open here, and for the
admission policy to say (`policy`). Spelling that the contract takes leniently is taken here as it is documented only:
`kubectl explain` shows it, and a refusal lists it.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from router.contract.reading import (
    Between,
    Choice,
    Key,
    Likened,
    ListOf,
    MapOf,
    Reader,
    Record,
    boolean,
    filled,
    integer,
    label,
    mapping,
    number,
    scalar,
    text,
)
from router.contract.rules import Pattern, Range

Schema = dict[str, Any]

TEXT_OR_NUMBER: Schema = {"x-kubernetes-int-or-string": True}
"""Quantities, versions, values of tags and variables. Booleans and fractions need quotes: no schema can take them too."""
ANYTHING: Schema = {"x-kubernetes-preserve-unknown-fields": True}

_SINGLE: Mapping[Any, Schema] = {
    text: {"type": "string"},
    filled: {"type": "string", "minLength": 1},
    label: TEXT_OR_NUMBER,
    scalar: TEXT_OR_NUMBER,
    integer: {"type": "integer", "format": "int64"},
    number: {"type": "number"},
    boolean: {"type": "boolean"},
    mapping: {"type": "object", **ANYTHING},
}
UNSAID = frozenset({"type", "public_network_access", "egress_public_network_access", "scale_settings"})
"""Keys without a default here, because it depends on the kind of compute or on a key beside them."""


def schema_of(reader: Reader, *, defaults: bool = True) -> Schema:
    """The values that `reader` takes. Raises `TypeError` for a reader that shows nothing of what it takes."""
    if isinstance(reader, Record):
        return {"type": "object", **_section(reader, defaults=defaults)}
    if isinstance(reader, MapOf):
        return {"type": "object", "additionalProperties": schema_of(reader.value, defaults=defaults)}
    if isinstance(reader, ListOf):
        return {"type": "array", "items": schema_of(reader.item, defaults=defaults)}
    if isinstance(reader, Choice):
        return {"type": "string", "enum": list(reader.options)}
    if isinstance(reader, Between):
        return {**schema_of(reader.read, defaults=defaults), "minimum": reader.low, "maximum": reader.high}
    if isinstance(reader, Likened):
        return _either(reader.like, defaults=defaults)
    found = _SINGLE.get(reader)
    if found is None:
        raise TypeError(f"{reader} does not show what it takes; wrap it into `Likened`")
    return copy.deepcopy(found)


def section_schema(keys: Mapping[str, Key], build: Any) -> Schema:
    """The section with these keys that becomes the dataclass `build`; what is required there is required here."""
    return schema_of(Record(build, keys))


def _either(readers: tuple[Reader, ...], *, defaults: bool) -> Schema:
    """One of several kinds of values. With more than one there is no type, and maps in it may have unknown keys."""
    if len(readers) == 1:
        return schema_of(readers[0], defaults=defaults)
    sections = [reader for reader in readers if isinstance(reader, Record)]
    return dict(ANYTHING) if not sections else {**ANYTHING, **_section(sections[0], defaults=False)}


def _section(reader: Record, *, defaults: bool) -> Schema:
    fields = (
        {one.name: one for one in dataclasses.fields(reader.build)} if dataclasses.is_dataclass(reader.build) else {}
    )
    properties: dict[str, Schema] = {}
    for name, key in reader.keys.items():
        field = fields.get(key.attribute or name)
        schema = schema_of(key.read, defaults=defaults and name not in UNSAID)
        if isinstance(key.read, Choice) and not fields:  # kept as written, and Azure writes Hour
            schema["enum"] += [option.capitalize() for option in key.read.options]
        if field is not None:
            schema |= _rule(field.metadata.get("rule"))
            default = _default(name, field) if defaults else None
            schema |= {} if default is None else {"default": default}
        properties[name] = schema
    required = [name for name, key in reader.keys.items() if key.stand_in is not None]
    return {"properties": properties, **({"required": required} if required else {})}


def _rule(rule: Any) -> Schema:
    """What `ranged` or `matching` says of a field."""
    if isinstance(rule, Range):
        opened = {"exclusiveMinimum": rule.open_low, "exclusiveMaximum": rule.open_high}
        bounds: Schema = {"minimum": rule.low, "maximum": rule.high}
        return bounds | {name: True for name, is_open in opened.items() if is_open}
    if isinstance(rule, Pattern):
        lengths = rule.lengths
        sizes = {} if lengths is None else {"minLength": lengths.start, "maxLength": lengths.stop - 1}
        return {"pattern": f"^(?:{rule.expression.pattern})$", **sizes}
    return {}


def _default(name: str, field: dataclasses.Field[Any]) -> Any:
    """Azure's default, as the API server fills it in; None where there is none to show."""
    if name in UNSAID:
        return None
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        ready = dataclasses.is_dataclass(made) and all(
            isinstance(getattr(made, one.name), int | float) for one in dataclasses.fields(made)
        )
        return {} if ready else None  # its own defaults fill it
    default = field.default.value if isinstance(field.default, enum.Enum) else field.default
    return default if isinstance(default, bool | int | float | str) and default != "" else None
