"""One line of an input file: checked in the server's order, with its words, and written the server's way.

Pure: bytes in, an accepted line or a refusal out. Rules and texts: the batch API, sections 3.3 to 3.5.
The first bad line refuses the whole file, so a mistake is raised, not collected, as the server does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.core.wire import JsonError, decode_json, encode_json
from runner.localserver import refusals
from runner.localserver.settings import ServerSettings

MAX_CUSTOM_ID_BYTES = 64
MAX_NESTING = 128
_FIELDS = ("custom_id", "method", "url", "body")
_DROPPED_BODY_KEYS = ("priority", "service_tier", "background")
_WHITE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedLine:
    """A line as stored: where it starts in the file, its size with newline, where its body starts in it."""

    custom_id: str
    url: str
    model: str
    start: int
    size: int
    body_at: int


def accept_line(
    raw: bytes, number: int, offset: int, settings: ServerSettings
) -> tuple[AcceptedLine, bytes] | None:
    """One raw line (no newline) as an accepted line and the bytes to store; None for a blank one.

    number   lines accepted so far + 1: what messages call the line
    offset   bytes before this line in the upload, for messages about UTF-8
    Raises Refusal (400 or 403). `start` of the accepted line is left 0: the caller knows it.
    """
    value = _parse(raw, number, offset)
    if value is None:
        return None
    custom_id, method, url, body = (value[name] for name in _FIELDS)
    _check_custom_id(custom_id, number)
    if method.upper() != "POST":
        raise _bad(number, f"Unsupported HTTP method '{method}'. Only POST is currently supported.")
    if url not in settings.urls:
        raise _bad(number, f"Unsupported URL path '{url}'. Allowed paths are: {', '.join(settings.urls)}")
    model = _check_model(body, url, number, settings)
    _check_reasoning(body, url, number)
    stored_body = encode_json(
        {key: item for key, item in body.items() if key not in _DROPPED_BODY_KEYS}, sort_keys=True
    )
    if 0 < settings.max_body_bytes < len(stored_body):
        raise _bad(
            number,
            f"Request body is {len(stored_body)} bytes, which exceeds the maximum allowed size of "
            f"{settings.max_body_bytes} bytes",
        )
    head = b'{"custom_id":%b,"method":%b,"url":%b,"body":' % (
        encode_json(custom_id),
        encode_json(method),
        encode_json(url),
    )
    line = head + stored_body + b"}\n"
    accepted = AcceptedLine(
        custom_id=custom_id, url=url, model=model, start=0, size=len(line), body_at=len(head)
    )
    return accepted, line


def _bad(number: int, message: str) -> refusals.Refusal:
    return refusals.text(400, f"Line {number}: {message}")


def _parse(raw: bytes, number: int, offset: int) -> Mapping[str, Any] | None:
    try:
        value = decode_json(raw)
    except JsonError:
        text = _decode(raw, number, offset).strip(_WHITE)
        if not text:
            return None
        try:
            value = decode_json(text)
        except JsonError as error:
            raise _bad_json(number, _serde_words(error)) from error
    if raw.count(b"{") + raw.count(b"[") > MAX_NESTING - 1:
        _check_nesting(raw, number)
    return _check_fields(value, raw, number)


def _decode(raw: bytes, number: int, offset: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise refusals.text(
            400,
            f"File contains invalid UTF-8 on/near line {number} at byte offset {at}: {_utf8_words(error)}",
        ) from error


def _utf8_words(error: UnicodeDecodeError) -> str:
    if error.reason == "unexpected end of data":
        return f"incomplete utf-8 byte sequence from index {error.start}"
    return f"invalid utf-8 sequence of {error.end - error.start} bytes from index {error.start}"


def _bad_json(number: int, words: str) -> refusals.Refusal:
    return refusals.text(400, f"Invalid JSON on line {number}: {words}")


def _serde_words(error: JsonError) -> str:
    return f"{error.msg.split(': line ')[0]} at line 1 column {error.colno}"


def _check_fields(value: object, raw: bytes, number: int) -> Mapping[str, Any]:
    column = len(raw.rstrip())
    if not isinstance(value, dict):
        raise _bad_json(
            number,
            f"invalid type: {_kind(value)}, expected struct OpenAIBatchRequest at line 1 column {column}",
        )
    for name in _FIELDS:
        if name not in value:
            raise _bad_json(number, f"missing field `{name}` at line 1 column {column}")
        if name != "body" and not isinstance(value[name], str):
            raise _bad_json(
                number, f"invalid type: {_kind(value[name])}, expected a string at line 1 column {column}"
            )
    if any(raw.count(b'"%b"' % name.encode()) > 1 for name in _FIELDS):
        _check_repeated(raw, number, column)
    return value


def _check_repeated(raw: bytes, number: int, column: int) -> None:
    """A known key twice on the top level fails; the decoder keeps the last one silently."""
    pairs: list[list[str]] = []

    def keep(found: list[tuple[str, object]]) -> None:
        pairs.append([key for key, _ in found])

    json.loads(raw.decode().strip(_WHITE), object_pairs_hook=keep)
    top = pairs[-1]
    for name in _FIELDS:
        if top.count(name) > 1:
            raise _bad_json(number, f"duplicate field `{name}` at line 1 column {column}")


def _check_nesting(raw: bytes, number: int) -> None:
    depth = 0
    in_string = escaped = False
    for column, byte in enumerate(raw, start=1):
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"{[":
            depth += 1
            if depth >= MAX_NESTING:
                raise _bad_json(number, f"recursion limit exceeded at line 1 column {column}")
        elif byte in b"}]":
            depth -= 1


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f'string "{value}"'
        case list():
            return "sequence"
        case _:
            return "map"


def _check_custom_id(custom_id: str, number: int) -> None:
    size = len(custom_id.encode())
    if size > MAX_CUSTOM_ID_BYTES:
        raise _bad(
            number, f"custom_id exceeds maximum length of {MAX_CUSTOM_ID_BYTES} characters (got {size})"
        )
    if any((character < " " and character != "\t") or character == "\x7f" for character in custom_id):
        raise _bad(
            number, "custom_id contains invalid characters: must be valid ASCII without control characters"
        )


def _check_model(body: object, url: str, number: int, settings: ServerSettings) -> str:
    model = body.get("model") if isinstance(body, dict) else None
    if not isinstance(model, str):
        raise _bad(number, "Missing 'model' field in request body")
    if settings.models is None:
        return model
    known = settings.models.get(model)
    if known is None:
        raise refusals.text(
            403, f"Line {number}: Model '{model}' has not been configured or is not available to user"
        )
    wanted = "EMBEDDINGS" if url == "/v1/embeddings" else "CHAT"
    if known.kind and known.kind != wanted:
        raise _bad(
            number,
            f"Model '{model}' is a {known.kind} model but endpoint '{url}' requires a {wanted} model",
        )
    return model


def _check_reasoning(body: Mapping[str, Any], url: str, number: int) -> None:
    """Foreign reasoning keys are refused; efforts must be known words. The texts are ours."""
    if url not in ("/v1/chat/completions", "/v1/responses", "/v1/completions"):
        return
    template = body.get("chat_template_kwargs")
    template = template if isinstance(template, dict) else {}
    found = [key for key in ("thinking", "thinking_token_budget") if key in body]
    found += [f"chat_template_kwargs.{key}" for key in ("thinking", "enable_thinking") if key in template]
    wanted = "reasoning.effort" if url == "/v1/responses" else "reasoning_effort"
    if url != "/v1/responses" and "reasoning" in body:
        found.append("reasoning")
    if url != "/v1/chat/completions" and "reasoning_effort" in body:
        found.append("reasoning_effort")
    if found:
        hint = "" if url == "/v1/completions" else f" Use '{wanted}' instead."
        raise _bad(number, f"Unsupported reasoning parameter '{found[0]}' for '{url}'.{hint}")
    reasoning = body.get("reasoning")
    nested = reasoning.get("effort") if isinstance(reasoning, dict) else None
    effort = nested if url == "/v1/responses" else body.get("reasoning_effort")
    if effort is not None and effort not in _EFFORTS:
        raise _bad(number, f"Unsupported reasoning effort '{effort}'. Allowed: {', '.join(sorted(_EFFORTS))}")
