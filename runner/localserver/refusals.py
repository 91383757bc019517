"""Every way in which the server says no, with the exact bytes the hosted service uses.

Most are plain text; 429 and 503 are JSON with a string `error`, and their header and body disagree about
the wait on purpose. Handlers raise `Refusal`; the application turns it into a reply, nobody else does.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import Response

from runner.core.wire import encode_json


class Refusal(Exception):  # noqa: N818 - a reply, and the word of the API's side
    """An error reply: status, body bytes, media type, extra headers."""

    def __init__(
        self,
        status: int,
        body: bytes,
        media_type: str = "text/plain; charset=utf-8",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.media_type = media_type
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The reply to send."""
        return Response(self.body, self.status, self.headers, self.media_type)


def text(status: int, message: str) -> Refusal:
    """A plain text refusal: the message is the whole body."""
    return Refusal(status, message.encode("utf-8", errors="replace"))


def unauthorized() -> Refusal:
    """401 for any fault of the key."""
    return text(401, "Authentication required")


def not_found(thing: str, thing_id: str) -> Refusal:
    """404; the same for what does not exist and what belongs to another owner."""
    return text(404, f"{thing} with ID {thing_id} not found")


def busy(message: str, *, header: str = "60", body_s: int | None = 30, status: int = 429) -> Refusal:
    """429: capacity, volume or upload queue. The header says 60, the body 30; empty and None say nothing."""
    return _json_refusal(status, "too_many_requests", message, header=header, body_s=body_s)


def unavailable(message: str, *, header: str = "30", body_s: int | None = 30) -> Refusal:
    """503, with a Retry-After header unless it is empty."""
    return _json_refusal(503, "service_unavailable", message, header=header, body_s=body_s)


def _json_refusal(status: int, word: str, message: str, *, header: str, body_s: int | None) -> Refusal:
    value = {"error": word, "message": message} | ({} if body_s is None else {"retry_after_seconds": body_s})
    headers = {"Retry-After": header} if header else {}
    return Refusal(status, encode_json(value), "application/json", headers)


def openai_error(status: int, message: str, kind: str, *, code: str | None = None) -> Refusal:
    """The OpenAI error object that only `/models` and the inference routes send."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Refusal(status, encode_json(body), "application/json")
