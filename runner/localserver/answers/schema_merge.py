"""Several schemas that must all hold, as one schema to draw from. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner.core.wire import encode_json
from runner.localserver.answers.schema_check import SchemaError

_LARGEST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_SMALLEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def merged(schemas: Sequence[Any]) -> Any:
    """One schema that stands for all. Raises SchemaError where they exclude each other plainly."""
    result: dict[str, Any] = {}
    for schema in schemas:
        if schema is True:
            continue
        if not isinstance(schema, Mapping):
            raise SchemaError("no value is allowed")
        for word, value in schema.items():
            result[word] = _together(word, result[word], value) if word in result else value
    if result.get("additionalProperties") is False and "properties" in result:
        result = _closed(result, schemas)
    return result


def _closed(result: dict[str, Any], schemas: Sequence[Any]) -> dict[str, Any]:
    """Keep only properties that every closed part knows."""
    known = [
        set(schema.get("properties", {}))
        for schema in schemas
        if isinstance(schema, Mapping) and schema.get("additionalProperties") is False
    ]
    allowed = set.intersection(*known)
    properties = {name: item for name, item in result["properties"].items() if name in allowed}
    return {**result, "properties": properties}


def _together(word: str, one: Any, other: Any) -> Any:
    if one == other:
        return one
    combine = _COMBINE.get(word)
    if combine is not None:
        return combine(one, other)
    if word in _LARGEST:
        return max(one, other)
    if word in _SMALLEST:
        return min(one, other)
    return other


def _types(one: Any, other: Any) -> Any:
    ones = one if isinstance(one, list) else [one]
    others = other if isinstance(other, list) else [other]
    both = [kind for kind in ones if kind in others or (kind == "integer" and "number" in others)]
    both += [kind for kind in others if kind == "integer" and "number" in ones and kind not in both]
    if not both:
        raise SchemaError(f"no type is both {one} and {other}")
    return both


def _properties(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(one)
    for name, schema in other.items():
        result[name] = {"allOf": [result[name], schema]} if name in result else schema
    return result


def _enums(one: list[Any], other: list[Any]) -> list[Any]:
    texts = {encode_json(item) for item in other}
    return [item for item in one if encode_json(item) in texts]


def _lists(one: list[Any], other: list[Any]) -> list[Any]:
    return [*one, *(item for item in other if item not in one)]


def _schemas(one: Any, other: Any) -> Any:
    if one is False or other is False:
        return False
    return {"allOf": [one, other]}


def _either(one: bool, other: bool) -> bool:
    return one or other


def _options(one: list[Any], other: list[Any]) -> list[Any]:
    return [{"allOf": [left, right]} for left in one for right in other]


_COMBINE: Mapping[str, Callable[[Any, Any], Any]] = {
    "type": _types,
    "properties": _properties,
    "required": _lists,
    "allOf": _lists,
    "enum": _enums,
    "items": _schemas,
    "additionalProperties": _schemas,
    "uniqueItems": _either,
    "anyOf": _options,
    "oneOf": _options,
}
