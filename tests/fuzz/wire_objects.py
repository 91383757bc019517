"""Good replies of batch servers, as values: what the examples of `replies` are made from."""

from __future__ import annotations

from typing import Any

COUNTS = {"total": 3, "completed": 2, "failed": 1}
BATCH: dict[str, Any] = {
    "id": "batch_0f4c1c0e",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "status": "in_progress",
    "errors": None,
    "input_file_id": "file-1",
    "output_file_id": "file-2",
    "error_file_id": None,
    "created_at": 1_800_000_000,
    "expires_at": 1_800_086_400,
    "completed_at": None,
    "request_counts": COUNTS,
    "metadata": {"runner-run": "ab" * 16, "runner-slot": "0000", "runner-attempt": "1"},
}
FAILED_BATCH: dict[str, Any] = {
    **BATCH,
    "status": "failed",
    "errors": {"object": "list", "data": [{"code": "invalid_json", "message": "line 3", "line": 3}]},
}
FILE: dict[str, Any] = {
    "id": "file-1",
    "object": "file",
    "bytes": 120,
    "created_at": 1_800_000_000,
    "expires_at": None,
    "filename": "runner-abc-s0000-a1-0011223344556677.jsonl",
    "purpose": "batch",
    "status": "processed",
}
PAGE: dict[str, Any] = {
    "object": "list",
    "data": [{**BATCH, "id": f"batch-{number}", "created_at": 1_800_000_000 - number} for number in range(3)],
    "first_id": "batch-0",
    "last_id": "batch-2",
    "has_more": False,
}
FILE_PAGE: dict[str, Any] = {**PAGE, "data": [{**FILE, "id": f"file-{number}"} for number in range(3)]}

WORDS = (
    *("scheduling", "PROGRESS", "completed", "Cancelled", "canceling", "expired", "failed", "validating", ""),
    *("finalizing", "paused", "done", "success", "queued_for_review", "pre_process"),
)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "an answer", "refusal": None},
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}
COMPLETION: dict[str, Any] = {
    "model": "m",
    "choices": [{"text": "an answer", "finish_reason": "length"}],
    "usage": USAGE,
}
RESPONSE: dict[str, Any] = {
    "model": "m",
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "an answer"}]}],
    "incomplete_details": {"reason": "max_output_tokens"},
    "usage": {"input_tokens": 3, "output_tokens": 2},
}
EMBEDDING: dict[str, Any] = {
    "model": "m",
    "data": [{"index": 0, "embedding": [0.5, -1, 2e-7]}],
    "usage": USAGE,
}
BODIES = (CHAT, CHAT, COMPLETION, RESPONSE, EMBEDDING)

ERRORS: tuple[Any, ...] = (
    {"code": "server_error", "message": "it broke"},
    {"code": "batch_expired", "message": "This request could not be executed in time."},
    {"code": "batch_cancelled", "message": "gone"},
    {
        "code": None,
        "message": '{"type":"NonRetriableHttpStatus","details":'
        '{"status":400,"body":"{\\"error\\":{\\"code\\":1}}"}}',
    },
    {"message": '{"type":"Timeout","details":{"error":"no answer"}}'},
    "it broke",
    {"error": {"error": {"message": "deep"}}},
)


def answer_line(custom_id: str, body: Any) -> dict[str, Any]:
    """A line of an output file."""
    return {
        "id": "batch_req_0f4c1c0e-6a4e-4c2f-9a55-0123456789ab",
        "custom_id": custom_id,
        "response": {"status_code": 200, "request_id": "r", "body": body},
        "error": None,
    }


def error_line(custom_id: str, error: Any) -> dict[str, Any]:
    """A line of an error file."""
    return {"id": "batch_req_1", "custom_id": custom_id, "response": None, "error": error}
