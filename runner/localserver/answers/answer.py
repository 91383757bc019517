"""One request body to one answer: the directives, then the endpoint's checks, then its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.localserver.answers import shapes
from runner.localserver.answers.checks import BodyMistake, check_body
from runner.localserver.answers.directives import directives_in
from runner.localserver.answers.reading import Prompt, read_prompt
from runner.localserver.answers.spoken import speak


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Status and body as an upstream would send them; `delay_s` is how long it would think."""

    status: int
    body: Any
    prompt_tokens: int = 0
    completion_tokens: int = 0
    delay_s: float = 0.0


def answer(url: str, body: Any) -> Answer:
    """The answer to a body sent to `url` (`/v1/chat/completions`, ...). Never raises; same in, same out."""
    try:
        check_body(url, body)
        prompt = read_prompt(url, body)
        orders = directives_in(prompt.text)
        if orders.fail_status is not None:
            return _error(
                orders.fail_status, f"failed on request: [[local:fail {orders.fail_status}]]", orders.slow_s
            )
        given = _successful(url, body, prompt)
    except BodyMistake as mistake:
        return _error(400, str(mistake), 0.0)
    if orders.is_body_string:
        given = str(given)
    usage: Mapping[str, int] = given.get("usage", {}) if isinstance(given, dict) else {}
    return Answer(
        status=200,
        body=given,
        prompt_tokens=usage.get("prompt_tokens", usage.get("input_tokens", 0)),
        completion_tokens=usage.get("completion_tokens", usage.get("output_tokens", 0)),
        delay_s=orders.slow_s,
    )


def _successful(url: str, body: Mapping[str, Any], prompt: Prompt) -> Any:
    if url == "/v1/embeddings":
        return shapes.embeddings(body, prompt)
    return shapes.SHAPES[url](body, prompt, speak(body, prompt))


def _error(status: int, message: str, delay_s: float) -> Answer:
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return Answer(status=status, body=body, delay_s=delay_s)
