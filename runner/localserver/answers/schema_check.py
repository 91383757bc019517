"""Does a value satisfy a JSON Schema? The part of draft 2020-12 in use; unknown words pass.

Small on purpose: it checks what `from_schema` drew. The test suite holds both against a full validator.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from runner.core.wire import encode_json


class SchemaError(ValueError):
    """The schema is wrong, or nothing satisfies it; the text says why."""


class Resolver:
    """Finds `#/...`, `#` and `$anchor` references inside one schema."""

    def __init__(self, root: Any) -> None:
        self._root = root

    def resolve(self, reference: Any) -> Any:
        """The schema behind a reference. Raises SchemaError for one that leads nowhere or outside."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise SchemaError(f"$ref {reference!r} leads outside the schema")
        place = self._root
        for part in unquote(reference[1:]).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            try:
                place = place[int(key)] if isinstance(place, list) else place[key]
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise SchemaError(f"$ref {reference!r} leads nowhere") from error
        return place

    def inlined(self, schema: Any) -> Any:
        """The schema with a reference on its top level replaced; siblings join it."""
        seen = 0
        while isinstance(schema, Mapping) and "$ref" in schema:
            seen += 1
            if seen > 50:
                raise SchemaError("$ref goes round in a circle")
            rest = {key: item for key, item in schema.items() if key != "$ref"}
            target = self.resolve(schema["$ref"])
            schema = {"allOf": [rest, target]} if rest else target
        return schema


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
    "number": lambda value: _is_number(value),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def fits(value: Any, schema: Any, resolver: Resolver) -> bool:
    """Does `value` satisfy `schema`?"""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and not fits(value, resolver.resolve(schema["$ref"]), resolver):
        return False
    if not _fits_type(value, schema.get("type")):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    if "enum" in schema and not any(_same(value, item) for item in schema["enum"]):
        return False
    return _fits_kind(value, schema, resolver) and _fits_others(value, schema, resolver)


def _fits_type(value: Any, kind: Any) -> bool:
    if kind is None:
        return True
    kinds = kind if isinstance(kind, list) else [kind]
    return any(name in _TYPES and _TYPES[name](value) for name in kinds)


def _same(one: Any, other: Any) -> bool:
    if _is_number(one) and _is_number(other):
        return bool(one == other)
    return encode_json(one, sort_keys=True) == encode_json(other, sort_keys=True)


def _fits_others(value: Any, schema: Mapping[str, Any], resolver: Resolver) -> bool:
    for part in schema.get("allOf", ()):
        if not fits(value, part, resolver):
            return False
    if "anyOf" in schema and not any(fits(value, part, resolver) for part in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(fits(value, part, resolver) for part in schema["oneOf"]) != 1:
        return False
    if "not" in schema and fits(value, schema["not"], resolver):
        return False
    if "if" in schema:
        branch = "then" if fits(value, schema["if"], resolver) else "else"
        return fits(value, schema.get(branch, True), resolver)
    return True


def _fits_kind(value: Any, schema: Mapping[str, Any], resolver: Resolver) -> bool:
    match value:
        case bool() | None:
            return True
        case str():
            return _fits_string(value, schema)
        case int() | float():
            return _fits_number(value, schema)
        case list():
            return _fits_array(value, schema, resolver)
        case _:
            return _fits_object(value, schema, resolver)


def _fits_string(value: str, schema: Mapping[str, Any]) -> bool:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return False
    return "pattern" not in schema or re.search(schema["pattern"], value) is not None


def _fits_number(value: float, schema: Mapping[str, Any]) -> bool:
    if not schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf):
        return False
    if not schema.get("exclusiveMinimum", -math.inf) < value < schema.get("exclusiveMaximum", math.inf):
        return False
    step = schema.get("multipleOf")
    return step is None or (value % step == 0 if isinstance(step, int) else (value / step).is_integer())


def _fits_array(value: list[Any], schema: Mapping[str, Any], resolver: Resolver) -> bool:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return False
    prefix = schema.get("prefixItems", [])
    for index, item in enumerate(value):
        part = prefix[index] if index < len(prefix) else schema.get("items", True)
        if not fits(item, part, resolver):
            return False
    if "contains" in schema and not any(fits(item, schema["contains"], resolver) for item in value):
        return False
    texts = {encode_json(item, sort_keys=True) for item in value}
    return not schema.get("uniqueItems") or len(texts) == len(value)


def _fits_object(value: Mapping[str, Any], schema: Mapping[str, Any], resolver: Resolver) -> bool:
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)):
        return False
    if any(name not in value for name in schema.get("required", ())):
        return False
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, item in value.items():
        parts = [properties[name]] if name in properties else []
        parts += [part for pattern, part in patterns.items() if re.search(pattern, name)]
        for part in parts or [schema.get("additionalProperties", True)]:
            if not fits(item, part, resolver):
                return False
    return all(
        set(wanted) <= set(value)
        for name, wanted in schema.get("dependentRequired", {}).items()
        if name in value
    )
