"""Webhooks of the provider: is this message really its own, and which batch is it about?

Pure. The messages are signed as Standard Webhooks says (webhook-id, webhook-timestamp, webhook-signature:
`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`). The rule: nothing of a body is read before its
signature is checked, and what it says is a hint and no more: the batch that it names is looked at, and the
answer of the server decides. So a lost message costs minutes, a repeated or a forged one nothing.

Written here, and held against the package `standardwebhooks` in the tests: it is thirty lines, and the
package reads the clock by itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from runner.core.wire import JsonError, decode_json

TOLERANCE_S: Final = 300
"""How far a timestamp may be from now: what Standard Webhooks advises."""
MAX_BODY_BYTES: Final = 64 * 1024
EVENTS: Final = ("batch.completed", "batch.failed")
_MAX_HEADER: Final = 1_024
_MAX_SIGNATURES: Final = 10
_MAX_SECRETS: Final = 10
_REMEMBERED: Final = 10_000
_ID: Final = re.compile(r"[!-~]{1,256}\Z")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}\Z")
_BATCH_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_PREFIX: Final = "batch_"


class RefusedWebhookError(Exception):
    """A message that is not believed or not understood. `status` is the HTTP answer; the text is safe."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEvent:
    """What a message says. `batch_ids`: as the server's API may know the batch, the likeliest first."""

    event_id: str
    type: str
    batch_ids: tuple[str, ...]


class Secrets:
    """The keys that messages may be signed with; several while one takes the place of another. Masked."""

    __slots__ = ("_keys",)

    def __init__(self, text: str) -> None:
        """`whsec_` and base64, or several with blanks between. Raises ValueError; the text is never shown."""
        words = text.split()
        if not 1 <= len(words) <= _MAX_SECRETS:
            raise ValueError("holds no secret" if not words else "holds too many secrets")
        self._keys = tuple(map(_key, words))

    def has_signed(self, content: bytes, signature: bytes) -> bool:
        """Whether one of the keys gives this signature. Takes as long for a wrong one as for a right one."""
        found = [
            hmac.compare_digest(hmac.new(key, content, hashlib.sha256).digest(), signature)
            for key in self._keys
        ]
        return any(found)

    def __repr__(self) -> str:
        return "Secrets(masked)"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a secret is not written down anywhere, so it can't be pickled")


def _key(word: str) -> bytes:
    try:
        key = base64.b64decode(word.removeprefix("whsec_"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError("is not `whsec_` followed by base64") from error
    if len(key) < 16:
        raise ValueError("is too short for a secret")
    return key


def receive(headers: Mapping[str, str], body: bytes, secrets: Secrets, *, now_s: float) -> BatchEvent | None:
    """The event of a message; None for one that is of no use here, such as a user's.

    `headers` by lower-case names. Raises RefusedWebhookError: 401 for a message that is not signed as it must
    be or is too old, 400 for one that is, but makes no sense.
    """
    event_id = _verified(headers, body, secrets, now_s)
    try:
        message = decode_json(body)
    except JsonError as error:
        raise RefusedWebhookError(400, "the body is not JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise RefusedWebhookError(400, "the body has no type")
    if message["type"] not in EVENTS:
        return None
    return BatchEvent(event_id=event_id, type=message["type"], batch_ids=_batch_ids(message.get("data")))


def _verified(headers: Mapping[str, str], body: bytes, secrets: Secrets, now_s: float) -> str:
    event_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not _ID.match(event_id) or not _TIMESTAMP.match(timestamp) or len(signatures) > _MAX_HEADER:
        raise RefusedWebhookError(401, "not signed")
    content = b".".join((event_id.encode(), timestamp.encode(), body))
    given = [word.partition(",") for word in signatures.split()[:_MAX_SIGNATURES]]
    if not any(secrets.has_signed(content, _decoded(text)) for version, _, text in given if version == "v1"):
        raise RefusedWebhookError(401, "the signature does not fit")
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        raise RefusedWebhookError(401, "the timestamp is too far from now")
    return event_id


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""


def _batch_ids(data: Any) -> tuple[str, ...]:
    """Doubleword puts `batch_` before an id that its own API takes bare only; OpenAI's are so by nature, and
    stand in `id`."""
    named = data.get("batch_id", data.get("id")) if isinstance(data, dict) else None
    if not isinstance(named, str) or not _BATCH_ID.match(named):
        raise RefusedWebhookError(400, "the body names no batch")
    bare = named.removeprefix(_PREFIX)
    return (bare, named) if bare and bare != named else (named,)


class Seen:
    """The ids of messages that came already; the last ten thousand, many more than arrive while a timestamp
    is good."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._most = most

    def is_new(self, event_id: str) -> bool:
        """Whether this id comes for the first time; it is remembered then."""
        if event_id in self._ids:
            return False
        self._ids[event_id] = None
        if len(self._ids) > self._most:
            self._ids.popitem(last=False)
        return True
