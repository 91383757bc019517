"""Which rows a run is about: `--only`, `--where`, `--sample`, `--limit`.

A narrowed run sends less; it changes nothing about what rows there are. Rows left out keep the answers
they have, and are pending where they have none.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from runner.commands.options import Narrowing
from runner.core.model import Fingerprint
from runner.core.planning import Held, is_unasked, lacks_success
from runner.dataset import select_rows


def selection_of(narrowing: Narrowing, snapshot: str, rows: int) -> Selection:
    """The conditions worked out over the snapshot at a path. Raises InputError for a wrong `where`."""
    where, sample = narrowing.where, narrowing.sample
    chosen = select_rows(snapshot, where, rows) if where is not None else None
    if sample is not None:
        chosen = _sampled(chosen, rows, sample, narrowing.seed)
    return Selection(narrowing, chosen)


def _sampled(chosen: bytearray | None, rows: int, size: int, seed: int) -> bytearray:
    """`size` of the chosen rows, by chance. One byte a row."""
    candidates = range(rows) if chosen is None else [position for position in range(rows) if chosen[position]]
    picked = random.Random(seed).sample(candidates, min(size, len(candidates)))  # noqa: S311
    sampled = bytearray(rows)
    for position in picked:
        sampled[position] = 1
    return sampled


class Selection:
    """Asked row by row, in order; counts towards the limit."""

    def __init__(self, narrowing: Narrowing, chosen: bytearray | None) -> None:
        self._narrowing = narrowing
        self._chosen = chosen
        self._taken = 0
        self._last_taken: int | None = None

    @property
    def takes_all(self) -> bool:
        """Whether nothing is narrowed."""
        return self._narrowing.takes_all

    @property
    def fits_none(self) -> bool:
        """Whether there is a `where`, and no row fits it."""
        return self._narrowing.where is not None and self._chosen is not None and not any(self._chosen)

    @property
    def asks_before(self) -> bool:
        """Whether `takes` needs the rows of the last run."""
        return self._narrowing.only in ("new", "changed")

    def takes(
        self,
        position: int,
        key: str,
        fingerprint: Fingerprint,
        held: Held | None,
        before: Mapping[str, bytes | None],
    ) -> bool:
        """Whether the run is about this row."""
        if self._chosen is not None and not self._chosen[position]:
            return False
        if not self._fits(key, fingerprint, held, before):
            return False
        if position == self._last_taken:
            return True  # another repeat of this row
        if self._narrowing.limit is not None and self._taken >= self._narrowing.limit:
            return False
        self._taken += 1
        self._last_taken = position
        return True

    def _fits(
        self, key: str, fingerprint: Fingerprint, held: Held | None, before: Mapping[str, bytes | None]
    ) -> bool:
        is_left_out = key in before and before[key] == fingerprint and is_unasked(held)
        match self._narrowing.only:
            case "failed":
                return held is not None and lacks_success(held)
            case "new":
                return key not in before or is_left_out
            case "changed":
                return is_left_out or (key in before and before[key] != fingerprint)
            case None:
                return True
