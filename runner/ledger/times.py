"""Times as the ledger writes them: `2026-01-02T03:04:05.678Z`, UTC, to the millisecond.

ISO text sorts as it should and is read without a manual. Unix seconds come in, ISO text is stored, and
either aware datetimes (for people) or Unix seconds (for the state machine) go out.
"""

from __future__ import annotations

from datetime import UTC, datetime


def iso(seconds: float) -> str:
    """Unix seconds as text. Rounded to the millisecond."""
    moment = datetime.fromtimestamp(round(seconds, 3), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_or_none(seconds: float | None) -> str | None:
    """Unix seconds as text; None stays None."""
    return None if seconds is None else iso(seconds)


def moment(text: str) -> datetime:
    """Stored text as an aware datetime."""
    return datetime.fromisoformat(text)


def moment_or_none(text: str | None) -> datetime | None:
    """Stored text as an aware datetime; None stays None."""
    return None if text is None else moment(text)


def seconds_or_none(text: str | None) -> float | None:
    """Stored text as Unix seconds; None stays None."""
    return None if text is None else round(moment(text).timestamp(), 3)
