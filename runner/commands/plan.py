"""`run plan MANIFEST`: what a run would do, before anything is spent. Leaves no files, uses no network."""

from __future__ import annotations

from dataclasses import dataclass

from runner.commands.examples import Example, examples
from runner.commands.moments import Reporter
from runner.commands.options import PlanDigests, RunOptions
from runner.commands.planning import prepared
from runner.commands.workplace import limit_warnings, open_workplace
from runner.core.planning import Plan
from runner.errors import Mistake
from runner.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """The plan, causes of rows that can't be sent, and what the plan rests on.

    `examples` are rows whose request changed, where they were asked for; `warnings` what has no effect, or is
    perhaps not meant.
    """

    plan: Plan
    causes: tuple[str, ...]
    digests: PlanDigests
    examples: tuple[Example, ...] = ()
    warnings: tuple[Mistake, ...] = ()


def plan(options: RunOptions, *, reporter: Reporter, most_examples: int = 0) -> PlanResult:
    """Compare the manifest with the ledger; at most so many examples. Raises InputError, LedgerError."""
    workplace = open_workplace(options.manifest, options.environ)
    ledger = Ledger.open_reading(workplace.place)
    try:
        with prepared(
            workplace,
            ledger,
            options,
            write_shards=False,
            reporter=reporter,
            check_stop=lambda: None,
        ) as prepared_plan:
            found = examples(workplace, ledger, prepared_plan, most_examples) if most_examples else ()
            return PlanResult(
                plan=prepared_plan.plan,
                causes=prepared_plan.causes,
                digests=prepared_plan.digests,
                examples=found,
                warnings=(*limit_warnings(workplace.manifest), *prepared_plan.warnings),
            )
    finally:
        if ledger is not None:
            ledger.close()
