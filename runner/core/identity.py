"""Who is who: the canonical body of a request, its fingerprint, its custom_id and its line.

A request's identity is everything that can change its answer - provider, endpoint, the whole body, the
repeat number - and nothing else: not the row's key, not the file it travels in, not the window.
The body is JSON with sorted keys, because the server sorts them anyway. All of it but the messages is
the same for every row, so it is encoded once and the messages are spliced in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runner.core.model import CustomId, Fingerprint, Message
from runner.core.wire import JsonError, decode_json, encode_json, encode_text

FINGERPRINT_BYTES = 16
CUSTOM_ID_MAX_BYTES = 64
_KEY_PART_BYTES = 40
_HASH_HEX_DIGITS = 16
_SCHEME = b"runner-request-1"
_BYTES_BEFORE_NAME = len(b'{"custom_id":"')
_BYTES_BEHIND_NAME = len(b"-") + _HASH_HEX_DIGITS + len(b'"')
_BYTES_AT_END = len(b"}\n")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")
_is_plain = re.compile(rf"[A-Za-z0-9._][A-Za-z0-9._-]{{0,{_KEY_PART_BYTES - 1}}}(?<!-)").fullmatch
"""Whether a key is its own readable half: most are."""


def key_part(key: str) -> str:
    """The readable half of a custom_id: `[A-Za-z0-9._-]`, 1 to 40 bytes.

    Source: the server takes 64 bytes that are legal in a header; other servers trim and fold more.
    """
    if _is_plain(key):
        return key
    return _NOT_PLAIN.sub("-", key[:400]).strip("-")[:_KEY_PART_BYTES] or "row"


def custom_id(name: str, fingerprint: Fingerprint) -> CustomId:
    """`<name>-<16 hex digits of the fingerprint>`; printable ASCII, at most 57 bytes.

    `name` is the `key_part` of the first row that wanted this request; the ledger keeps it, so that a
    request has one custom_id for good.
    """
    return CustomId(f"{name}-{fingerprint[: _HASH_HEX_DIGITS // 2].hex()}")


def by_custom_id(requests: Iterable[tuple[Any, ...]]) -> dict[str, tuple[int, int]]:
    """Requests (name, fingerprint and two numbers each) by their custom_ids: the numbers. `custom_id`,
    without a call for each of a shard's 50,000."""
    half = _HASH_HEX_DIGITS // 2
    return {
        f"{name}-{fingerprint[:half].hex()}": (first, second) for name, fingerprint, first, second in requests
    }


def hash_part(text: str) -> str | None:
    """The 16 hex digits at the end of a custom_id of ours, or None for a foreign one."""
    digits = text[-_HASH_HEX_DIGITS:]
    if (
        len(text) > _HASH_HEX_DIGITS + 1
        and text[-_HASH_HEX_DIGITS - 1] == "-"
        and re.fullmatch(r"[0-9a-f]{16}", digits)
    ):
        return digits
    return None


class RequestShape:
    """What all requests of a run have in common; turns messages into bodies, fingerprints and lines."""

    def __init__(
        self,
        *,
        provider_identity: str,
        endpoint: str,
        model: str,
        parameters: Mapping[str, Any],
        schema: Mapping[str, Any] | None = None,
        schema_name: str = "answer",
    ) -> None:
        self.endpoint = endpoint
        constant: dict[str, Any] = {**parameters, "model": model}
        if schema is not None:
            constant |= response_format(endpoint, schema, schema_name)
        hole = _HOLES[endpoint]
        before = {key: value for key, value in constant.items() if key < hole}
        after = {key: value for key, value in constant.items() if key > hole}
        self._head = (
            encode_json(before, sort_keys=True)[:-1] + (b"," if before else b"") + b'"%b":' % hole.encode()
        )
        tail = encode_json(after, sort_keys=True)
        self._tail = (b"," + tail[1:]) if after else b"}"
        self._origin = b"\0".join((_SCHEME, provider_identity.encode(), endpoint.encode(), b""))
        self._first = self._origin + b"1\0"
        self._line_middle = b',"method":"POST","url":' + encode_json(endpoint) + b',"body":'
        self._has_roles = endpoint in _WITH_ROLES
        self._before: tuple[Message, ...] | None = None
        self._opening = b""

    def body(self, messages: Sequence[Message]) -> bytes:
        """The canonical body. Raises TypeError where a text can't be UTF-8 (a lone surrogate)."""
        if not self._has_roles:
            joined = encode_text("\n\n".join([content for _, content in messages]))
            return b"%b%b%b" % (self._head, joined, self._tail)
        if not messages:
            return self._head + b"[]" + self._tail
        before = tuple(messages[:-1])
        # What comes before the last message is mostly what it was in the row before: a system prompt.
        if before != self._before:
            self._opening = b"".join([self._head, b"[", *(_encoded(one) + b"," for one in before)])
            self._before = before
        role, content = messages[-1]
        if role != "user":
            return b"".join((self._opening, _encoded(messages[-1]), b"]", self._tail))
        return b"".join((self._opening, _USER, encode_text(content), b"}]", self._tail))

    def moved_from(self, other: RequestShape, body: bytes) -> bytes:
        """A body of `other` with all that these requests have in common instead: the same messages asked
        otherwise, byte for byte as if rendered so."""
        return self._head + body[len(other._head) : len(body) - len(other._tail)] + self._tail

    def fingerprint(self, body: bytes, repeat: int = 1) -> Fingerprint:
        """16 bytes of SHA-256 over provider, endpoint, repeat number and body."""
        hashed = self._first + body if repeat == 1 else b"%b%d\0%b" % (self._origin, repeat, body)
        return Fingerprint(hashlib.sha256(hashed, usedforsecurity=False).digest()[:FINGERPRINT_BYTES])

    def line(self, custom_id_: CustomId, body: bytes) -> bytes:
        """One line of an input file: exactly the four keys of the API, newline at the end."""
        return b'{"custom_id":%b%b%b}\n' % (encode_json(custom_id_), self._line_middle, body)

    def named_line(self, name: str, fingerprint: Fingerprint, body: bytes) -> bytes:
        """The line of `custom_id(name, fingerprint)`, where the name is a `key_part`: plain in JSON too."""
        digits = fingerprint[: _HASH_HEX_DIGITS // 2].hex()
        parts = (b'{"custom_id":"', f'{name}-{digits}"'.encode(), self._line_middle, body, b"}\n")
        return b"".join(parts)

    def line_bytes(self, name: str) -> int:
        """How many bytes a line whose custom_id has this name is larger than its body."""
        return _BYTES_BEFORE_NAME + len(name) + _BYTES_BEHIND_NAME + len(self._line_middle) + _BYTES_AT_END

    def body_of(self, line: bytes | memoryview, name: str) -> bytes:
        """The body inside a line that was made with the custom_id of this name, a `key_part`."""
        return bytes(line[self.line_bytes(name) - _BYTES_AT_END : -_BYTES_AT_END])


def recognise(
    line: bytes, *, provider_identity: str, endpoint: str, most_repeats: int = 1000
) -> tuple[str, Fingerprint] | None:
    """Name and fingerprint of a request by its line in an input file, ours or as a server gives it back.

    A server may write the same request in another order of keys, so the canonical body is made anew. The
    repeat number stands nowhere in the line: it is the one with which the custom_id's half of the
    fingerprint comes out. None where none does: then the line is not that request, or not to be trusted.
    """
    try:
        value = decode_json(line)
        custom, body = value["custom_id"], dict(value["body"])
        given = body.pop(_HOLES[endpoint])
        messages = (
            [Message(**one) for one in given]
            if isinstance(given, list)
            else [Message(role="user", content=given)]
        )
        shape = RequestShape(
            provider_identity=provider_identity, endpoint=endpoint, model=body.pop("model"), parameters=body
        )
        canonical, digits = shape.body(messages), hash_part(custom)
    except (JsonError, KeyError, TypeError, ValueError):
        return None
    for repeat in range(1, most_repeats + 1) if digits is not None else ():
        fingerprint = shape.fingerprint(canonical, repeat)
        if fingerprint.hex()[:_HASH_HEX_DIGITS] == digits:
            return custom[: -_HASH_HEX_DIGITS - 1], fingerprint
    return None


def _encoded(message: Message) -> bytes:
    return b'{"role":%b,"content":%b}' % (encode_text(message.role), encode_text(message.content))


_USER = b'{"role":"user","content":'
_HOLES = {
    "/v1/chat/completions": "messages",
    "/v1/responses": "input",
    "/v1/embeddings": "input",
    "/v1/completions": "prompt",
}

ENDPOINTS = tuple(_HOLES)
_WITH_ROLES = ("/v1/chat/completions", "/v1/responses")


def response_format(endpoint: str, schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """How an endpoint is told to answer in a JSON schema; empty for endpoints that can't."""
    wanted = {"name": name, "schema": schema, "strict": is_strict(schema)}
    if endpoint == "/v1/chat/completions":
        return {"response_format": {"type": "json_schema", "json_schema": wanted}}
    if endpoint == "/v1/responses":
        return {"text": {"format": {"type": "json_schema", **wanted}}}
    return {}


def is_strict(schema: object) -> bool:
    """Whether a schema may be sent with `strict: true`: every object is closed and requires all it names.

    Servers of the OpenAI kind refuse every request of a batch where strict is claimed and not held.
    """
    if isinstance(schema, Mapping):
        properties = schema.get("properties")
        if isinstance(properties, Mapping) or schema.get("type") == "object":
            named = set(properties) if isinstance(properties, Mapping) else set()
            required = schema.get("required")
            required = set(required) if isinstance(required, list) else set()
            if schema.get("additionalProperties") is not False or named != required:
                return False
        return all(is_strict(value) for value in schema.values())
    if isinstance(schema, list):
        return all(is_strict(value) for value in schema)
    return True
