"""Orders that a prompt can carry, so that people can see failures on purpose.

[[local:fail 400]]     the request fails with this status (400 to 599): a line of the error file
[[local:refuse]]       a refusal in place of an answer
[[local:truncate]]     the answer is cut and says so (finish_reason `length`)
[[local:slow 2]]       the answer takes this many seconds (at most 3600)
[[local:body-string]]  the response body is a string, as when an upstream sends no JSON
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_SLOW_S = 3600.0
_ORDER = re.compile(r"\[\[local:(fail|refuse|truncate|slow|body-string)(?: ([0-9]+(?:\.[0-9]+)?))?\]\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Directives:
    """The orders of one prompt."""

    fail_status: int | None = None
    is_refused: bool = False
    is_truncated: bool = False
    slow_s: float = 0.0
    is_body_string: bool = False


NO_DIRECTIVES = Directives()


def directives_in(text: str) -> Directives:
    """The orders in a text; what is not one of ours is plain text."""
    if "[[local:" not in text:
        return NO_DIRECTIVES
    found = {match[1]: match[2] for match in _ORDER.finditer(text)}
    status = float(found["fail"] or 500) if "fail" in found else None
    return Directives(
        fail_status=int(status) if status is not None and 400 <= status <= 599 else None,
        is_refused="refuse" in found,
        is_truncated="truncate" in found,
        slow_s=min(float(found.get("slow") or 0), MAX_SLOW_S),
        is_body_string="body-string" in found,
    )
