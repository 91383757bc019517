"""How values that are the same nearly everywhere are stored, and read back: the codes and the NULLs.

A million rows must fit into 150 MB, so what is usual takes no space (see `tables`). Knows no database:
whoever gets stored values can read them without one.
"""

from __future__ import annotations

import re

from runner.core.model import Status

STATUS_CODES: dict[Status, int] = {
    Status.FAILED: 0,
    Status.SUCCEEDED: 1,
    Status.TRUNCATED: 2,
    Status.REFUSED: 3,
    Status.INVALID: 4,
    Status.EXPIRED: 5,
    Status.CANCELLED: 6,
    Status.UNACCOUNTED: 7,
    Status.UNSENDABLE: 8,
    Status.PENDING: 9,
}
"""How `attempt.status` and `request.status` are stored; the table `status` says it in words. Fixed for
good. 0 and 1 take no space in SQLite, so the commonest two have them."""
STATUSES: dict[int, Status] = {code: status for status, code in STATUS_CODES.items()}
SUCCEEDED_CODE = STATUS_CODES[Status.SUCCEEDED]
ANSWERED_CODES = frozenset(
    STATUS_CODES[status] for status in (Status.SUCCEEDED, Status.TRUNCATED, Status.REFUSED, Status.INVALID)
)

_UUID_PREFIX = "batch_req_"
_USUAL_RESPONSE_ID = re.compile(_UUID_PREFIX + "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_USUAL_FINISH = "stop"


def pack_finish_reason(reason: str | None) -> str | None:
    """None for the usual `stop`, empty where the server named none."""
    return None if reason == _USUAL_FINISH else storable(reason) or ""


def unpack_finish_reason(stored: str | None) -> str | None:
    """The finish reason of an attempt that has ended."""
    return _USUAL_FINISH if stored is None else stored or None


def pack_model(model: str | None, usual: str) -> str | None:
    """None for the shard's own model, empty where the server named none."""
    return None if model == usual else storable(model) or ""


def unpack_model(stored: str | None, usual: str) -> str | None:
    """The model as answered."""
    return usual if stored is None else stored or None


def pack_response_id(text: str | None) -> tuple[bytes | None, str | None]:
    """`batch_req_<uuid>` as 16 bytes, anything else as text; exactly what `unpack_response_id` undoes."""
    if text is not None and _USUAL_RESPONSE_ID.fullmatch(text):
        return bytes.fromhex(text[len(_UUID_PREFIX) :].replace("-", "")), None
    return None, storable(text)


def unpack_response_id(packed: bytes | None, text: str | None) -> str | None:
    """The response's id as the server gave it."""
    if packed is None:
        return text
    digits = packed.hex()
    return f"{_UUID_PREFIX}{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def storable(text: str | None) -> str | None:
    """A server's text as a database can hold it: NUL and lone surrogates become U+FFFD."""
    if text is None or text.isprintable():
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
