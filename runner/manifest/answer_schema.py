"""`output.schema`: the file that says what answers look like.

It must be a JSON object, a valid JSON Schema of type object, and complete in itself: references lead
into the same file, because nothing is fetched while a manifest is read or answers are checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for

from runner.core.wire import JsonError, decode_json
from runner.manifest.findings import dotted, shown

_NOTHING = object()
MAX_SCHEMA_BYTES = 1_000_000
MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_VALUES = 20_000


class BadAnswerSchemaError(Exception):
    """What is wrong with the file; `place` is `:line:column` in it, or empty."""

    def __init__(self, what: str, *, hint: str = "", place: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.place = place


def read_answer_schema(path: str) -> dict[str, Any]:
    """The schema document. Raises BadAnswerSchemaError; the caller made sure that there is a file."""
    document = _document(path)
    if not isinstance(document, dict):
        raise BadAnswerSchemaError("a JSON Schema must be a JSON object")
    values = list(_values(document))
    _check_schema(document)
    if document.get("type") != "object":
        raise BadAnswerSchemaError(
            "the schema's type must be object", hint='write "type": "object" at the top'
        )
    _check_references(document, values)
    return document


def _document(path: str) -> object:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_SCHEMA_BYTES + 1)
    except OSError as error:
        raise BadAnswerSchemaError(f"can't be read: {error.strerror}") from error
    if len(data) > MAX_SCHEMA_BYTES:
        raise BadAnswerSchemaError(f"larger than {MAX_SCHEMA_BYTES:,} bytes")
    try:
        return decode_json(data.removeprefix(b"\xef\xbb\xbf"))
    except JsonError as error:
        raise BadAnswerSchemaError(
            f"not JSON: {error.msg}", place=f":{error.lineno}:{error.colno}"
        ) from error


def _values(document: object) -> Iterator[object]:
    """Every value in the document. Bounded in number and depth, so that no later check can run away."""
    pending: list[tuple[object, int]] = [(document, 0)]
    count = 0
    while pending:
        value, depth = pending.pop()
        count += 1
        if depth > MAX_SCHEMA_DEPTH or count > MAX_SCHEMA_VALUES:
            raise BadAnswerSchemaError(
                f"too large a schema: over {MAX_SCHEMA_DEPTH} levels or {MAX_SCHEMA_VALUES:,} values"
            )
        yield value
        if isinstance(value, dict):
            pending += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            pending += [(inner, depth + 1) for inner in value]


def _check_schema(document: dict[str, Any]) -> None:
    named = document.get("$schema")
    if named is not None and not isinstance(named, str):
        raise BadAnswerSchemaError("not a JSON Schema: $schema must be text")
    kind: Any = validator_for(document, default=Draft202012Validator)
    try:
        kind.check_schema(document, format_checker=kind.FORMAT_CHECKER)
    except SchemaError as error:
        at = dotted(list(error.absolute_path))
        what = f"{shown(at)}: {shown(error.message)}" if at else shown(error.message)
        raise BadAnswerSchemaError(f"not a JSON Schema: {what}") from error


def _check_references(document: dict[str, Any], values: list[object]) -> None:
    mappings = [value for value in values if isinstance(value, dict)]
    anchors = {each["$anchor"] for each in mappings if _is_text(each.get("$anchor"))}
    for each in mappings:
        for reference in (each.get("$ref"), each.get("$dynamicRef")):
            if not isinstance(reference, str):
                continue
            if not reference.startswith("#"):
                raise BadAnswerSchemaError(
                    f"$ref '{shown(reference)}' leads out of the file", hint="put what it names under $defs"
                )
            if reference[1:] not in anchors and _target(document, reference) is _NOTHING:
                raise BadAnswerSchemaError(f"$ref '{shown(reference)}' leads nowhere in the file")
            _check_end(document, reference)


def _check_end(document: dict[str, Any], reference: str) -> None:
    """Refuse references that lead in a circle: checking an answer would never end."""
    seen: set[str] = set()
    here: object = {"$ref": reference}
    while isinstance(here, dict) and _is_text(here.get("$ref")):
        if here["$ref"] in seen:
            raise BadAnswerSchemaError(f"$ref '{shown(reference)}' leads in a circle")
        seen.add(here["$ref"])
        here = _target(document, here["$ref"])


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
