"""What a run may still spend: `budget.max_cost` bounds all that it sends, and not its plan alone.

A plan takes each request once, and passes the gate by that. What the same run sends again (a failure that
may pass, a cut answer with a larger limit) costs again where the server billed the sending before, which its
counts say, whichever run collected it. So nothing more goes out unless three sums stay within the bound
together: what the run has paid and its own requests have cost, the most that all may cost for which no count
has come, and the most that the new may cost. No count has come for what is on its way or held, for an answer
that told of no usage, and for a request that no result file speaks of (`unaccounted`): that may have been
billed. Any other failure without usage was not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from runner.commands.workplace import Workplace
from runner.core.planning import BYTES_PER_TOKEN, Estimate, cost_of, shown_cost
from runner.core.raising import output_bound
from runner.core.states import ShardState
from runner.core.wire import decode_json
from runner.ledger import Ledger, ShardRecord

_BODY = b'"body":'
_NEVER_SENT = frozenset({ShardState.DISCARDED, ShardState.REFUSED})


class Allowance:
    """Takes what is to be sent, request by request, as long as it fits.

    `refused` counts what did not. What was spent before is only looked up when something is to be sent.
    """

    def __init__(self, workplace: Workplace, ledger: Ledger, *, run_id: int, manifest_id: int) -> None:
        manifest = workplace.manifest
        self._prices = manifest.model.prices
        is_free = workplace.provider.is_local and self._prices is None
        most = manifest.budget.max_cost
        self._most = math.inf if is_free or most is None else most
        self._ledger = ledger
        self._folder = workplace.place.folder
        self._run_id = run_id
        self._manifest_id = manifest_id
        self._has_looked = False
        self._is_known = True
        self._counted_input = 0
        self._bytes = 0
        self._output = 0
        self.refused = 0

    def takes(self, line: bytes) -> bool:
        """Whether one more request, by its line, fits; it counts from now on then."""
        return self._most == math.inf or self._takes(*_bound(line), requests=1)

    def takes_every(self, lines: Iterable[bytes]) -> bool:
        """Whether all these requests, by their lines, fit together."""
        if self._most == math.inf:
            return True
        bounds = [_bound(line) for line in lines]
        output = [most for _, most in bounds if most is not None]
        is_bounded = len(output) == len(bounds)
        size_bytes = sum(size for size, _ in bounds)
        return self._takes(size_bytes, sum(output) if is_bounded else None, requests=len(bounds))

    def takes_all(self, expected: Estimate, requests: int) -> bool:
        """Whether so many more fit together."""
        size_bytes = expected.input_tokens * BYTES_PER_TOKEN
        return self._most == math.inf or self._takes(size_bytes, expected.output_tokens, requests=requests)

    @property
    def text(self) -> str:
        """The bound, and how far it is used up, for people."""
        cost = self._cost(0, 0)
        spent = "what was spent is unknown" if cost == math.inf else f"{shown_cost(cost)} is paid or may be"
        return f"{spent}, and budget.max_cost is {self._most:g}"

    def _takes(self, size_bytes: int, output_tokens: int | None, *, requests: int) -> bool:
        if not self._has_looked:
            self._look()
        if output_tokens is None or self._cost(size_bytes, output_tokens) > self._most:
            self.refused += requests
            return False
        self._bytes += size_bytes
        self._output += output_tokens
        return True

    def _cost(self, size_bytes: int, output_tokens: int) -> float:
        """What all that was taken and so much more costs at most; infinite where nobody knows."""
        if self._prices is None or not self._is_known:
            return math.inf
        input_tokens = self._counted_input + (self._bytes + size_bytes) // BYTES_PER_TOKEN
        return cost_of(input_tokens, self._output + output_tokens, self._prices)

    def _look(self) -> None:
        """What was spent before anything more is sent."""
        self._has_looked = True
        self._counted_input, self._output = self._ledger.spent(self._run_id)
        elsewhere = self._ledger.bought_elsewhere(self._run_id, self._manifest_id)
        for record in (*filter(self._is_of_now, self._ledger.shards(self._manifest_id)), *elsewhere):
            for line in self._without_count(record):
                size_bytes, most = (0, None) if line is None else _bound(line)
                self._bytes += size_bytes
                self._output += most or 0
                self._is_known = self._is_known and most is not None

    def _is_of_now(self, record: ShardRecord) -> bool:
        """Whether it may have to be paid while this run works."""
        return record.state is not ShardState.DONE or record.run_id == self._run_id

    def _without_count(self, record: ShardRecord) -> Iterator[bytes | None]:
        """The lines of a shard that may have to be paid and for which no count has come; None where they
        can't be read."""
        if record.state in _NEVER_SENT:
            return
        wanted = frozenset(self._ledger.lines_without_count(record.shard_id))
        if wanted:
            yield from _lines(self._folder / record.path, wanted)


def _lines(path: Path, wanted: Collection[int]) -> Iterator[bytes | None]:
    try:
        with path.open("rb") as file:
            yield from (line for number, line in enumerate(file) if number in wanted)
    except FileNotFoundError:
        yield None


def _bound(line: bytes) -> tuple[int, int | None]:
    """The bytes of a request's body, and the most output that it may be billed for (None: unbounded)."""
    value = decode_json(line)
    size_bytes = len(line) - line.index(_BODY) - len(_BODY) - len(b"}\n")
    return size_bytes, output_bound(value["url"], value["body"])
