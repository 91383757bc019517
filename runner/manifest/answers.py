"""Answers checked against the manifest's JSON Schema.

Here because the schema library's home is this room. An answer that is not JSON, or not what the schema
says, is not thrown away: its row is `invalid` and keeps the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner.core.wire import JsonError, decode_json

_SHOWN_CHARACTERS = 300


def answer_checker(schema: Mapping[str, Any] | None) -> Callable[[str], str | None]:
    """A function from an answer's text to what is wrong with it; None where nothing is.

    Without a schema every answer is right. The schema itself was checked when the manifest was loaded.
    """
    if schema is None:
        return lambda _: None
    from jsonschema import validators

    validator = validators.validator_for(schema)(schema)

    def check(text: str) -> str | None:
        try:
            answer = decode_json(text)
        except JsonError as error:
            return f"the answer is not JSON: {error}"
        try:
            broken = next(iter(validator.iter_errors(answer)), None)
        except RecursionError:
            return "the answer nests too deeply to be checked against the schema"
        if broken is None:
            return None
        place = "/".join(str(part) for part in broken.absolute_path) or "the answer"
        return f"{place}: {broken.message}"[:_SHOWN_CHARACTERS]

    return check
