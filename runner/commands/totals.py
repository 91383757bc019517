"""What a results table holds, in figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from runner.core.model import Status


@dataclass(slots=True)
class Totals:
    """What the published table holds: rows by status. Tokens and cost count each request once, because
    rows that share one share its price. `raw_paths` are the raw files that its answers stand in,
    `refresh_failed` rows that keep an earlier answer because asking again failed, `oldest_s` when the
    oldest of its answers was given (0 where one doesn't say; None without answers).
    """

    by_status: Counter[Status] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    rows: int = 0
    refresh_failed: int = 0
    oldest_s: float | None = None
    raw_paths: set[str] = field(default_factory=set)
