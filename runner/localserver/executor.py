"""The executor: populates batches, executes their requests, records results. One process at a time.

Theory
- The role belongs to whoever holds the lock on `executor.lock`. The operating system frees it when the
  holder dies, however it dies; the others ask for it every `TAKEOVER_INTERVAL_S`.
- Truth is in the database. A request is pending until its result is recorded, in one transaction with the
  witness. What a dead holder was working on is pending again for the next: a local answer that was not
  recorded was seen by nobody; an upstream call can happen twice, its result is recorded once.
- Local answers need no waiting: they are computed and recorded in groups, one transaction each. Slow ones
  (`request_latency_s`, `[[local:slow N]]`) and upstream calls are marked in flight and recorded when done.
- Requests run in the order of their random ids: results never come in input order, as on the real service.

    run -> _hold_role -> _work: populate -> _execute (claim, answer, record) -> _finalise
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256

from runner.core.wire import decode_json, encode_json
from runner.localserver.answers import Answer, answer
from runner.localserver.batches_table import batch_by_seq, finished_without_stamp, stamp_if_finished
from runner.localserver.database import now_us
from runner.localserver.faults import KINDS, Point
from runner.localserver.requests_table import (
    Claim,
    Outcome,
    batches_to_populate,
    claim_requests,
    fail_at_start,
    open_batches,
    populate,
    record_outcomes,
    release_in_flight,
    settle_if_done,
)
from runner.localserver.result_lines import decoded_body, error_line, http_error_line, output_line, usage_of
from runner.localserver.site import Site
from runner.localserver.upstream import Upstream, UpstreamResult

TAKEOVER_INTERVAL_S = 0.2
POLL_INTERVAL_S = 0.1
GROUP_SIZE = 500
STOP_WAIT_S = 3.0

_log = logging.getLogger(__name__)


class Executor:
    """A thread that wants the role and does the work while it has it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="executor", daemon=True)
        self._waiting: list[tuple[float, int, Outcome]] = []
        self._count = itertools.count()
        self._last_us = 0
        self._next_finalise_s = 0.0
        self._upstream = Upstream(site.settings) if site.settings.upstream else None
        self._upstream_claims: dict[int, tuple[Claim, str, int]] = {}

    def start(self) -> None:
        """Begin to want the role."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the group at hand and give the role back; bounded."""
        self._stopping.set()
        self._site.bell.set()
        if self._upstream is not None:
            self._upstream.stop()
        self._thread.join(STOP_WAIT_S)

    def _run(self) -> None:
        lock = os.open(self._site.state_dir / "executor.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not self._stopping.is_set():
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    self._stopping.wait(TAKEOVER_INTERVAL_S)
                    continue
                self._hold_role()
        finally:
            os.close(lock)

    def _hold_role(self) -> None:
        with self._site.database.write() as connection:
            release_in_flight(connection)
        while not self._stopping.is_set():
            self._site.bell.clear()
            try:
                is_busy = self._work()
            except (sqlite3.Error, OSError) as error:
                _log.warning("the executor could not go on and tries again: %s", error)
                is_busy = False
                self._stopping.wait(POLL_INTERVAL_S)
            if not is_busy:
                self._site.bell.wait(self._pause_s())

    def _pause_s(self) -> float:
        if not self._waiting:
            return POLL_INTERVAL_S / 5 if self._upstream_claims else POLL_INTERVAL_S
        return min(POLL_INTERVAL_S, max(self._waiting[0][0] - time.monotonic(), 0.001))

    def _work(self) -> bool:
        """One round; did it find anything to do?"""
        populated = self._populate()
        self._record(self._due())
        executed = self._execute()
        self._finalise()
        return populated or executed

    def _populate(self) -> bool:
        due_us = now_us() - round(self._site.settings.validating_delay_s * 1_000_000)
        with self._site.database.read() as connection:
            waiting = batches_to_populate(connection, due_us)
        for batch, batch_id, metadata in waiting:
            fault = self._site.faults.take(Point.START, batch_id, metadata)
            with self._site.database.write() as connection:
                if fault is None:
                    populate(connection, batch, now_us())
                else:
                    fail_at_start(connection, batch, now_us())
        return bool(waiting)

    def _execute(self) -> bool:
        with self._site.database.read() as connection:
            batches = open_batches(connection)
        has_worked = False
        for batch in batches:
            if self._stopping.is_set():
                return False
            free = self._free()
            if free <= 0:
                break
            has_worked = self._execute_some(batch, free) or has_worked
        return has_worked

    def _free(self) -> int:
        settings = self._site.settings
        if self._upstream is not None:
            return settings.upstream_concurrency - len(self._upstream_claims)
        if settings.request_latency_s > 0:
            return settings.concurrency - len(self._waiting)
        return GROUP_SIZE

    def _execute_some(self, batch: int, limit: int) -> bool:
        is_slow = self._upstream is not None or self._site.settings.request_latency_s > 0
        if is_slow:
            with self._site.database.write() as connection:
                claims = claim_requests(connection, batch, limit, mark=True)
                settle_if_done(connection, batch)
        else:
            with self._site.database.read() as connection:
                claims = claim_requests(connection, batch, limit, mark=False)
            if not claims:
                with self._site.database.write() as connection:
                    settle_if_done(connection, batch)
        if claims:
            self._answer(claims, self._bodies(claims))
        return bool(claims)

    def _bodies(self, claims: list[Claim]) -> list[bytes]:
        with self._site.input_path(claims[0].file_id).open("rb") as source:
            handle = source.fileno()
            return [os.pread(handle, claim.body_size, claim.body_start) for claim in claims]

    def _answer(self, claims: list[Claim], bodies: list[bytes]) -> None:
        if self._upstream is not None:
            for claim, body in zip(claims, bodies, strict=True):
                self._upstream_claims[claim.seq] = (claim, sha256(body).hexdigest(), now_us())
                self._upstream.submit(claim.seq, claim.url, body, claim.expires_us)
            return
        ready: list[Outcome] = []
        slow: list[Claim] = []
        for claim, body in zip(claims, bodies, strict=True):
            given = answer(claim.url, decode_json(body))
            outcome = _outcome(claim, given, sha256(body).hexdigest())
            delay_s = self._site.settings.request_latency_s + given.delay_s
            if delay_s > 0:
                entry = (time.monotonic() + delay_s, next(self._count), outcome)
                heapq.heappush(self._waiting, entry)
                slow.append(claim)
            else:
                ready.append(outcome)
        self._record(ready, in_flight=slow)

    def _due(self) -> list[Outcome]:
        """Outcomes whose time has come."""
        due: list[Outcome] = []
        now_s = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now_s:
            due.append(heapq.heappop(self._waiting)[2])
        if self._upstream is not None:
            for result in self._upstream.finished():
                claim, body_sha256, started_us = self._upstream_claims.pop(result.token)
                due.append(_upstream_outcome(claim, result, body_sha256, now_us() - started_us))
        return due

    def _record(self, outcomes: list[Outcome], in_flight: Iterable[Claim] = ()) -> None:
        """Record results in one transaction; times of finishing are distinct and ascend."""
        marked = [(claim.seq,) for claim in in_flight]
        if not outcomes and not marked:
            return
        outcomes = self._as_told(outcomes)
        stamped = self._hold_back([self._stamped(outcome) for outcome in outcomes])
        marked += [(outcome.claim.seq,) for outcome in outcomes[: len(outcomes) - len(stamped)]]
        with self._site.database.write() as connection:
            connection.executemany("UPDATE request SET state = 1 WHERE seq = ? AND state = 0", marked)
            record_outcomes(connection, stamped, now_us())
            for batch in {outcome.claim.batch for outcome in stamped}:
                settle_if_done(connection, batch)

    def _stamped(self, outcome: Outcome) -> Outcome:
        """A finishing time for a result; one that was held back keeps the time it had."""
        if outcome.finished_us:
            return outcome
        self._last_us = max(now_us(), self._last_us + 1)
        return replace(outcome, finished_us=self._last_us)

    def _as_told(self, outcomes: list[Outcome]) -> list[Outcome]:
        """The faults of the point `answer`: a request has failed. What was held back was told before."""
        if not self._site.faults.has_any(Point.ANSWER):
            return outcomes
        return [outcome if outcome.finished_us else self._failed_by_order(outcome) for outcome in outcomes]

    def _failed_by_order(self, outcome: Outcome) -> Outcome:
        claim = outcome.claim
        fault = self._site.faults.take(Point.ANSWER, claim.batch_id, claim.custom_id)
        act = KINDS[fault.kind].act if fault is not None else None
        if fault is None or act is None:
            return outcome
        return replace(outcome, succeeded=False, line=act(claim.request_id, claim.custom_id, fault.params))

    def _hold_back(self, outcomes: list[Outcome]) -> list[Outcome]:
        """The fault `late-row`: the first of a group is committed later, with its earlier time."""
        if len(outcomes) < 2:
            return outcomes
        fault = self._site.faults.take(Point.RECORD, outcomes[0].claim.batch_id, outcomes[0].claim.custom_id)
        if fault is None:
            return outcomes
        late_s = time.monotonic() + float(fault.params["delay_s"])
        heapq.heappush(self._waiting, (late_s, next(self._count), outcomes[0]))
        return outcomes[1:]

    def _finalise(self) -> None:
        """Now and then, stamp finished batches that nobody has read."""
        if time.monotonic() < self._next_finalise_s:
            return
        self._next_finalise_s = time.monotonic() + self._site.settings.finaliser_interval_s
        with self._site.database.read() as connection:
            unstamped = finished_without_stamp(connection)
        for seq in unstamped:
            with self._site.database.write() as connection:
                batch = batch_by_seq(connection, seq, now_us())
                if batch is not None:
                    stamp_if_finished(connection, batch, now_us())


def _outcome(claim: Claim, given: Answer, body_sha256: str) -> Outcome:
    succeeded = given.status < 400
    if succeeded:
        line = output_line(claim.request_id, claim.custom_id, given.status, given.body)
    else:
        body = given.body if isinstance(given.body, str) else encode_json(given.body).decode()
        line = http_error_line(claim.request_id, claim.custom_id, given.status, body)
    return Outcome(
        claim=claim,
        succeeded=succeeded,
        line=line,
        prompt_tokens=given.prompt_tokens,
        completion_tokens=given.completion_tokens,
        duration_us=round(given.delay_s * 1_000_000),
        finished_us=0,
        body_sha256=body_sha256,
    )


def _upstream_outcome(claim: Claim, result: UpstreamResult, body_sha256: str, duration_us: int) -> Outcome:
    prompt_tokens = completion_tokens = 0
    if result.error is not None:
        kind, details = result.error
        line = error_line(claim.request_id, claim.custom_id, kind, details)
    elif result.status >= 400:
        text = result.body.decode("utf-8", errors="replace")
        line = http_error_line(claim.request_id, claim.custom_id, result.status, text)
    else:
        body = decoded_body(result.body)
        line = output_line(claim.request_id, claim.custom_id, result.status, body)
        prompt_tokens, completion_tokens = usage_of(body)
    return Outcome(
        claim=claim,
        succeeded=result.error is None and result.status < 400,
        line=line,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        duration_us=duration_us,
        finished_us=0,
        body_sha256=body_sha256,
    )
