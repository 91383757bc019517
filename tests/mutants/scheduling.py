"""Mutants of schedules: due times that come twice or never, and ticks that pay for more than they should."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_TICK = "e2e/test_schedule_tick.py"
_AGAIN = "e2e/test_schedule_tried_again.py"

SCHEDULING = (
    Mutant(
        name="due-again-in-the-hour-that-comes-twice",
        path="core/due.py",
        old="        if due > last:",
        new="        if due != last:",
        kills=("unit/test_core_due.py::test_it_is_due_once_in_autumn_whenever_one_looks",),
    ),
    Mutant(
        name="moments-of-each-try",
        path="ledger/schedules.py",
        old=".where(due.c.id == one.id, due.c.begun_at.is_(None))",
        new=".where(due.c.id == one.id)",
        kills=(
            "contract/test_ledger_schedules.py::test_when_it_began_and_what_ran_before_stay_what_they_are",
        ),
    ),
    Mutant(
        name="all-asked-again-after-a-kill",
        path="schedule/visit.py",
        old='goes_on_from_s=began_s if schedule.reprocess != "failed" else None,',
        new="goes_on_from_s=None,",
        kills=(f"{_TICK}::test_asking_all_again_is_paid_once_though_the_tick_is_killed",),
    ),
    Mutant(
        name="failed-asked-again-after-a-kill",
        path="schedule/visit.py",
        old="retry_failed_before_s=None if is_first else began_s,",
        new="retry_failed_before_s=None,",
        kills=(f"{_TICK}::test_a_failed_row_is_asked_again_once_though_the_tick_is_killed",),
    ),
    Mutant(
        name="collects-by-planning-anew",
        path="schedule/visit.py",
        old="is_step=True, goes_on=True)",
        new="is_step=True)",
        kills=(
            f"{_TICK}::test_what_a_person_detached_is_collected_and_nothing_else_is_asked",
            f"{_TICK}::test_an_edit_during_a_run_waits_for_the_next_due_time",
        ),
    ),
    Mutant(
        name="claims-of-the-dead-left-alone",
        path="schedule/visit.py",
        old="        return one.claimed_by != socket.gethostname() and age",
        new="        return age > timedelta(seconds=0.2) and age",
        kills=(f"{_TICK}::test_a_tick_killed_anywhere_starts_its_due_time_once_all_the_same",),
    ),
    Mutant(
        name="an-outage-begins-with-each-look",
        path="schedule/outage.py",
        old="if since is None or since > self._now:",
        new="if since is None or since != self._now:",
        kills=("e2e/test_schedule_outage.py",),
    ),
    Mutant(
        name="the-run-before-taken-for-that-of-a-failed-start",
        path="schedule/visit.py",
        old="current.started_at >= one.begun_at",
        new="current.started_at != one.begun_at",
        kills=(f"{_AGAIN}::test_a_run_that_is_being_replaced_is_not_taken_for_that_of_the_next_one",),
    ),
)
