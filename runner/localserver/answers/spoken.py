"""The words of an answer: a readable stand-in, or JSON that satisfies the schema that was asked for.

`local answer 3f2a9c: <first words of the last user message>`. Cut where the request's limit on output
tokens is smaller than the words need; then the answer says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.core.wire import encode_json
from runner.localserver.answers.checks import BodyMistake
from runner.localserver.answers.directives import directives_in
from runner.localserver.answers.from_schema import SchemaError, value_for
from runner.localserver.answers.reading import Prompt, tokens_of

ECHOED_WORDS = 12
ECHOED_CHARACTERS = 200
REFUSAL = "local refusal: the prompt asked for one"
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """The text, why it ended (`stop` or `length`), what it cost; a refusal has no text."""

    text: str
    finish_reason: str
    output_tokens: int
    is_refusal: bool = False


def speak(body: Mapping[str, Any], prompt: Prompt) -> Spoken:
    """The words for a checked body. Raises BodyMistake for a response format that can't be satisfied."""
    orders = directives_in(prompt.text)
    if orders.is_refused:
        return Spoken(text=REFUSAL, finish_reason="stop", output_tokens=tokens_of(REFUSAL), is_refusal=True)
    text = _text(body, prompt)
    limits = [body[name] for name in _LIMITS if isinstance(body.get(name), int)]
    allowed = min(limits, default=tokens_of(text))
    if orders.is_truncated:
        allowed = min(allowed, max(tokens_of(text) // 2, 1))
    if allowed >= tokens_of(text):
        return Spoken(text=text, finish_reason="stop", output_tokens=tokens_of(text))
    cut = text.encode()[: allowed * 4].decode(errors="ignore")
    return Spoken(text=cut, finish_reason="length", output_tokens=allowed)


def _text(body: Mapping[str, Any], prompt: Prompt) -> str:
    kind, schema = _format(body)
    if kind == "json_schema":
        try:
            return encode_json(value_for(schema, prompt.digest)).decode()
        except SchemaError as error:
            raise BodyMistake(f"Invalid schema for response_format: {error}") from error
    if kind == "json_object":
        return encode_json({"answer": _stand_in(prompt)}).decode()
    return _stand_in(prompt)


def _stand_in(prompt: Prompt) -> str:
    words = " ".join(prompt.last.split()[:ECHOED_WORDS])[:ECHOED_CHARACTERS]
    return f"local answer {prompt.digest[:6]}: {words}".rstrip()


def _format(body: Mapping[str, Any]) -> tuple[str, Any]:
    """(type, schema) of the wanted format: chat's `response_format` or responses' `text.format`."""
    text = body.get("text")
    wanted = body.get("response_format") or (text.get("format") if isinstance(text, dict) else None)
    if wanted is None:
        return "text", None
    if not isinstance(wanted, dict) or wanted.get("type") not in ("text", "json_object", "json_schema"):
        raise BodyMistake("Invalid value for 'response_format': expected text, json_object or json_schema.")
    if wanted["type"] != "json_schema":
        return str(wanted["type"]), None
    nested = wanted.get("json_schema")
    schema = nested.get("schema") if isinstance(nested, dict) else wanted.get("schema")
    if not isinstance(schema, (dict, bool)):
        raise BodyMistake("Missing required parameter: 'response_format.json_schema.schema'.")
    return "json_schema", schema
