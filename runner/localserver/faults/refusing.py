"""Kinds at the point `before`: the server says no, or waits, and nothing has happened.

`act` takes the parameters and gives the refusal to send; `slow-request` and `reset` have none, the gate
knows them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from runner.localserver import refusals
from runner.localserver.faults.kind import ANY, BATCH, CREATE, UPLOAD, FaultKind, Point
from runner.localserver.refusals import Refusal

Params = Mapping[str, Any]

_CAPACITY = (
    "Insufficient capacity for {window} completion window. The following models are currently at capacity: "
    "{models}. Try again later or use a longer completion window."
)
_VOLUME = "Unverified accounts can submit at most 1000 requests per hour of completion window."
_PAGE = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
    "</body>\r\n</html>\r\n"
)
_WAIT: Params = {"retry_after": "60", "body_s": 30}
"""What the hosted service says: its header and its body disagree. Empty and -1 leave them out."""


def page(status: int) -> Refusal:
    """The HTML page of a gateway."""
    title = "Gateway Time-out" if status == 504 else HTTPStatus(status).phrase
    return Refusal(status, _PAGE.format(f"{status} {title}").encode(), "text/html")


def error(status: int) -> Refusal:
    """The error that the hosted service or its gateway gives with one of 500, 502, 503 and 504."""
    if status == 503:
        return _unavailable({"retry_after": "30", "body_s": 30})
    return refusals.text(500, "Internal server error") if status == 500 else page(status)


def _busy(message: str) -> Callable[[Params], Refusal]:
    def act(params: Params) -> Refusal:
        wait_s = params["body_s"] if params["body_s"] >= 0 else None
        return refusals.busy(message.format(**params), header=params["retry_after"], body_s=wait_s)

    return act


def _asking(retry_after: Callable[[Params], str]) -> Callable[[Params], Refusal]:
    """A full server whose Retry-After is odd and whose body says nothing about a wait."""

    def act(params: Params) -> Refusal:
        message = _CAPACITY.format(window="24h", models="local")
        return refusals.busy(message, header=retry_after(params), body_s=None, status=params["status"])

    return act


def _odd_wait(summary: str, retry_after: Callable[[Params], str], **params: Any) -> FaultKind:
    return FaultKind(
        point=Point.BEFORE,
        route=CREATE,
        summary=summary,
        params={"status": 429, **params},
        act=_asking(retry_after),
    )


def _rate_limit(params: Params) -> Refusal:
    refusal = refusals.openai_error(
        429, "Rate limit reached for requests", "requests", code="rate_limit_exceeded"
    )
    if params["retry_after"]:
        refusal.headers["Retry-After"] = params["retry_after"]
    return refusal


def _redirect(params: Params) -> Refusal:
    return Refusal(307, b"", headers={"Location": params["location"]})


def _unavailable(params: Params) -> Refusal:
    wait_s = params["body_s"] if params["body_s"] >= 0 else None
    return refusals.unavailable(
        "Service temporarily unavailable. Please retry later.", header=params["retry_after"], body_s=wait_s
    )


def _said(status: int, message: str, code: str) -> Callable[[Params], Refusal]:
    """A sentence: plain text as the hosted service has it, or the error object of OpenAI."""

    def act(params: Params) -> Refusal:
        said = message.format(**params)
        if params["openai"]:
            return refusals.openai_error(status, said, "invalid_request_error", code=code)
        return refusals.text(status, said)

    return act


def _before(
    summary: str, act: Callable[[Params], Refusal] | None, route: str = ANY, **params: Any
) -> FaultKind:
    return FaultKind(point=Point.BEFORE, summary=summary, route=route, params=params, act=act)


def _refused(
    status: int, message: str, code: str, summary: str, route: str = ANY, **params: Any
) -> FaultKind:
    act = _said(status, message, code)
    return _before(f"{status}: {summary}", act, route, openai=False, **params)


KINDS: Mapping[str, FaultKind] = {
    "capacity-429": _before(
        "429: insufficient capacity", _busy(_CAPACITY), CREATE, window="24h", models="local", **_WAIT
    ),
    "volume-429": _before("429: volume cap of an unverified account", _busy(_VOLUME), CREATE, **_WAIT),
    "upload-queue-429": _before(
        "429: too many uploads at once",
        _busy("Too many file uploads in progress. Please retry later."),
        UPLOAD,
        **_WAIT,
    ),
    "rate-limit-429": _before(
        "429 in OpenAI's shape, code rate_limit_exceeded", _rate_limit, ANY, retry_after="1"
    ),
    "quota-429": _before(
        "429 in OpenAI's shape, code insufficient_quota: the account has to pay",
        lambda _: refusals.openai_error(
            429, "You exceeded your current quota", "insufficient_quota", code="insufficient_quota"
        ),
    ),
    "gateway-429": _before("429 with an HTML body", lambda _: page(429)),
    "retry-after-absent": _odd_wait("429 that names no time to wait", lambda _: ""),
    "retry-after-negative": _odd_wait("429 with Retry-After: -1", lambda _: "-1"),
    "retry-after-date": _odd_wait(
        "429 whose Retry-After is an HTTP date some seconds ahead",
        lambda params: formatdate(time.time() + params["seconds"], usegmt=True),
        seconds=1.0,
    ),
    "retry-after-huge": _odd_wait("429 whose Retry-After is longer than a life", lambda _: "99999999999"),
    "retry-after-words": _odd_wait("429 with Retry-After: in a while", lambda _: "in a while"),
    "balance-402": _refused(
        402,
        "Account balance too low. Please add credits to continue.",
        "insufficient_balance",
        "balance below zero",
        CREATE,
    ),
    "unauthorized-401": _refused(
        401, "Authentication required", "invalid_api_key", "as if the key were wrong"
    ),
    "model-403": _refused(
        403,
        "Model '{model}' has not been configured or is not available to you",
        "model_not_available",
        "this model is not for this account",
        CREATE,
        model="m",
    ),
    "plan-403": _refused(
        403,
        "Your plan does not include the batch API",
        "plan_not_eligible",
        "this account has no access to batches",
        CREATE,
    ),
    "too-large-413": _refused(
        413,
        "File exceeds the maximum allowed size of 104857600 bytes",
        "file_too_large",
        "the file is larger than the server takes",
        UPLOAD,
    ),
    "gateway-413": _before("413 with an HTML body", lambda _: page(413), UPLOAD),
    "invalid-400": _refused(
        400,
        "Line 2: 'custom_id' is a required property",
        "invalid_request",
        "the request is said to be wrong",
        UPLOAD,
    ),
    "unprocessable-422": _refused(
        422,
        "Failed to deserialize the JSON body into the target type: missing field `endpoint`",
        "invalid_request",
        "the JSON is said to have the wrong shape",
        CREATE,
    ),
    "missing-404": _refused(
        404,
        "Batch with ID 00000000-0000-0000-0000-000000000000 not found",
        "not_found",
        "for something that is there: a replica that lags",
        BATCH,
    ),
    "gone-410": _refused(410, "File content is gone", "gone", "the content was removed", "GET /v1/files/*"),
    "timeout-408": _refused(408, "Request timed out", "timeout", "without any effect"),
    "conflict-409": _refused(
        409, "A batch of this file is being created already", "conflict", "without any effect", CREATE
    ),
    "redirect-307": _before(
        "307 to another address; the key must not go there", _redirect, location="http://127.0.0.1:9/v1/other"
    ),
    "internal-500": _before("500 without any effect", lambda _: error(500)),
    "unavailable-503": _before("503 without any effect", _unavailable, ANY, retry_after="30", body_s=30),
    "gateway-500": _before("500 with an HTML body, no effect", lambda _: page(500)),
    "gateway-502": _before("502 with an HTML body, no effect", lambda _: page(502)),
    "gateway-503": _before("503 with an HTML body, no effect", lambda _: page(503)),
    "gateway-504": _before("504 with an HTML body, no effect", lambda _: page(504)),
    "slow-request": _before("wait before handling", None, seconds=1.0),
    "reset": _before("the connection closes at once; nothing has happened", None),
}
