"""`output.schema`: the file that says what answers look like.

It must be a JSON object, a valid JSON Schema of type object, and complete in itself: references lead
into the same file, because nothing is fetched while a manifest is read or answers are checked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for

from runner.core.wire import JsonError, decode_json
from runner.manifest.findings import dotted, shown

_NOTHING = object()
MAX_SCHEMA_BYTES = 1_000_000
MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_VALUES = 20_000
_MAX_MISTAKES = 20
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

JsonPath = tuple[str | int, ...]
Wrong = tuple[JsonPath, "SchemaMistake"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaMistake:
    """One thing that is wrong with the file; `place` is `:line:column` in it, or empty."""

    what: str
    hint: str = ""
    place: str = ""


class BadAnswerSchemaError(Exception):
    """All that is wrong with the file."""

    def __init__(self, *mistakes: SchemaMistake) -> None:
        super().__init__("; ".join(mistake.what for mistake in mistakes))
        self.mistakes = mistakes


def read_answer_schema(path: str) -> dict[str, Any]:
    """The schema document. Raises BadAnswerSchemaError; the caller made sure that there is a file."""
    data = _read(path)
    document = _decoded(data)
    if not isinstance(document, dict):
        raise BadAnswerSchemaError(SchemaMistake(what="a JSON Schema must be a JSON object"))
    values = list(_values(document))
    wrong = [*_against_its_own_schema(document), *_wrong_top(document), *_wrong_references(document, values)]
    if wrong:
        places = _Places(data)
        found = [(places.of(path), mistake) for path, mistake in wrong]
        found.sort(key=lambda pair: pair[0])
        told = [replace(mistake, place="".join(f":{part}" for part in place)) for place, mistake in found]
        raise BadAnswerSchemaError(*told[:_MAX_MISTAKES])
    return document


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_SCHEMA_BYTES + 1)
    except OSError as error:
        raise BadAnswerSchemaError(SchemaMistake(what=f"can't be read: {error.strerror}")) from error
    if len(data) > MAX_SCHEMA_BYTES:
        raise BadAnswerSchemaError(SchemaMistake(what=f"larger than {MAX_SCHEMA_BYTES:,} bytes"))
    return data.removeprefix(b"\xef\xbb\xbf")


def _decoded(data: bytes) -> object:
    try:
        return decode_json(data)
    except JsonError as error:
        place = f":{error.lineno}:{error.colno}"
        raise BadAnswerSchemaError(SchemaMistake(what=f"not JSON: {error.msg}", place=place)) from error


def _values(document: object) -> Iterator[tuple[JsonPath, object]]:
    """Every value with its path. Bounded in number and depth, so that no later check can run away."""
    pending: list[tuple[object, JsonPath]] = [(document, ())]
    count = 0
    while pending:
        value, path = pending.pop()
        count += 1
        if len(path) > MAX_SCHEMA_DEPTH or count > MAX_SCHEMA_VALUES:
            limits = f"{MAX_SCHEMA_DEPTH} levels or {MAX_SCHEMA_VALUES:,} values"
            raise BadAnswerSchemaError(SchemaMistake(what=f"too large a schema: over {limits}"))
        yield path, value
        inner = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        pending += [(part, (*path, name)) for name, part in inner]


# ---------------------------------------------------------------- what can be wrong


def _against_its_own_schema(document: dict[str, Any]) -> Iterator[Wrong]:
    named = document.get("$schema")
    if named is not None and not isinstance(named, str):
        yield ("$schema",), SchemaMistake(what="not a JSON Schema: $schema must be text")
        return
    kind: Any = validator_for(document, default=Draft202012Validator)
    checker = kind(kind.META_SCHEMA, format_checker=kind.FORMAT_CHECKER)
    told: set[JsonPath] = set()
    for whole in checker.iter_errors(document):
        error: Any = best_match([whole])
        path = tuple(error.absolute_path)
        if path in told:
            continue  # each vocabulary says it once more
        told.add(path)
        at = f"{shown(dotted(list(path)))}: " if path else ""
        if path and path[-1] == "type" and isinstance(error.instance, str):
            close = difflib.get_close_matches(error.instance, _TYPES, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"types: {', '.join(_TYPES)}"
            what = f"not a JSON Schema: {at}'{shown(error.instance)}' is no type"
            yield path, SchemaMistake(what=what, hint=hint)
        else:
            yield path, SchemaMistake(what=f"not a JSON Schema: {at}{shown(error.message)}")


def _wrong_top(document: dict[str, Any]) -> Iterator[Wrong]:
    kind = document.get("type")
    if kind != "object" and (kind is None or kind in _TYPES):  # else it is told that it is no type
        hint = 'write "type": "object" at the top'
        yield ("type",), SchemaMistake(what="the schema's type must be object", hint=hint)


def _wrong_references(document: dict[str, Any], values: list[tuple[JsonPath, object]]) -> Iterator[Wrong]:
    mappings = [(path, value) for path, value in values if isinstance(value, dict)]
    anchors = {each["$anchor"] for _, each in mappings if _is_text(each.get("$anchor"))}
    for path, each in mappings:
        for word in ("$ref", "$dynamicRef"):
            reference = each.get(word)
            if not isinstance(reference, str):
                continue
            where, named = (*path, word), f"$ref '{shown(reference)}'"
            if not reference.startswith("#"):
                hint = "put what it names under $defs"
                yield where, SchemaMistake(what=f"{named} leads out of the file", hint=hint)
            elif reference[1:] not in anchors and _target(document, reference) is _NOTHING:
                yield where, SchemaMistake(what=f"{named} leads nowhere in the file")
            elif _is_circle(document, reference):
                yield where, SchemaMistake(what=f"{named} leads in a circle")


def _is_circle(document: dict[str, Any], reference: str) -> bool:
    """Checking an answer would never end."""
    seen: set[str] = set()
    here: object = {"$ref": reference}
    while isinstance(here, dict) and _is_text(here.get("$ref")):
        if here["$ref"] in seen:
            return True
        seen.add(here["$ref"])
        here = _target(document, here["$ref"])
    return False


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _target(document: object, reference: str) -> object:
    """What a JSON pointer such as `#/$defs/label` finds, or _NOTHING."""
    pointer = unquote(reference[1:])
    if pointer and not pointer.startswith("/"):
        return _NOTHING
    here = document
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(here, dict) and key in here:
            here = here[key]
        elif isinstance(here, list) and re.fullmatch("[0-9]{1,5}", key) and int(key) < len(here):
            here = here[int(key)]
        else:
            return _NOTHING
    return here


class _Places:
    """Where values stand in the text. JSON is YAML but for a few texts, and YAML's nodes know their lines."""

    def __init__(self, data: bytes) -> None:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            self._root: yaml.Node | None = yaml.compose(data.decode(), Loader=loader)
        except (yaml.YAMLError, ValueError, RecursionError):
            self._root = None

    def of(self, path: JsonPath) -> tuple[int, ...]:
        """Line and column of the value at a path, or of the nearest one around it that is there."""
        here = self._root
        for part in path:
            inner = self._inner(here, part)
            if inner is None:
                break
            here = inner
        return (here.start_mark.line + 1, here.start_mark.column + 1) if here is not None else ()

    @staticmethod
    def _inner(node: yaml.Node | None, part: str | int) -> yaml.Node | None:
        if isinstance(node, yaml.MappingNode):
            return next((value for key, value in node.value if key.value == part), None)
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            inner: yaml.Node = node.value[part]
            return inner
        return None
