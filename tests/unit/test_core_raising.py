"""What bounds the output of a request."""

from __future__ import annotations

from typing import Any

import pytest

from runner.core.raising import output_bound

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


@pytest.mark.parametrize(
    ("endpoint", "parameters", "bound"),
    [
        (CHAT, {"max_tokens": 10}, 10),
        (CHAT, {"max_tokens": 10, "max_completion_tokens": 8000}, 8000),
        (CHAT, {"max_tokens": 8000, "max_completion_tokens": 10}, 8000),
        (CHAT, {"max_tokens": 10, "max_completion_tokens": None}, 10),
        (CHAT, {"max_tokens": 10.0}, 10),
        (CHAT, {"max_output_tokens": 10}, None),
        (CHAT, {"max_tokens": 10, "max_completion_tokens": -1}, None),
        (CHAT, {"max_tokens": 0}, None),
        (CHAT, {}, None),
        ("/v1/completions", {"max_tokens": 10, "max_completion_tokens": 8000}, 10),
        (RESPONSES, {"max_tokens": 10, "max_output_tokens": 8000}, 8000),
        (RESPONSES, {"max_tokens": 10}, None),
        ("/v1/embeddings", {}, 0),
    ],
)
def test_the_largest_limit_that_the_endpoint_knows_bounds_the_output(
    endpoint: str, parameters: dict[str, Any], bound: int | None
) -> None:
    assert output_bound(endpoint, parameters) == bound
