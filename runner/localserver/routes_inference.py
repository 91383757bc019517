"""`/v1/models` and the inference routes, which answer at once with what a batch would have held.

Errors here have the OpenAI shape, as on the hosted service. In upstream mode the request goes upstream.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from runner.core.wire import encode_json
from runner.localserver import refusals
from runner.localserver.answers import Answer, answer
from runner.localserver.files_table import models_of_owner
from runner.localserver.replies import json_body, json_reply
from runner.localserver.settings import ServerSettings
from runner.localserver.site import owner_of, site_of
from runner.localserver.upstream import send_once

DEFAULT_MODEL = "local"
CHAT = "/v1/chat/completions"


def list_models(request: Request) -> Response:
    """GET /v1/models: the configured ones; where every name is accepted, `local` and those used so far."""
    site = site_of(request)
    names = sorted(site.settings.models or ())
    if site.settings.models is None:
        with site.database.read() as connection:
            names = sorted({DEFAULT_MODEL, *models_of_owner(connection, owner_of(request))})
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "None"} for name in names]
    return json_reply({"object": "list", "data": data})


async def infer(request: Request) -> Response:
    """POST to an inference route."""
    site = site_of(request)
    body = await json_body(request, max_bytes=site.settings.max_body_bytes)
    _check_model(site.settings, body.get("model"))
    if site.settings.upstream is not None:
        result = await run_in_threadpool(send_once, site.settings, request.url.path, encode_json(body))
        if result.error is not None:
            raise refusals.openai_error(504, f"upstream: {result.error[1]}", "gateway_timeout")
        return Response(result.body, result.status, media_type="application/json")
    is_stream = body.pop("stream", False) is True
    if is_stream and request.url.path != CHAT:
        raise refusals.openai_error(
            400, f"The local server streams only {CHAT}.", "invalid_request_error", code="unsupported_value"
        )
    given = await run_in_threadpool(answer, request.url.path, body)
    await asyncio.sleep(given.delay_s)
    if is_stream and isinstance(given.body, dict) and given.status < 400:
        return Response(_events(given.body), media_type="text/event-stream")
    return _reply(given)


def _events(body: dict[str, Any]) -> bytes:
    """A chat completion as server-sent events: one chunk for each choice, then the end."""
    parts = []
    for choice in body["choices"]:
        shown = {
            "index": choice["index"],
            "delta": choice["message"],
            "finish_reason": choice["finish_reason"],
        }
        parts.append({**body, "object": "chat.completion.chunk", "choices": [shown], "usage": None})
    parts[-1]["usage"] = body["usage"]
    return b"".join(b"data: %b\n\n" % encode_json(part) for part in parts) + b"data: [DONE]\n\n"


def _check_model(settings: ServerSettings, model: object) -> None:
    if settings.models is not None and model not in settings.models:
        raise refusals.openai_error(
            404,
            f"The model '{model}' does not exist or you do not have access to it.",
            "invalid_request_error",
            code="model_not_found",
        )


def _reply(given: Answer) -> Response:
    if isinstance(given.body, str):
        return Response(given.body, given.status, media_type="text/plain")
    return json_reply(given.body, given.status)
