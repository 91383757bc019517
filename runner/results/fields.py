"""The fields of `output.schema` as typed values: which columns a JSON Schema declares, and what fits them.

Only top-level properties become columns. This is no validation (that is done where the schema is at
home); it only makes sure that a value can stand in its column, so that one odd answer never fails the
table: what does not fit is NULL, and `_answer` still holds every byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner.core.wire import JsonError, decode_json, encode_json

_SCALARS = {"string": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}
_INT64 = 1 << 63
_MAX_REFERENCES = 16

Fit = Callable[[Any], Any]


def schema_fields(schema: Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """(name, SQL type) of each top-level property, in the schema's order; empty for any other schema."""
    if schema is None:
        return ()
    found: dict[str, Any] = {}
    _gather(schema, schema, found, 0)
    return tuple((name, _sql_type(subschema, schema)) for name, subschema in found.items())


def field_reader(
    schema: Mapping[str, Any] | None, *, prefix: str = ""
) -> Callable[[str], dict[str, Any] | str]:
    """`fields_of` for one schema, which is looked through once and not for every row."""
    fits = [(name, prefix + name, _FITS[sql_type]) for name, sql_type in schema_fields(schema)]

    def read(answer: str) -> dict[str, Any] | str:
        try:
            value = decode_json(answer)
        except JsonError as error:
            return f"the answer is not JSON: {error}"
        if not isinstance(value, dict):
            return f"the answer is {_kind(value)}, not a JSON object"
        return {column: fit(value.get(name)) for name, column, fit in fits}

    return read


def fields_of(answer: str, schema: Mapping[str, Any] | None, *, prefix: str = "") -> dict[str, Any] | str:
    """The answer's fields by column name, each fitting its column's type or None; else what is wrong.

    Never raises. Integers beyond 64 bits, fractions in integer columns, lists with one odd element: None.
    """
    return field_reader(schema, prefix=prefix)(answer)


# ---------------------------------------------------------------- a schema's types


def _gather(schema: object, root: Mapping[str, Any], found: dict[str, Any], depth: int) -> None:
    schema = _resolve(schema, root)
    if not isinstance(schema, Mapping) or depth > _MAX_REFERENCES:
        return
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        for name, subschema in properties.items():
            found.setdefault(str(name), subschema)
    parts = schema.get("allOf")
    for part in parts if isinstance(parts, list | tuple) else ():
        _gather(part, root, found, depth + 1)


def _resolve(schema: object, root: Mapping[str, Any]) -> object:
    """Follow `$ref: '#/...'` inside the document; a schema that can't be followed is itself."""
    for _ in range(_MAX_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        target: Any = root
        for part in reference.removeprefix("#").split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, Mapping) else None
        schema = target
    return None


def _sql_type(schema: object, root: Mapping[str, Any]) -> str:
    kinds = _kinds(schema, root, 0) - {"null"}
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    if len(kinds) != 1:
        return "JSON"
    (kind,) = kinds
    if kind != "array":
        return _SCALARS.get(kind, "JSON")
    items = _items(schema, root)
    element = _sql_type(items, root) if items is not None else "JSON"
    return f"{element}[]" if element in _SCALARS.values() else "JSON"


def _kinds(schema: object, root: Mapping[str, Any], depth: int) -> set[str]:
    """The JSON types a schema allows; `any` where it does not say."""
    schema = _resolve(schema, root)
    if not isinstance(schema, Mapping) or depth > _MAX_REFERENCES:
        return {"any"}
    declared = schema.get("type")
    if isinstance(declared, str):
        return {declared}
    if isinstance(declared, list | tuple) and declared:
        return {str(kind) for kind in declared}
    if isinstance(schema.get("enum"), list | tuple):
        return {_json_type(value) for value in schema["enum"]} or {"any"}
    if "const" in schema:
        return {_json_type(schema["const"])}
    for word in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(word)
        if isinstance(branches, list | tuple) and branches:
            found = [_kinds(branch, root, depth + 1) for branch in branches]
            return set().union(*found) if word != "allOf" else (set.intersection(*found) or {"any"})
    return {"any"}


def _items(schema: object, root: Mapping[str, Any]) -> object:
    """The element schema of the array that this schema allows, looking through nullable variants."""
    schema = _resolve(schema, root)
    if not isinstance(schema, Mapping):
        return None
    if "items" in schema:
        return None if "prefixItems" in schema else schema["items"]
    for word in ("anyOf", "oneOf"):
        branches = schema.get(word)
        if isinstance(branches, list | tuple):
            arrays = [branch for branch in branches if _kinds(branch, root, 1) == {"array"}]
            return _items(arrays[0], root) if len(arrays) == 1 else None
    return None


def _json_type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case _:
            return "any"


# ---------------------------------------------------------------- what fits a column


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON Schema: 5.0 is an integer
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if -_INT64 <= value < _INT64 else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _anything(value: Any) -> Any:
    """What was read may be nested deeper than what can be written: as a field, of a repeat, of a row."""
    try:
        encode_json([[[[value]]]])
    except TypeError:
        return None
    return value


def _list_of(fit: Fit) -> Fit:
    def fit_all(value: Any) -> list[Any] | None:
        if not isinstance(value, list):
            return None
        fitted = [fit(element) for element in value]
        odd = any(had is not None and has is None for had, has in zip(value, fitted, strict=True))
        return None if odd else fitted

    return fit_all


_FITS: dict[str, Fit] = {
    "VARCHAR": _text, "BIGINT": _integer, "DOUBLE": _number, "BOOLEAN": _truth, "JSON": _anything,
}  # fmt: skip
_FITS |= {f"{sql_type}[]": _list_of(fit) for sql_type, fit in list(_FITS.items())}


def _kind(value: object) -> str:
    words = {"null": "null", "boolean": "true or false", "string": "a JSON string"}
    kind = _json_type(value)
    return words.get(kind, "a number" if kind in ("integer", "number") else "a JSON list")
