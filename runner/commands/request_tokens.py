"""Tokens of the requests behind rows, each request counted once, however many rows share it.

Rows that share a request may be looked at by different processes. So nobody adds up but one: whoever looks at
rows says which requests they have and what each took (`RequestTokens`), and the sums know which were counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from runner.ledger import Place, StoredRow, StoredRows

_REQUEST, _FAILED_SHARD = Place.REQUEST, Place.FAILED_SHARD
_INPUT, _OUTPUT = Place.INPUT_TOKENS, Place.OUTPUT_TOKENS
_GROWS_BYTES = 1 << 16


class RequestTokens(NamedTuple):
    """The requests of some rows, each once, and what the answer (or failure) that they hold took; and how
    many of the rows keep an earlier answer because asking again failed."""

    requests: Sequence[int]
    inputs: Sequence[int]
    outputs: Sequence[int]
    failed_since: int


def request_tokens(stored: StoredRows) -> RequestTokens:
    """What these rows have."""
    asked: dict[int, StoredRow] = {}
    failed_since = 0
    for values in stored.rows:
        request_id = values[_REQUEST]
        if request_id is None:
            continue
        if values[_FAILED_SHARD] is not None:
            failed_since += 1
        asked[request_id] = values
    inputs = [values[_INPUT] or 0 for values in asked.values()]
    outputs = [values[_OUTPUT] or 0 for values in asked.values()]
    return RequestTokens(list(asked), inputs, outputs, failed_since)


@dataclass(slots=True)
class Tokens:
    """Sums over rows. Memory: a bit for each request of the ledger."""

    input: int = 0
    output: int = 0
    failed_since: int = 0
    _counted: bytearray = field(default_factory=bytearray)

    def count(self, more: RequestTokens) -> None:
        """More rows, which may share requests with those before."""
        self.failed_since += more.failed_since
        counted = self._counted
        for request_id, taken, given in zip(more.requests, more.inputs, more.outputs, strict=True):
            place, bit = request_id >> 3, 1 << (request_id & 7)
            if place >= len(counted):
                counted.extend(bytes(place + _GROWS_BYTES - len(counted)))
            if counted[place] & bit:
                continue
            counted[place] |= bit
            self.input += taken
            self.output += given
