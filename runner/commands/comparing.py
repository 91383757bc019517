"""Piece by piece: what each row wants against what the ledger holds, into staging and shards.

The decisions are the core's (`stand`, `Policy`); here they are asked for every row of every piece, and
what is to be sent gets its place in a shard. Memory: one piece.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, pairwise

from runner.commands.keeping import Keeper, StandingOf
from runner.commands.narrowing import Selection
from runner.commands.rendering import Piece, Rendered
from runner.commands.sharding import SealedShard, Shards
from runner.commands.workplace import Workplace
from runner.core.identity import RequestShape, custom_id, key_part
from runner.core.model import Cause, Fingerprint
from runner.core.planning import (
    Estimate,
    Held,
    Plan,
    Policy,
    Reason,
    Standing,
    estimate,
    is_unasked,
    stand,
)
from runner.core.raising import is_climbed, output_bound
from runner.core.settling import due_s
from runner.ledger import Comparison as Compared
from runner.ledger import LastRow, Ledger, StagedBlock, StagedRow, Staging

LINE_OVERHEAD_BYTES = 256
"""More than a line can add to its body: custom_id, method, url, punctuation."""
_CAUSES_SHOWN = 5
AS_IT_IS = Policy(max_attempts=0)
"""Asks nothing again."""
_WORDS = {standing: standing.value for standing in Standing}
_UNASKED = _WORDS[Standing.UNASKED]


@dataclass(slots=True)
class _Want:
    """A request that a row wants, with its place among the staged rows, and how it stands now."""

    index: int
    fingerprint: Fingerprint
    known: Held | None
    name: str
    body: bytes
    due_s: float
    rung: int


@dataclass(slots=True)
class _Asked:
    """A row as it is asked now: `rung` steps up the ladder of token limits; `below` is one step less."""

    row: Rendered
    rung: int = 0
    below: Rendered | None = None


class Comparison:
    """Takes rendered pieces in order; knows the plan at the end."""

    def __init__(
        self,
        workplace: Workplace,
        ledger: Ledger | None,
        staging: Staging,
        shards: Shards,
        *,
        policy: Policy,
        selection: Selection,
        taken_back: Container[int] = (),
        only_raised: bool = False,
        cut_in: Container[int] | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """`taken_back`: requests in shards that were never sent, which a run plans anew. `only_raised`: send
        nothing but what asks again for an answer that was cut at the token limit, and with `cut_in` only for
        one that was asked in these shards. `keeper`: where rows that are what they were need not be compared
        (see `may_keep`)."""
        self._manifest = workplace.manifest
        self._provider = workplace.provider
        self._ledger = ledger
        # Whoever asks something in the meantime is seen when the plan is committed.
        self._is_new = ledger is None or not ledger.has_requests()
        self._staging = staging
        self._shards = shards
        self._policy = policy
        self._selection = selection
        self._taken_back = taken_back
        self._only_raised = only_raised
        self._cut_in = cut_in
        self._keeper = keeper
        self._backoff = workplace.backoff
        self._now_s = time.time()
        self._ladder = [workplace.shape(parameters) for parameters in workplace.ladder]
        endpoint = workplace.manifest.model.endpoint
        self._bounds = [output_bound(endpoint, parameters) for parameters in workplace.ladder]
        self._shape = self._ladder[0]
        self._line_bytes = self._shape.line_bytes("")
        self._raised = 0
        self._extra_tokens = 0
        self._body_most = workplace.provider.limits.max_body_bytes
        self._body_limit = workplace.provider.limits.max_file_bytes - LINE_OVERHEAD_BYTES
        self._body_bytes = 0
        self._cause_counts: Counter[str] = Counter()
        self._next_row = 0
        self.rows = 0
        self.causes: list[str] = []

    @property
    def fits_none(self) -> bool:
        """Whether the run's `where` leaves every row out."""
        return self._selection.fits_none

    def add(self, piece: Piece) -> None:
        """Take the next rows."""
        if piece.start != self._next_row:
            raise AssertionError(f"rows {self._next_row} to {piece.start - 1} were not rendered")
        self._next_row += len(piece.keys)
        if self._manifest.repeats > 1:
            rendered = [one for row in piece.rows(self._shape) for one in self._repeated(row)]
            self._compare(rendered, self._held(_fingerprints(rendered)))
            return
        if self._keeper is not None and len(
            others := self._keeper.others(piece, self._standings_in(piece))
        ) < len(piece.keys):
            self.rows += len(piece.keys) - len(others)
            if others:
                rendered = list(piece.rows(self._shape, others))
                self._compare(rendered, self._held(_fingerprints(rendered)))
            return
        fingerprints = piece.fingerprints_made()
        held = self._held(fingerprints)
        if not held and self._takes_whole(piece):
            self._add_unasked(piece, fingerprints)
        elif len(self._ladder) == 1 and self._takes_whole(piece):
            self._compare(self._unsettled(piece, fingerprints, held), held)
        else:
            self._compare(list(piece.rows(self._shape)), held)

    def standing_of(self, rows: Sequence[LastRow]) -> list[tuple[LastRow, Standing]]:
        """Rows that ask what they asked in the last run, each as its request stands now."""
        known = self._known([row.fingerprint for row in rows if row.fingerprint is not None])
        return [(row, stand(known.get(row.fingerprint or b""), self._policy)) for row in rows]

    def _standings_in(self, piece: Piece) -> StandingOf:
        """`standing_of` for rows of this piece, but for those that a file may be too small for."""

        def standings(rows: Sequence[LastRow]) -> list[tuple[LastRow, Standing]]:
            sizes = (piece.line_bytes[row.position - piece.start] for row in rows)
            fits = [size <= self._body_limit for size in sizes]
            return self.standing_of(list(compress(rows, fits)))

        return standings

    def add_differing(self, start: int, stop: int, rendered: Sequence[Rendered]) -> None:
        """Take the next rows [start, stop), of which all but these are kept."""
        if start != self._next_row:
            raise AssertionError(f"rows {self._next_row} to {start - 1} were not rendered")
        self._next_row = stop
        self.rows += stop - start - len(rendered)
        if rendered:
            self._compare(rendered, self._held(_fingerprints(rendered)))

    # ------------------------------------------------------------ rows that have what they want

    def _unsettled(
        self, piece: Piece, fingerprints: Sequence[Fingerprint], held: dict[bytes, Held]
    ) -> list[Rendered]:
        """Stage the rows for which nothing is to be done; gives the others."""
        staged: list[StagedRow] = []
        others = list(piece.causes)
        for place, fingerprint in zip(piece.places_made(), fingerprints, strict=True):
            known = held.get(fingerprint)
            standing = stand(known, self._policy)
            if standing is Standing.TO_SEND:
                others.append(place)
            else:
                key = piece.keys[place]
                staged.append(
                    StagedRow(piece.start + place, key, fingerprint, _WORDS[standing], None, None, None)
                )
        self._staging.add_rows(staged)
        self.rows += len(staged)
        return list(piece.rows(self._shape, sorted(others)))

    # ------------------------------------------------------------ rows that nobody asked before

    def _takes_whole(self, piece: Piece) -> bool:
        """Whether every row that has a request is to be sent, where none of them is known."""
        is_narrowed = not self._selection.takes_all or self._only_raised
        return not is_narrowed and max(piece.line_bytes, default=0) <= self._body_limit

    def _add_unasked(self, piece: Piece, fingerprints: Sequence[Fingerprint]) -> None:
        """What `_compare` and `_place` do row by row, for a whole piece (a property test compares them)."""
        places: Sequence[int] = piece.places_made()
        staged = [
            self._unsendable(Rendered(piece.start + place, piece.keys[place], "", b"", None, cause), cause)
            for place, cause in piece.causes.items()
        ]
        claims = self._staging.claim(fingerprints)
        if not all(claims):
            staged += [
                StagedRow(piece.start + place, piece.keys[place], same, _UNASKED, None, None, None)
                for place, same, is_first in zip(places, fingerprints, claims, strict=True)
                if not is_first
            ]
            places = list(compress(places, claims))
            fingerprints = list(compress(fingerprints, claims))
        lines, sizes = piece.lines_at(places)
        keys = [piece.keys[place] for place in places]
        names = keys if not piece.names else [piece.name(place) for place in places]
        runs = self._shards.place_run(lines, sizes)
        self._body_bytes += len(lines) - sum(map(len, names)) - len(names) * self._line_bytes
        self._staging.add_block(
            StagedBlock(
                positions=[piece.start + place for place in places],
                keys=keys,
                fingerprints=b"".join(fingerprints),
                names=names,
                places=[(run.shard, run.line, run.lines) for run in runs],
            )
        )
        self._staging.add_rows(staged)
        self.rows += len(piece.keys)

    # ------------------------------------------------------------ row by row

    def _compare(self, rendered: Sequence[Rendered], held: dict[bytes, Held]) -> None:
        """What each row wants against what is known of it."""
        before = self._before(rendered)
        staged: list[StagedRow] = []
        wants: list[_Want] = []
        climbed = self._climbed(rendered, held)
        shards = self._shards_of_cut(climbed, held)
        for asked in climbed:
            one = asked.row
            cause = one.cause or self._too_large(one)
            if cause is not None or one.fingerprint is None:
                staged.append(self._unsendable(one, cause))
                continue
            known = held.get(one.fingerprint)
            standing = stand(known, self._policy)
            seen = known or self._below(asked, held)
            takes = self._selection.takes(self._row_of(one), one.key, one.fingerprint, seen, before)
            if standing is Standing.TO_SEND and takes and self._is_to_go(asked, known, held, shards):
                name = known.name if known is not None else one.name
                wants.append(
                    _Want(len(staged), one.fingerprint, known, name, one.body, self._due_s(known), asked.rung)
                )
            elif standing is Standing.TO_SEND and known is not None and known.status is not None:
                standing = stand(known, AS_IT_IS)  # left out of a narrowed run: it keeps what it has
            elif standing is Standing.TO_SEND and asked.below is not None:
                one, standing = asked.below, Standing.ANSWERED  # left out: it keeps the answer that was cut
            if standing is Standing.TO_SEND and is_unasked(known):
                standing = Standing.UNASKED
            staged.append(StagedRow(one.position, one.key, one.fingerprint, standing.value, None, None, None))
        self._place(staged, wants)
        self._staging.add_rows(staged)
        self.rows += len(rendered)

    def _repeated(self, row: Rendered) -> Sequence[Rendered]:
        """A row once for each repeat: positions and keys of its own, the same body.

        The first repeat is the row itself, so that raising `repeats` keeps its answer.
        """
        repeats = self._manifest.repeats
        if repeats == 1:
            return (row,)
        return [
            row._replace(
                position=row.position * repeats + number,
                key=repeat_key(row.key, number + 1),
                name=row.name if number == 0 else key_part(repeat_key(row.key, number + 1)),
                fingerprint=None if row.cause else self._shape.fingerprint(row.body, number + 1),
            )
            for number in range(repeats)
        ]

    def _climbed(self, rendered: Sequence[Rendered], held: dict[bytes, Held]) -> list[_Asked]:
        """Each row as it is to be asked: where an answer was cut, with the next larger limit. `held` grows
        by what is known of the larger requests."""
        asked = [_Asked(one) for one in rendered]
        climbing = asked
        for lower, upper in pairwise(self._ladder):
            raised = [
                (one, self._with_limit(one.row, known, lower, upper))
                for one in climbing
                if one.row.fingerprint is not None
                and (known := held.get(one.row.fingerprint)) is not None
                and is_climbed(known, None, self._policy)
            ]
            held |= self._held(_fingerprints(row for _, row in raised))
            climbing = []
            for one, row in raised:
                known = held[one.row.fingerprint or b""]
                fits = self._too_large(row) is None and len(row.body) <= self._body_most
                if fits and is_climbed(known, held.get(row.fingerprint or b""), self._policy):
                    one.row, one.rung, one.below = row, one.rung + 1, one.row
                    climbing.append(one)
            if not climbing:
                break
        return asked

    def _below(self, asked: _Asked, held: Mapping[bytes, Held]) -> Held | None:
        """What is known of a row's request with the next smaller limit."""
        below = asked.below.fingerprint if asked.below is not None else None
        return held.get(below) if below is not None else None

    def _shards_of_cut(self, climbed: Sequence[_Asked], held: Mapping[bytes, Held]) -> Mapping[int, int]:
        """In which shards the cut answers of rows were asked, by request; nothing where that is all one."""
        if self._cut_in is None or self._ledger is None:
            return {}
        cut = [known.request_id for asked in climbed if (known := self._below(asked, held)) is not None]
        return self._ledger.answer_shards(cut)

    def _is_to_go(
        self, asked: _Asked, known: Held | None, held: Mapping[bytes, Held], shards: Mapping[int, int]
    ) -> bool:
        """With `only_raised`: larger requests that were never sent. Their failures are repeated otherwise."""
        if not self._only_raised:
            return True
        below = self._below(asked, held)
        if below is None or (known is not None and known.status is not None):
            return False
        return self._cut_in is None or shards.get(below.request_id) in self._cut_in

    def _with_limit(self, row: Rendered, known: Held, lower: RequestShape, upper: RequestShape) -> Rendered:
        """The same row asked with the next limit; under the name that its request has already."""
        body = upper.moved_from(lower, row.body)
        repeat = row.position % self._manifest.repeats + 1
        return row._replace(name=known.name, body=body, fingerprint=upper.fingerprint(body, repeat))

    def _due_s(self, known: Held | None) -> float:
        """When a request that failed may be sent again; 0 where nothing has to be waited for."""
        if known is None or known.status is None or self._policy.retry_failed:
            return 0.0
        if stand(known, AS_IT_IS) is not Standing.FAILED:
            return 0.0
        attempts = known.attempts - known.excused
        return due_s(self._backoff, failed_at_s=known.answered_at_s, attempts=attempts, now_s=self._now_s)

    def _row_of(self, one: Rendered) -> int:
        return one.position // self._manifest.repeats

    def _held(self, fingerprints: Sequence[Fingerprint]) -> dict[bytes, Held]:
        """What is known of requests that rows want which are not kept."""
        held = self._known(fingerprints)
        if self._keeper is not None:
            self._keeper.note(held.values())
        return held

    def _known(self, fingerprints: Sequence[bytes]) -> dict[bytes, Held]:
        if self._ledger is None or self._is_new:
            return {}
        wanted = list(set(fingerprints))
        held = {
            fingerprint: self._as_run_sees(known) for fingerprint, known in self._ledger.held(wanted).items()
        }
        if self._policy.retry_failed_before_s < math.inf and held:
            moments = self._ledger.last_word_at([known.request_id for known in held.values()])
            held = {
                fingerprint: replace(known, last_word_at_s=moments.get(known.request_id))
                for fingerprint, known in held.items()
            }
        if self._policy.refresh_before_s is None or not held:
            return held
        moments = self._ledger.answered_at([known.request_id for known in held.values()])
        return {
            fingerprint: replace(known, answered_at_s=moments.get(known.request_id))
            for fingerprint, known in held.items()
        }

    def _as_run_sees(self, known: Held) -> Held:
        if known.request_id not in self._taken_back:
            return known
        return replace(known, is_open=False, attempts=known.attempts - 1)

    def _before(self, rendered: Sequence[Rendered]) -> Mapping[str, bytes | None]:
        if not self._selection.asks_before:
            return {}
        return self._staging.before([one.key for one in rendered])

    def _place(self, staged: list[StagedRow], wants: list[_Want]) -> None:
        """Of equal requests the first is sent; the others get its answer."""
        claims = self._staging.claim([want.fingerprint for want in wants])
        for want, is_first in zip(wants, claims, strict=True):
            if is_first:
                line = self._shape.line(custom_id(want.name, want.fingerprint), want.body)
                place = self._shards.place(line, want.due_s)
                self._body_bytes += len(want.body)
                self._raised += want.rung > 0
                self._extra_tokens += (self._bounds[want.rung] or 0) - (self._bounds[0] or 0)
                staged[want.index] = staged[want.index]._replace(
                    slot=place.shard,
                    line=place.line,
                    name=want.name,
                    attempts=want.known.attempts if want.known is not None else 0,
                    status=want.known.status if want.known is not None else None,
                )

    def _too_large(self, one: Rendered) -> Cause | None:
        if len(one.body) <= self._body_limit:
            return None
        message = f"the request is {len(one.body):,} bytes; a file may hold {self._body_limit:,}"
        return Cause(error_class="body_too_large", message=message)

    def _unsendable(self, one: Rendered, cause: Cause | None) -> StagedRow:
        cause = cause or Cause(error_class="template_error", message="the row has no request")
        self._cause_counts[cause.error_class] += 1
        if len(self.causes) < _CAUSES_SHOWN:
            self.causes.append(f"row {self._row_of(one) + 1}, key {one.key!r}: {cause.message}")
        return StagedRow(one.position, one.key, None, Standing.UNSENDABLE.value, None, None, cause)

    def seal(self, rows: int) -> Sequence[SealedShard]:
        """No more rows than these, of the dataset: the shards as they are now."""
        if rows != self._next_row or self.rows != rows * self._manifest.repeats:
            raise AssertionError(f"{self._next_row} of {rows} rows were rendered, {self.rows} compared")
        if self._keeper is not None:
            self._keeper.finish(rows)
        return self._shards.seal()

    def plan(self, shards: Sequence[SealedShard], compared: Compared, reasons: tuple[Reason, ...]) -> Plan:
        """The plan, now that every row has been seen and `compared` with the last run's."""
        counts = self._staging.counts()
        requests = sum(shard.requests for shard in shards)
        return Plan(
            manifest=self._manifest.name,
            rows=self.rows,
            unchanged=compared.unchanged,
            new=compared.new,
            changed=compared.changed,
            removed=compared.removed,
            failed_before=counts.get(Standing.FAILED.value, 0),
            in_flight=counts.get(Standing.IN_FLIGHT.value, 0),
            unsendable=counts.get(Standing.UNSENDABLE.value, 0),
            duplicates=self._staging.duplicates() + (self._keeper.duplicates() if self._keeper else 0),
            requests_to_send=requests,
            shards=len(shards),
            size_bytes=sum(shard.size_bytes for shard in shards),
            estimate=self.estimate(requests),
            reasons=reasons,
            causes=dict(self._cause_counts),
            raised=self._raised,
        )

    def estimate(self, requests: int) -> Estimate:
        """What so many requests, the ones placed so far, may cost at most."""
        return estimate(
            body_bytes=self._body_bytes,
            requests=requests,
            max_output_tokens=self._bounds[0],
            prices=self._manifest.model.prices,
            is_free=self._provider.is_local,
            extra_output_tokens=self._extra_tokens,
        )


def _fingerprints(rendered: Iterable[Rendered]) -> list[Fingerprint]:
    return [one.fingerprint for one in rendered if one.fingerprint is not None]


def repeat_key(key: str, repeat: int) -> str:
    """How the ledger names a repeat of a row: the key itself for the first, then `key #2`, `key #3`."""
    return key if repeat == 1 else f"{key} #{repeat}"
