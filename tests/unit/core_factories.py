"""Values for tests of the core, with good defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runner.core.identity import ENDPOINTS, RequestShape
from runner.core.model import Limits, Problem, ProblemKind, Provider
from runner.core.states import ShardState, Submission
from runner.core.wire import BatchObject


def make_provider(**changes: Any) -> Provider:
    provider = Provider(
        name="test",
        identity="test",
        base_url="http://127.0.0.1:1/v1",
        api_key_env=None,
        limits=Limits(max_file_bytes=1000, max_requests_per_file=10, max_body_bytes=500),
        endpoints=ENDPOINTS,
        settle_s=100.0,
        has_fence=True,
    )
    return replace(provider, **changes)


def make_submission(**changes: Any) -> Submission:
    submission = Submission(
        server="https://llm.example.com/v1",
        shard_id=7,
        run="ab" * 16,
        slot=3,
        sha="cd" * 32,
        path="shards/x.jsonl",
        size_bytes=100,
        requests=2,
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
    return replace(submission, **changes)


def make_batch(**changes: Any) -> BatchObject:
    batch = BatchObject(
        batch_id="batch-1",
        status="in_progress",
        input_file_id="file-1",
        output_file_id=None,
        error_file_id=None,
        total=2,
        completed=0,
        failed=0,
        created_at_s=1,
        expires_at_s=None,
        metadata={},
        errors=None,
    )
    return replace(batch, **changes)


def make_problem(kind: ProblemKind = ProblemKind.SERVER_TROUBLE, **changes: Any) -> Problem:
    return replace(Problem(kind=kind, message="trouble"), **changes)


def make_shape(**changes: Any) -> RequestShape:
    arguments: dict[str, Any] = {
        "provider_identity": "test",
        "endpoint": "/v1/chat/completions",
        "model": "m",
        "parameters": {"temperature": 0, "max_tokens": 5},
    }
    return RequestShape(**(arguments | changes))


ALL_STATES = tuple(ShardState)
