"""Texts for what the schema does not allow: one wording for each of its rules.

Each says what was found and what is allowed. Values are shown short and printable, and not at all where
someone may have put a key.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from runner.manifest.findings import shown
from runner.manifest.nodes import Path
from runner.manifest.schema import resolved

_WORDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "nothing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One rule of the schema that a value breaks.

    `rule` is the schema's keyword (`type`, `enum`, ...), `wanted` what it says, `value` what was found,
    `known` the keys of a mapping that the schema knows, `hint` what the schema says about the right form.
    """

    path: Path
    rule: str
    wanted: Any
    value: Any
    known: tuple[str, ...] = ()
    hint: str = ""


def wording(wrong: Violation) -> tuple[str, str]:
    """What is wrong with a value, and what is allowed."""
    word = _WORDING.get(wrong.rule)
    if word is None:
        return f"is not allowed here: {found(wrong.value)}", ""
    return word(wrong)


def _type(wrong: Violation) -> tuple[str, str]:
    named = wrong.wanted
    types = [named] if isinstance(named, str) else [each for each in named if each != "null"]
    return f"expected {_either(types)}, got {found(wrong.value)}", _type_hint(types, wrong)


def _any_of(wrong: Violation) -> tuple[str, str]:
    parts = [resolved(part) for part in wrong.wanted]
    types = list(dict.fromkeys(part["type"] for part in parts if isinstance(part.get("type"), str)))
    return f"expected {_either(types)}, got {found(wrong.value)}", _type_hint(types, wrong)


def _type_hint(types: list[str], wrong: Violation) -> str:
    if wrong.value is None:
        return "write a value, or leave the key out"
    if wrong.hint:
        return wrong.hint
    return "quotes make it text" if "string" in types and isinstance(wrong.value, bool | int | float) else ""


def _enum(wrong: Violation) -> tuple[str, str]:
    allowed = [str(each) for each in wrong.wanted]
    close = difflib.get_close_matches(str(wrong.value)[:64].lower(), allowed, n=1, cutoff=0.5)
    question = f"did you mean '{close[0]}'? " if close else ""
    return f"{quoted(wrong.value)} is not known", f"{question}allowed: {', '.join(allowed)}"


def _const(wrong: Violation) -> tuple[str, str]:
    return f"expected {wrong.wanted}, got {found(wrong.value)}", "this runner reads version 1"


def _pattern(wrong: Violation) -> tuple[str, str]:
    if "api_key_env" in wrong.path:  # never shown: it may be the key itself
        return "is not the name of an environment variable", wrong.hint
    return f"{quoted(wrong.value)} has the wrong form", wrong.hint


def _minimum(wrong: Violation) -> tuple[str, str]:
    return f"{wrong.value} is too small", f"at least {wrong.wanted}"


def _above(wrong: Violation) -> tuple[str, str]:
    return f"{wrong.value} is too small", f"more than {wrong.wanted}"


def _maximum(wrong: Violation) -> tuple[str, str]:
    return f"{wrong.value} is too large", f"at most {wrong.wanted}"


def _empty(wrong: Violation) -> tuple[str, str]:
    return "is empty", "write a value, or leave the key out"


def _too_long(wrong: Violation) -> tuple[str, str]:
    return f"has {len(wrong.value)} characters", f"at most {wrong.wanted}"


def _too_many(wrong: Violation) -> tuple[str, str]:
    return f"has {len(wrong.value)} entries", f"at most {wrong.wanted}"


def _repeated(wrong: Violation) -> tuple[str, str]:
    return "lists the same value twice", ""


_WORDING: Mapping[str, Callable[[Violation], tuple[str, str]]] = {
    "type": _type,
    "anyOf": _any_of,
    "enum": _enum,
    "const": _const,
    "pattern": _pattern,
    "minimum": _minimum,
    "exclusiveMinimum": _above,
    "maximum": _maximum,
    "minLength": _empty,
    "minItems": _empty,
    "maxLength": _too_long,
    "maxItems": _too_many,
    "uniqueItems": _repeated,
}


def _either(types: list[str]) -> str:
    return " or ".join(_WORDS[each] for each in types)


def found(value: object) -> str:
    """What stands there: its kind, and the value where it is short and plain."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int():
            return f"the number {shown(str(value))}"
        case float():
            return f"the number {value}"
        case str():
            return f"the text {quoted(value)}"
        case list():
            return "a list"
        case _:
            return "a mapping"


def quoted(value: object) -> str:
    return f"'{shown(str(value))}'"
