"""What a request says, whatever the endpoint: its text, the last thing the user said, its hash, its size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from runner.core.wire import encode_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """text: all of it; last: what the user said last; digest: of the canonical body, 64 hex digits."""

    text: str
    last: str
    digest: str
    input_tokens: int


def tokens_of(text: str) -> int:
    """Plausible number of tokens: a quarter of the bytes, rounded up."""
    return (len(text.encode("utf-8", errors="replace")) + 3) // 4


def read_prompt(url: str, body: Mapping[str, Any]) -> Prompt:
    """Read a checked body."""
    parts = list(_parts(url, body))
    text = "\n".join(part for _, part in parts)
    said = [part for role, part in parts if role == "user"]
    return Prompt(
        text=text,
        last=said[-1] if said else text,
        digest=sha256(encode_json(body, sort_keys=True)).hexdigest(),
        input_tokens=max(tokens_of(text), 1),
    )


def _parts(url: str, body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(role, text) of everything in the request."""
    for name in ("system", "instructions"):
        if body.get(name):
            yield "system", "\n".join(_texts(body[name]))
    if url in ("/v1/chat/completions", "/v1/messages"):
        yield from _messages(body["messages"])
    elif url == "/v1/responses" and isinstance(body["input"], list):
        yield from _messages(body["input"])
    else:
        yield "user", "\n".join(_texts(body.get("input", body.get("prompt"))))


def _messages(messages: list[Any]) -> Iterator[tuple[str, str]]:
    for message in messages:
        if isinstance(message, str):
            yield "user", message
        elif isinstance(message, dict):
            yield str(message.get("role", "user")), "\n".join(_texts(message.get("content")))


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                yield part["text"]
            elif isinstance(part, str):
                yield part
            elif isinstance(part, (int, list)):
                yield encode_json(part).decode()
