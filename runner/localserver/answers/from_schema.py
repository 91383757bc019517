"""A value that satisfies a JSON Schema, chosen by a hash: same schema and digest, same value.

Generate and check: a value is drawn by the schema's keywords, checked against the whole schema
(`schema_check`), and drawn again with another salt where it does not fit (`not`, overlapping `oneOf`,
`uniqueItems`). Recursion is bounded: below `MINIMAL_DEPTH` only what is required is made.
It must know nothing of endpoints or prompts. Keywords: those of draft 2020-12 that structured outputs use;
`$ref` only inside the schema; `if` and `contains` are left to luck and the check.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

from runner.core.wire import encode_json
from runner.localserver.answers.schema_check import Resolver, SchemaError, fits
from runner.localserver.answers.schema_merge import merged
from runner.localserver.answers.schema_strings import text_for

__all__ = ["SchemaError", "value_for"]

TRIES = 40
MINIMAL_DEPTH = 5
MAX_DEPTH = 60
MAX_PARTS = 20_000
_NOTHING = object()
_BY_KEYWORD = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "patternProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


def value_for(schema: Any, digest: str) -> Any:
    """A JSON value that satisfies `schema`. Raises SchemaError where none was found or it is wrong."""
    resolver = Resolver(schema)
    trouble = "no value that satisfies it was found"
    for salt in range(TRIES):
        try:
            value = _Maker(resolver, f"{digest}:{salt}").make(schema, "", 0)
            if fits(value, schema, resolver):
                return value
        except SchemaError as error:
            trouble = str(error)[:300]
        except _TooLargeError as error:
            raise SchemaError("the recursion has no end, or the value would be too large") from error
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            trouble = f"{type(error).__name__}: {error}"
    raise SchemaError(trouble)


class _TooLargeError(Exception):
    """The budget of one value is used up."""


class _Maker:
    """Draws one value; every choice is a function of the seed and the place in the value."""

    def __init__(self, resolver: Resolver, seed: str) -> None:
        self._resolver = resolver
        self._seed = seed
        self._budget = MAX_PARTS

    def _pick(self, path: str, choices: int) -> int:
        digest = sha256(f"{self._seed}{path}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % max(choices, 1)

    def make(self, schema: Any, path: str, depth: int) -> Any:
        """A value for a schema at a place."""
        self._budget -= 1
        if self._budget < 0:
            raise _TooLargeError
        if schema is True or schema == {}:
            return f"local {self._pick(path, 1000)}"
        if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
            raise SchemaError(f"{path or '/'}: no value fits, or the recursion has no end")
        if "$ref" in schema:
            rest = {key: item for key, item in schema.items() if key != "$ref"}
            target = self._resolver.resolve(schema["$ref"])
            return self.make(merged([rest, target]) if rest else target, path, depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._from_enum(schema, path)
        if "allOf" in schema:
            rest = {key: item for key, item in schema.items() if key != "allOf"}
            parts = [self._resolver.inlined(part) for part in schema["allOf"]]
            return self.make(merged([rest, *parts]), path, depth + 1)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self._from_options(schema, word, path, depth)
        return self._by_type(schema, path, depth)

    def _from_enum(self, schema: Mapping[str, Any], path: str) -> Any:
        rest = {key: item for key, item in schema.items() if key != "enum"}
        fitting = [item for item in schema["enum"] if fits(item, rest, self._resolver)]
        if not fitting:
            raise SchemaError(f"{path or '/'}: no value of the enum fits")
        return fitting[self._pick(path, len(fitting))]

    def _from_options(self, schema: Mapping[str, Any], word: str, path: str, depth: int) -> Any:
        rest = {key: item for key, item in schema.items() if key != word}
        options = list(schema[word])
        first = self._pick(f"{path}?{word}", len(options))
        options = options[first:] + options[:first]
        if depth >= MINIMAL_DEPTH:
            options.sort(key=self._weight)
        trouble: SchemaError | None = None
        for option in options:
            try:
                return self.make(merged([rest, self._resolver.inlined(option)]), path, depth + 1)
            except SchemaError as error:
                trouble = error
        raise trouble or SchemaError(f"{path or '/'}: {word} is empty")

    def _weight(self, option: Any) -> int:
        """How much a schema can grow: deep down, what holds least comes first."""
        return len(encode_json(self._resolver.inlined(option))) if isinstance(option, Mapping) else 0

    def _by_type(self, schema: Mapping[str, Any], path: str, depth: int) -> Any:
        kind = self._kind(schema, path, depth)
        match kind:
            case "object":
                return self._object(schema, path, depth)
            case "array":
                return self._array(schema, path, depth)
            case "string":
                return text_for(schema, lambda choices: self._pick(path, choices))
            case "integer" | "number":
                return self._number(schema, path, is_whole=kind == "integer")
            case "boolean":
                return self._pick(path, 2) == 1
            case "null":
                return None
            case _:
                raise SchemaError(f"{path or '/'}: unknown type {kind!r}")

    def _kind(self, schema: Mapping[str, Any], path: str, depth: int) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            if not kind:
                raise SchemaError(f"{path or '/'}: no type is allowed")
            if depth >= MINIMAL_DEPTH and "null" in kind:
                return "null"
            return str(kind[self._pick(f"{path}?type", len(kind))])
        if kind is not None:
            return str(kind)
        for name, words in _BY_KEYWORD.items():
            if any(word in schema for word in words):
                return name
        return "string"

    def _object(self, schema: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = list(schema.get("required", []))
        names = [name for name in properties if depth < MINIMAL_DEPTH or name in required]
        names += [name for name in required if name not in properties]
        value: dict[str, Any] = {}
        for name in names[: max(int(schema.get("maxProperties", len(names))), len(required))]:
            inner = properties[name] if name in properties else self._extra(schema, name)
            try:
                value[name] = self.make(inner, f"{path}/{name}", depth + 1)
            except SchemaError:
                if name in required:
                    raise
        number = 0
        while len(value) < int(schema.get("minProperties", 0)):
            name = f"extra_{number}"
            value.setdefault(name, self.make(self._extra(schema, name), f"{path}/{name}", depth + 1))
            number += 1
        return value

    def _extra(self, schema: Mapping[str, Any], name: str) -> Any:
        extra = schema.get("additionalProperties", True)
        if extra is False:
            raise SchemaError(f"property {name!r} is required but not allowed")
        return extra

    def _array(self, schema: Mapping[str, Any], path: str, depth: int) -> list[Any]:
        prefix = list(schema.get("prefixItems", []))
        low = int(schema.get("minItems", 0))
        wanted = low if depth >= MINIMAL_DEPTH else max(low, len(prefix), 1 + self._pick(f"{path}?n", 2))
        wanted = min(wanted, int(schema.get("maxItems", wanted)))
        items = schema.get("items", True)
        if items is False:
            wanted = min(wanted, len(prefix))
        value: list[Any] = []
        candidates = self._candidates(prefix, items, path, depth)
        while len(value) < wanted:
            candidate = next(candidates, _NOTHING)
            if candidate is _NOTHING:
                break
            if not schema.get("uniqueItems") or all(encode_json(candidate) != encode_json(v) for v in value):
                value.append(candidate)
        return value

    def _candidates(self, prefix: list[Any], items: Any, path: str, depth: int) -> Iterator[Any]:
        """Items in order; more of the last kind than needed, so that doubles can be left out."""
        for index, schema in enumerate(prefix):
            yield self.make(schema, f"{path}/{index}", depth + 1)
        for index in range(len(prefix), MAX_PARTS):
            yield self.make(items, f"{path}/{index}", depth + 1)

    def _number(self, schema: Mapping[str, Any], path: str, *, is_whole: bool) -> int | float:
        low, high = _bounds(schema)
        step = schema.get("multipleOf")
        if step is None and (is_whole or high - low >= 1):
            step = 1
        if step is None:
            return float(low + (high - low) * (1 + self._pick(path, 998)) / 1_000)
        if is_whole and float(step) != int(step):
            step = _whole_multiple(step)
        first, last = math.ceil(low / step), math.floor(high / step)
        while schema.get("exclusiveMinimum") is not None and first * step <= schema["exclusiveMinimum"]:
            first += 1
        while schema.get("exclusiveMaximum") is not None and last * step >= schema["exclusiveMaximum"]:
            last -= 1
        if first > last:
            raise SchemaError(f"{path or '/'}: no number lies within the bounds")
        value = (first + self._pick(path, min(last - first + 1, 1_000))) * step
        return int(value) if is_whole or value == int(value) else float(value)


def _bounds(schema: Mapping[str, Any]) -> tuple[float, float]:
    lows = [schema[name] for name in ("minimum", "exclusiveMinimum") if schema.get(name) is not None]
    highs = [schema[name] for name in ("maximum", "exclusiveMaximum") if schema.get(name) is not None]
    low = max(lows) if lows else None
    high = min(highs) if highs else None
    if low is None:
        low = 0 if high is None or high >= 0 else high - 100
    return low, (max(low + 100, 100) if high is None else high)


def _whole_multiple(step: float) -> float:
    for factor in range(1, 1_000):
        if float(step * factor).is_integer():
            return step * factor
    raise SchemaError("multipleOf has no whole multiple")
