"""Shapes of JSON values: what records have in common, as DuckDB types, and where the numbers are in it.

A shape is what DuckDB's `json_structure` gives: a type's word, a mapping of fields, or a list of one shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from runner.core.wire import encode_json
from runner.dataset import engine

_MAX_FIELDS = 200
"""A nested object with more different fields than that is a map with data for keys: kept as JSON."""
MAX_LEVELS = 60
"""What lies deeper is kept as JSON: types of types are walked by calls, here and in DuckDB."""
_SCALARS = {
    "VARCHAR": "VARCHAR",
    "BOOLEAN": "BOOLEAN",
    "BIGINT": "BIGINT",
    "UBIGINT": "BIGINT",
    "HUGEINT": "HUGEINT",
    "DOUBLE": "DOUBLE",
    "TEXT": "VARCHAR",
}
_WIDTH = {"UBIGINT": 0, "BIGINT": 1, "HUGEINT": 2, "DOUBLE": 3}
_EXACT_DIGITS = 15
"""Whole numbers of so many digits are exact in a DOUBLE, whatever they are."""
_DECIMAL_DIGITS = 38
_MAX_BIGINT = 2**63 - 1


def shallow(shape: Any, levels: int = MAX_LEVELS) -> Any:
    """The shape with the word JSON for what lies deeper than so many levels."""
    if isinstance(shape, str):
        return shape
    if not levels:
        return "JSON"
    if isinstance(shape, list):
        return [shallow(part, levels - 1) for part in shape]
    return {field: shallow(part, levels - 1) for field, part in shape.items()}


def together(one: Any, other: Any) -> Any:
    """A shape that holds values of both; the word JSON where there is none but that."""
    if one == other or other == "NULL":
        return one
    if one == "NULL":
        return other
    if isinstance(one, dict) and isinstance(other, dict):
        fields = dict(one)
        for name, shape in other.items():
            fields[name] = together(fields[name], shape) if name in fields else shape
        return fields
    if isinstance(one, list) and isinstance(other, list):
        return [together(one[0], other[0])]
    if isinstance(one, str) and isinstance(other, str) and one in _WIDTH and other in _WIDTH:
        return max(one, other, key=_WIDTH.__getitem__)
    return "JSON"


def sql_type(shape: Any) -> str:
    """DuckDB's type for a shape; JSON where values have no type in common."""
    if isinstance(shape, list):
        return f"{sql_type(shape[0])}[]" if shape and shape[0] != "NULL" else "JSON[]"
    if isinstance(shape, dict):
        if not _is_struct(shape):
            return "JSON"
        fields = ", ".join(f"{engine.name(field)} {sql_type(part)}" for field, part in shape.items())
        return f"STRUCT({fields})"
    # Never seen with a value: text, so that it can be printed and compared.
    return "VARCHAR" if shape == "NULL" else _SCALARS.get(shape, "JSON")


def _is_struct(shape: dict[str, Any]) -> bool:
    names = {field.casefold() for field in shape}
    return 0 < len(shape) <= _MAX_FIELDS and len(names) == len(shape) and "" not in names


def transformed(column: str, shape: Any) -> str:
    """SQL that reads a column of JSON text as its shape, as DuckDB's own reader does."""
    if isinstance(shape, str):
        return f"CAST({column} AS {sql_type(shape)})"
    return f"json_transform({column}, {engine.text(encode_json(_plain(shape)).decode())})"


def _plain(shape: Any) -> Any:
    """The shape in the words of `json_transform`."""
    if isinstance(shape, list):
        return [_plain(shape[0])] if shape and shape[0] != "NULL" else ["JSON"]
    if isinstance(shape, dict):
        return {field: _plain(part) for field, part in shape.items()} if _is_struct(shape) else "JSON"
    return sql_type(shape)


# ---------------------------------------------------------------- numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberLeaf:
    """A place in a shape that holds numbers. `steps` lead to it: a field's name, or None into a list."""

    steps: tuple[str | None, ...]
    kind: str

    def test(self, column: str) -> str:
        """SQL for what `judged` must know of all values: whole numbers in what is called DOUBLE."""
        if self.kind != "DOUBLE":
            if not self.steps:
                return f"bool_or({column} IS NOT NULL AND TRY_CAST({column} AS BIGINT) IS NULL)"
            values = self._found(column, self.steps)
            values = values if None in self.steps else f"[{values}]"
            return f"max(list_max(TRY_CAST({values} AS HUGEINT[]))) > {_MAX_BIGINT}"
        if not self.steps:
            is_whole = f"regexp_full_match({column}, '-?[0-9]+')"
            digits = f"CASE WHEN {is_whole} THEN length(ltrim({column}, '-')) ELSE 0 END"
            return f"[max({digits}), count(CASE WHEN NOT {is_whole} THEN 1 END)]"
        # Nothing but numbers, nulls and brackets, so that a comma or a bracket follows each number.
        text = f"'[' || CAST({self._found(column, self._outer())} AS VARCHAR) || ']'"
        is_whole = f"regexp_matches({text}, '[\\[, ]-?[0-9]+[],]')"
        is_long = f"regexp_matches({text}, '[\\[, ]-?[0-9]{{{_EXACT_DIGITS + 1},}}[],]')"
        digits = (
            f"CASE WHEN {is_whole} THEN CASE WHEN {is_long} THEN {_EXACT_DIGITS + 1} ELSE 1 END ELSE 0 END"
        )
        return f"[max({digits}), 1]"

    def _outer(self) -> tuple[str | None, ...]:
        """The steps to the outermost list that holds numbers and lists of them alone."""
        steps = self.steps
        while steps and steps[-1] is None:
            steps = steps[:-1]
        return steps

    @staticmethod
    def _found(column: str, steps: tuple[str | None, ...]) -> str:
        """What lies there in one record: JSON, or a list of JSON where a step leads into a list."""
        if not steps:
            return column
        path = "$" + "".join("[*]" if step is None else f'."{_escaped(step)}"' for step in steps)
        return f"json_extract({column}, {engine.text(path)})"

    def judged(self, seen: Any, *, is_queried: bool) -> tuple[str, bool]:
        """The exact kind for this place, and whether whole numbers stand among fractions in it."""
        if self.kind != "DOUBLE":
            return ("HUGEINT" if seen else self.kind), False
        most_digits, fractions = seen
        if not most_digits:
            return "DOUBLE", False
        if self.steps:
            return ("DOUBLE", True) if most_digits <= _EXACT_DIGITS else ("JSON", False)
        if most_digits > _DECIMAL_DIGITS or (is_queried and fractions and most_digits > _EXACT_DIGITS):
            return "TEXT", False
        return ("DOUBLE", True) if fractions else ("HUGEINT", False)

    def put(self, kind: str, shape: Any) -> Any:
        """The shape with `kind` at this place."""
        return _put(kind, shape, self.steps)


def _escaped(field: str) -> str:
    return field.replace("\\", "\\\\").replace('"', '\\"')


def _put(kind: str, shape: Any, steps: tuple[str | None, ...]) -> Any:
    if not steps:
        return kind
    if steps[0] is None:
        return [_put(kind, shape[0], steps[1:])]
    return shape | {steps[0]: _put(kind, shape[steps[0]], steps[1:])}


def number_leaves(shape: Any, steps: tuple[str | None, ...] = ()) -> Iterator[NumberLeaf]:
    """Every place that holds numbers; those that are kept as JSON anyway are left out."""
    if isinstance(shape, list):
        yield from number_leaves(shape[0], (*steps, None)) if shape else ()
    elif isinstance(shape, dict):
        if _is_struct(shape):
            for field, part in shape.items():
                yield from number_leaves(part, (*steps, field))
    elif shape in ("UBIGINT", "BIGINT", "DOUBLE"):
        yield NumberLeaf(steps=steps, kind=shape)
