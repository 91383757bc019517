"""What a real endpoint would refuse with 400 before asking a model: missing parts and wrong types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class BodyMistake(ValueError):  # noqa: N818 - a mistake of the request, not an error of the server
    """The body is refused; the text is the upstream's message."""


_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_WHOLE_NUMBERS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "dimensions")
_NUMBERS = {"temperature": (0, 2), "top_p": (0, 1)}


def check_body(url: str, body: Any) -> None:
    """Raises BodyMistake where an upstream would answer 400."""
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise BodyMistake("you must provide a model parameter")
    if url in ("/v1/chat/completions", "/v1/messages"):
        _check_messages(body)
    elif url == "/v1/completions":
        _check_one_of(body, "prompt", (str, list))
    elif url in ("/v1/embeddings", "/v1/responses"):
        _check_one_of(body, "input", (str, list))
    if url == "/v1/messages" and "max_tokens" not in body:
        raise BodyMistake("max_tokens: Field required")
    _check_numbers(body)


def _check_messages(body: Mapping[str, Any]) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise BodyMistake("Missing required parameter: 'messages'.")
    if not messages:
        raise BodyMistake("Invalid 'messages': empty array. Expected an array with minimum length 1.")
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BodyMistake(f"Invalid type for 'messages[{number}]': expected an object.")
        if message.get("role") not in _ROLES:
            raise BodyMistake(f"Invalid value for 'messages[{number}].role': {message.get('role')!r}.")
        if not isinstance(message.get("content"), (str, list, type(None))):
            raise BodyMistake(
                f"Invalid type for 'messages[{number}].content': expected a string or an array."
            )


def _check_one_of(body: Mapping[str, Any], name: str, kinds: tuple[type, ...]) -> None:
    if name not in body:
        raise BodyMistake(f"Missing required parameter: '{name}'.")
    if not isinstance(body[name], kinds) or body[name] == []:
        raise BodyMistake(f"Invalid type for '{name}': expected a string or a non-empty array.")


def _check_numbers(body: Mapping[str, Any]) -> None:
    for name in _WHOLE_NUMBERS:
        given = body.get(name)
        if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
            raise BodyMistake(f"Invalid value for '{name}': expected an integer of 1 or more.")
    for name, (low, high) in _NUMBERS.items():
        given = body.get(name)
        if given is None:
            continue
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not low <= given <= high:
            raise BodyMistake(f"Invalid value for '{name}': expected a number from {low} to {high}.")
    if isinstance(body.get("n"), int) and body["n"] > 128:
        raise BodyMistake("Invalid value for 'n': expected an integer of at most 128.")
    if isinstance(body.get("dimensions"), int) and body["dimensions"] > 65_536:
        raise BodyMistake("Invalid value for 'dimensions': expected an integer of at most 65536.")
