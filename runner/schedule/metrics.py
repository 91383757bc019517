"""What a serving schedule counts, for Prometheus. The home of prometheus_client.

Figures are of this process alone and begin with 0; what lasts is in the ledger. Names end in their units,
counters in `_total`; the only labels are small sets of words, and manifests by name.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from runner.commands.moments import Finished
from runner.core.model import Status
from runner.schedule.reports import TickReport

CONTENT_TYPE = CONTENT_TYPE_LATEST
_TICK_BUCKETS_S = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)


class Metrics:
    """Every figure, in a registry of its own. Any thread may count and read."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._ticks = Counter("runner_ticks", "Ticks, by how they ended.", ["outcome"], registry=registry)
        self._tick_s = Histogram(
            "runner_tick_seconds", "How long ticks took.", buckets=_TICK_BUCKETS_S, registry=registry
        )
        self._last_tick = Gauge(
            "runner_last_tick_timestamp_seconds", "When the last tick ended.", registry=registry
        )
        self._next_due = Gauge(
            "runner_next_due_timestamp_seconds", "The earliest due time to come, or 0.", registry=registry
        )
        self._open_runs = Gauge("runner_open_runs", "Runs that are under way.", registry=registry)
        self._due = Counter(
            "runner_due_times",
            "Due times, by what became of them.",
            ["manifest", "outcome"],
            registry=registry,
        )
        self._runs = Counter(
            "runner_runs_ended", "Runs that ended, by how.", ["manifest", "outcome"], registry=registry
        )
        self._rows = Counter(
            "runner_rows", "Rows of the tables of runs that ended.", ["manifest", "status"], registry=registry
        )
        self._requests = Counter(
            "runner_requests_sent", "Requests of runs that ended.", ["manifest"], registry=registry
        )
        self._cost = Counter(
            "runner_paid_cost", "What runs that ended have paid.", ["manifest", "currency"], registry=registry
        )
        self._problems = Counter(
            "runner_problems", "Problems that were not there a tick before.", ["manifest"], registry=registry
        )
        self._failing = Gauge(
            "runner_failing_manifests", "Manifests that the last tick had trouble with.", registry=registry
        )
        self._webhooks = Counter(
            "runner_webhooks", "Webhooks, by what became of them.", ["outcome"], registry=registry
        )
        for outcome in ("done", "failed"):
            self._ticks.labels(outcome)

    def as_text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self._registry)

    def count_webhook(self, outcome: str) -> None:
        """`accepted`, `duplicate`, `ignored` or `refused`."""
        self._webhooks.labels(outcome).inc()

    def tick_failed(self, *, ended_s: float, took_s: float) -> None:
        """A tick that could do nothing at all."""
        self._tick_ended("failed", ended_s, took_s)

    def tick_done(self, report: TickReport, *, ended_s: float, took_s: float, is_whole: bool) -> None:
        """What a tick did; not `is_whole`: it looked at some manifests alone, not at all of them."""
        self._tick_ended("done", ended_s, took_s)
        for outcome in ("started", "skipped", "missed"):
            for one in getattr(report, outcome):
                self._due.labels(one.name, outcome).inc()
        ended = [run.finished for run in report.started] + [run.finished for run in report.advanced]
        for finished in ended:
            if finished is not None:
                self._run_ended(finished)
        for problem in report.failed:
            if problem.is_new:
                self._problems.labels(problem.name).inc()
        if is_whole:
            self._failing.set(len({problem.manifest for problem in report.failed}))
            self._open_runs.set(report.open_runs)
            self._next_due.set(report.next_due_at.timestamp() if report.next_due_at is not None else 0)

    def _tick_ended(self, outcome: str, ended_s: float, took_s: float) -> None:
        self._ticks.labels(outcome).inc()
        self._tick_s.observe(took_s)
        self._last_tick.set(ended_s)

    def _run_ended(self, finished: Finished) -> None:
        name = finished.manifest
        self._runs.labels(name, "failed" if finished.exit_code else "completed").inc()
        for status in Status:
            count = int(getattr(finished, status.value))
            if count:
                self._rows.labels(name, status.value).inc(count)
        self._requests.labels(name).inc(finished.requests_sent)
        if finished.paid_cost is not None:
            self._cost.labels(name, finished.currency or "").inc(finished.paid_cost)
