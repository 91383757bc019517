"""Strings that satisfy a schema: lengths, formats, patterns. Pure; every choice comes from `pick`.

A pattern is read with Python's own regular expression parser and a text is drawn from its tree, so any
pattern without look-around works; patterns are unanchored, as JSON Schema has them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runner.localserver.answers.schema_check import SchemaError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import sre_parse

MAX_CHARACTERS = 100_000
Pick = Callable[[int], int]
"""A number from 0 to its argument less 1."""

_PRINTABLE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_ .,:;!?/@#"
_CATEGORIES = {
    "CATEGORY_DIGIT": "0123456789",
    "CATEGORY_NOT_DIGIT": "abcdefghij",
    "CATEGORY_WORD": "abcdefghijklmnopqrstuvwxyz0123456789_",
    "CATEGORY_NOT_WORD": " -.,",
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_SPACE": "abcdefghijklmnopqrstuvwxyz0123456789",
}


def text_for(schema: Mapping[str, Any], pick: Pick) -> str:
    """A text for a string schema. Raises SchemaError where none is found."""
    low = int(schema.get("minLength", 0))
    high = schema.get("maxLength")
    if high is not None and int(high) < low:
        raise SchemaError("minLength is above maxLength")
    if low > MAX_CHARACTERS:
        raise SchemaError(f"minLength is above {MAX_CHARACTERS}")
    if "pattern" in schema:
        return _from_pattern(schema["pattern"], low, None if high is None else int(high), pick)
    maker = _FORMATS.get(str(schema.get("format")))
    words = f"{pick(16**6):06x}" if high is not None and int(high) < 12 else f"local {pick(16**6):06x}"
    text = maker(pick) if maker is not None else words
    if len(text) < low:
        text += "x" * (low - len(text))
    return text if high is None else text[: int(high)]


def _hex(pick: Pick, digits: int) -> str:
    return "".join(f"{(pick(2**31) >> (4 * (index % 7))) % 16:x}" for index in range(digits))


_FORMATS: Mapping[str, Callable[[Pick], str]] = {
    "date-time": lambda pick: f"2026-01-{1 + pick(28):02}T{pick(24):02}:{pick(60):02}:00Z",
    "date": lambda pick: f"2026-{1 + pick(12):02}-{1 + pick(28):02}",
    "time": lambda pick: f"{pick(24):02}:{pick(60):02}:00Z",
    "duration": lambda pick: f"PT{1 + pick(59)}M",
    "email": lambda pick: f"local{pick(10_000)}@example.com",
    "hostname": lambda pick: f"local{pick(10_000)}.example.com",
    "ipv4": lambda pick: f"192.0.2.{pick(256)}",
    "ipv6": lambda pick: f"2001:db8::{1 + pick(65_535):x}",
    "uri": lambda pick: f"https://example.com/{pick(10_000)}",
    "uuid": lambda pick: (
        f"{_hex(pick, 8)}-{_hex(pick, 4)}-4{_hex(pick, 3)}-8{_hex(pick, 3)}-{_hex(pick, 12)}"
    ),
}


def _from_pattern(pattern: str, low: int, high: int | None, pick: Pick) -> str:
    try:
        tree: Any = sre_parse.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise SchemaError(f"pattern {pattern!r}: {error}") from error
    for extra in (0, 1, 2, 4, 8, 16, low, low * 2):
        text = _Writer(pick, extra).write(list(tree))
        if len(text) < low and not pattern.endswith("$"):
            text += "x" * (low - len(text))
        is_fitting = low <= len(text) and (high is None or len(text) <= high)
        if is_fitting and re.search(pattern, text) is not None:
            return text
    raise SchemaError(f"no text fits pattern {pattern!r} and the lengths")


class _Writer:
    """Writes a text along a parsed pattern; `extra` is how often optional parts are repeated at most."""

    def __init__(self, pick: Pick, extra: int) -> None:
        self._pick = pick
        self._extra = extra
        self._groups: dict[int, str] = {}
        self._step = 0

    def _choose(self, items: Sequence[Any]) -> Any:
        if not items:
            raise SchemaError("the pattern has an empty character class")
        self._step += 1
        return items[(self._pick(len(items) * 7_919) // 7 + self._step * self._step) % len(items)]

    def write(self, tree: Sequence[tuple[Any, Any]]) -> str:
        """The text of a sequence of nodes."""
        return "".join(self._node(str(operator), argument) for operator, argument in tree)

    def _node(self, operator: str, argument: Any) -> str:
        match operator:
            case "LITERAL":
                return chr(argument)
            case "NOT_LITERAL":
                return str(self._choose([c for c in _PRINTABLE if ord(c) != argument]))
            case "ANY":
                return str(self._choose(_PRINTABLE))
            case "IN":
                return str(self._choose(_class_of(argument)))
            case "BRANCH":
                return self.write(list(self._choose(argument[1])))
            case "SUBPATTERN":
                text = self.write(list(argument[3]))
                self._groups[argument[0] or 0] = text
                return text
            case "GROUPREF":
                return self._groups.get(argument, "")
            case "AT" | "ASSERT" | "ASSERT_NOT":
                return ""
            case _:
                return self._repeated(operator, argument)

    def _repeated(self, operator: str, argument: Any) -> str:
        if operator not in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            raise SchemaError(f"the pattern uses {operator}, which is not supported here")
        least, most, inner = argument
        times = min(int(least) + self._extra, int(most))
        self._step += times
        if self._step > MAX_CHARACTERS:
            raise SchemaError("the pattern asks for too long a text")
        return "".join(self.write(list(inner)) for _ in range(times))


def _class_of(nodes: Sequence[tuple[Any, Any]]) -> str:
    """Characters of a `[...]` class; of large ranges the first few hundred."""
    found: list[str] = []
    is_negated = False
    for operator, argument in nodes:
        match str(operator):
            case "NEGATE":
                is_negated = True
            case "LITERAL":
                found.append(chr(argument))
            case "RANGE":
                found += [chr(code) for code in range(argument[0], min(argument[1], argument[0] + 300) + 1)]
            case "CATEGORY":
                found += _CATEGORIES.get(str(argument), "")
    if is_negated:
        return "".join(character for character in _PRINTABLE if character not in found)
    plain = [character for character in found if character.isprintable()]
    return "".join(plain or found)
