"""Webhooks as the provider sends them, signed by the package that others use."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BATCH_ID = "6c0b2c9e-0000-4000-8000-5f7f3a1d9c0b"
NOW_S = 1_790_000_000


def make_body(kind: str = "batch.completed", batch_id: str = f"batch_{BATCH_ID}", **data: Any) -> bytes:
    """The body of one event."""
    counts = {"total": 3, "completed": 3, "failed": 0, "cancelled": 0}
    fields = {"batch_id": batch_id, "status": "completed", "request_counts": counts, **data}
    return json.dumps({"type": kind, "timestamp": "2026-11-26T02:00:00Z", "data": fields}).encode()


def make_headers(
    body: bytes, *, event_id: str = "msg_1", at_s: float = NOW_S, secret: str = SECRET
) -> dict[str, str]:
    """The three headers, by lower-case names."""
    signature = Webhook(secret).sign(event_id, datetime.fromtimestamp(at_s, UTC), body.decode())
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at_s)),
        "webhook-signature": signature,
    }
