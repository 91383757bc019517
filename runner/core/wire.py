"""Bytes of the batch API to values and back: request lines, result lines, batch and file objects.

The home of orjson. It is strict where the standard library is lenient: NaN and lone surrogates are
errors, nesting is bounded, and a number beyond 64 bits becomes a float. Every reader here takes what any
server of this family sends (omitted, null or empty fields, unknown words, bodies as strings) and never
raises anything but `JsonError`. Source: the Doubleword batch API, sections 3 to 5, and what other
servers were seen to do (unknown status words, ids that are "" or {}, counts that are null or negative).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

JsonError = orjson.JSONDecodeError
"""What `decode_json` raises. A ValueError."""


def encode_json(value: object, *, sort_keys: bool = False) -> bytes:
    """Compact UTF-8 JSON. Raises TypeError for what JSON can't hold (lone surrogates included).

    NaN and infinities become null: callers that must not lose them check first.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)


encode_text: Callable[[str], bytes] = orjson.dumps
"""`encode_json` for one text, without a call in between: there are some for every row."""


decode_json: Callable[[bytes | bytearray | memoryview | str], Any] = orjson.loads
"""Strict JSON. Raises JsonError for invalid UTF-8, NaN, lone surrogates, too deep nesting, garbage."""


def shown_json(value: object) -> str:
    """A decoded value as compact JSON for a message. Never raises: what can be read can be nested deeper
    than what can be written.
    """
    try:
        return encode_json(value).decode()
    except TypeError:
        return "(JSON that is nested too deeply to be shown)"


class ResultLine(NamedTuple):
    """One line of an output or error file, as received, with the parts that matter picked out.

    `status_code` is None where the server gives none. `body` is the response body as it came: an object,
    a string, or None. `error_message` keeps the server's text; `error_code` its word, else None.
    `mended`: the line was not strict JSON (invalid UTF-8, a lone surrogate, NaN) and was read with U+FFFD
    or null in place of what can't be; an answer that was paid for is not thrown away for one bad character.
    """

    custom_id: str | None
    line_id: str | None
    status_code: int | None
    body: Any
    error_code: str | None
    error_message: str | None
    mended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that is not a result: invalid JSON or UTF-8, or not an object. Kept raw, never matched."""

    reason: str


def read_result_line(line: bytes) -> ResultLine | BadLine:
    """One line without its newline. Never raises."""
    mended = False
    try:
        value = decode_json(line)
    except JsonError as damage:
        mended = True
        value = _mend(line)
        if value is None:
            return BadLine(reason=f"not JSON: {damage}")
    if not isinstance(value, dict):
        return BadLine(reason="not a JSON object")
    response = value.get("response")
    error = value.get("error")
    status_code, body = None, None
    if isinstance(response, dict):
        status_code, body = _whole(response.get("status_code")), response.get("body")
    code, message = (None, None) if error is None else _error_parts(error)
    custom_id, line_id = text_or_none(value.get("custom_id")), text_or_none(value.get("id"))
    return ResultLine(custom_id, line_id, status_code, body, code, message, mended)


_LONE_SURROGATE = re.compile(
    r"(?<!\\)((?:\\\\)*)(?:"
    r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def _mend(line: bytes) -> Any:
    """The line read leniently, re-checked by the strict encoder; None where that fails too."""
    text = line.decode("utf-8", errors="replace")
    text = _LONE_SURROGATE.sub(lambda match: match[1] + (match[2] or "\\ufffd"), text)
    try:
        value = json.loads(text, parse_constant=lambda _: None)
        return decode_json(encode_json(value))
    except (ValueError, TypeError, RecursionError):
        return None


def _error_parts(error: object) -> tuple[str | None, str | None]:
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        if message is None and code is None:
            message = shown_json(error)
        return _as_text(code), _as_text(message)
    return None, _as_text(error)


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    return value if isinstance(value, str) else shown_json(value)


def text_or_none(value: object) -> str | None:
    """Only a non-empty string is an id: some servers send "" or {} for 'none'."""
    return value if isinstance(value, str) and value else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


_MAX_COUNT = 2**53
_MAX_MOMENT_S = 253_402_300_800
"""The year 10000: what lies beyond is no moment, and no calendar could hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchObject:
    """A batch as the server describes it. Counts and words are hints; times are Unix seconds or None.

    `status` is lower case with known aliases folded (see `core.states`); "" where the server sent none.
    `cancelled_at_s`: when its cancellation began. `told_at_s`: the server's clock when it told this, where
    that is known.
    """

    batch_id: str
    status: str
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    total: int | None
    completed: int | None
    failed: int | None
    created_at_s: int | None
    expires_at_s: int | None
    metadata: Mapping[str, str]
    errors: str | None
    cancelled_at_s: int | None = None
    told_at_s: float | None = None


def read_batch(data: bytes) -> BatchObject | None:
    """The body of a create, retrieve or cancel reply; None where no batch id can be found in it."""
    try:
        value = decode_json(data)
    except JsonError:
        return None
    return batch_from(value)


def batch_from(value: object) -> BatchObject | None:
    """A decoded batch object, for instance one of a listing; None where it has no id."""
    if not isinstance(value, dict):
        return None
    batch_id = text_or_none(value.get("id"))
    if batch_id is None:
        return None
    counts = value.get("request_counts")
    counts = counts if isinstance(counts, dict) else {}
    errors = value.get("errors")
    return BatchObject(
        batch_id=batch_id,
        status=(_as_text(value.get("status")) or "").strip().lower(),
        input_file_id=text_or_none(value.get("input_file_id")),
        output_file_id=text_or_none(value.get("output_file_id")),
        error_file_id=text_or_none(value.get("error_file_id")),
        total=_count(counts.get("total")),
        completed=_count(counts.get("completed")),
        failed=_count(counts.get("failed")),
        created_at_s=_moment_s(value.get("created_at")),
        expires_at_s=_moment_s(value.get("expires_at")),
        metadata=_metadata(value.get("metadata")),
        errors=None if not errors else _as_text(errors),
        cancelled_at_s=_moment_s(value.get("cancelling_at") or value.get("cancelled_at")),
    )


def _metadata(value: object) -> dict[str, str]:
    return {key: _as_text(text) or "" for key, text in value.items()} if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    """A count from the server, or None where it is missing, null, negative or beyond all reason (a lie is
    no count)."""
    return _below(_MAX_COUNT, value)


def _moment_s(value: object) -> int | None:
    """Unix seconds from the server, or None where they name no moment from 1970 to 9999."""
    return _below(_MAX_MOMENT_S, value)


def _below(limit: int, value: object) -> int | None:
    number = _whole(value)
    return number if number is not None and 0 <= number < limit else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileObject:
    """A file as the server describes it."""

    file_id: str
    filename: str | None
    size_bytes: int | None
    created_at_s: int | None
    expires_at_s: int | None


def file_from(value: object) -> FileObject | None:
    """A decoded file object; None where it has no id."""
    if not isinstance(value, dict):
        return None
    file_id = text_or_none(value.get("id"))
    if file_id is None:
        return None
    return FileObject(
        file_id=file_id,
        filename=text_or_none(value.get("filename")),
        size_bytes=_count(value.get("bytes")),
        created_at_s=_moment_s(value.get("created_at")),
        expires_at_s=_moment_s(value.get("expires_at")),
    )


def read_file(data: bytes) -> FileObject | None:
    """The body of an upload or file retrieve reply; None where no file id can be found in it."""
    try:
        return file_from(decode_json(data))
    except JsonError:
        return None
