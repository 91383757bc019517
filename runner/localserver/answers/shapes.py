"""The response bodies of the five endpoints, as their real counterparts shape them.

Ids and times come from the request's hash, so that the same request has the same answer to the byte.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from runner.core.wire import encode_json
from runner.localserver.answers.reading import Prompt, tokens_of
from runner.localserver.answers.spoken import Spoken

CREATED_S = 1_767_225_600
"""`created` of every local answer (2026-01-01): the answer is a function of the request alone."""
DEFAULT_DIMENSIONS = 16

Shape = Callable[[Mapping[str, Any], Prompt, Spoken], dict[str, Any]]


def _usage(prompt: Prompt, spoken: Spoken, copies: int = 1) -> dict[str, int]:
    tokens_out = spoken.output_tokens * copies
    return {
        "prompt_tokens": prompt.input_tokens,
        "completion_tokens": tokens_out,
        "total_tokens": prompt.input_tokens + tokens_out,
    }


def chat_completion(body: Mapping[str, Any], prompt: Prompt, spoken: Spoken) -> dict[str, Any]:
    """/v1/chat/completions."""
    message: dict[str, Any] = {"role": "assistant", "content": spoken.text}
    if spoken.is_refusal:
        message = {"role": "assistant", "content": None, "refusal": spoken.text}
    copies = body.get("n") or 1
    choices = [
        {"index": index, "message": message, "finish_reason": spoken.finish_reason} for index in range(copies)
    ]
    return {
        "id": f"chatcmpl-{prompt.digest[:24]}",
        "object": "chat.completion",
        "created": CREATED_S,
        "model": body["model"],
        "choices": choices,
        "usage": _usage(prompt, spoken, copies),
    }


def completion(body: Mapping[str, Any], prompt: Prompt, spoken: Spoken) -> dict[str, Any]:
    """/v1/completions: one choice for each prompt of a list."""
    prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    copies = (body.get("n") or 1) * (len(prompts) if all(isinstance(p, str) for p in prompts) else 1)
    return {
        "id": f"cmpl-{prompt.digest[:24]}",
        "object": "text_completion",
        "created": CREATED_S,
        "model": body["model"],
        "choices": [
            {"index": index, "text": spoken.text, "logprobs": None, "finish_reason": spoken.finish_reason}
            for index in range(copies)
        ],
        "usage": _usage(prompt, spoken, copies),
    }


def response(body: Mapping[str, Any], prompt: Prompt, spoken: Spoken) -> dict[str, Any]:
    """/v1/responses."""
    is_cut = spoken.finish_reason == "length"
    part: dict[str, Any] = {"type": "output_text", "text": spoken.text, "annotations": []}
    if spoken.is_refusal:
        part = {"type": "refusal", "refusal": spoken.text}
    status = "incomplete" if is_cut else "completed"
    return {
        "id": f"resp_{prompt.digest[:24]}",
        "object": "response",
        "created_at": CREATED_S,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "model": body["model"],
        "output": [
            {
                "id": f"msg_{prompt.digest[24:48]}",
                "type": "message",
                "status": status,
                "role": "assistant",
                "content": [part],
            }
        ],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": prompt.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": spoken.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt.input_tokens + spoken.output_tokens,
        },
    }


def message(body: Mapping[str, Any], prompt: Prompt, spoken: Spoken) -> dict[str, Any]:
    """/v1/messages."""
    reason = "max_tokens" if spoken.finish_reason == "length" else "end_turn"
    return {
        "id": f"msg_{prompt.digest[:24]}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": spoken.text}],
        "stop_reason": "refusal" if spoken.is_refusal else reason,
        "stop_sequence": None,
        "usage": {"input_tokens": prompt.input_tokens, "output_tokens": spoken.output_tokens},
    }


SHAPES: Mapping[str, Shape] = {
    "/v1/chat/completions": chat_completion,
    "/v1/completions": completion,
    "/v1/responses": response,
    "/v1/messages": message,
}


def embeddings(body: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
    """/v1/embeddings: one unit vector for each input, a function of the text and the model."""
    given = body["input"]
    is_one = isinstance(given, str) or all(isinstance(item, int) for item in given)
    inputs = [given] if is_one else given
    dimensions = body.get("dimensions") or DEFAULT_DIMENSIONS
    data = []
    for index, item in enumerate(inputs):
        vector = unit_vector(encode_json([body["model"], item]), dimensions)
        shown: Any = vector
        if body.get("encoding_format") == "base64":
            shown = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": shown})
    tokens = tokens_of(prompt.text)
    return {
        "object": "list",
        "data": data,
        "model": body["model"],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def unit_vector(seed: bytes, dimensions: int) -> list[float]:
    """A vector of length 1, drawn from the hash of `seed`."""
    numbers: list[float] = []
    block = 0
    while len(numbers) < dimensions:
        digest = sha256(seed + block.to_bytes(4, "big")).digest()
        numbers += [value / 2**31 - 1 for value in struct.unpack(">8I", digest)]
        block += 1
    numbers = numbers[:dimensions]
    length = math.sqrt(sum(value * value for value in numbers)) or 1.0
    return [value / length for value in numbers]
