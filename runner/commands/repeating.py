"""A run that finds nothing to do: not even rendered, no network, and remembered like any other."""

from __future__ import annotations

from dataclasses import dataclass

from runner.commands.documents import document_of
from runner.commands.finishing import record_end
from runner.commands.inputs import same_inputs
from runner.commands.moments import Finished
from runner.commands.prompt_of import prompt_source
from runner.commands.revision import git_commit
from runner.commands.tables import are_as_left, have_their_answers
from runner.commands.workplace import Workplace
from runner.failpoints import failpoint
from runner.ledger import Ledger, RunRecord, RunStart
from runner.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmoved:
    """The run of which everything is as it was; `inputs` is what to record of the input files now."""

    previous: RunRecord
    inputs: str


def unmoved(
    workplace: Workplace, ledger: Ledger, manifest_id: int, *, older_than_s: float | None = None
) -> Unmoved | None:
    """The last run, where nothing at all moved since, and no answer is older than `older_than_s`.

    Manifest, template and program version are the same, the input files hold the same bytes, and the last
    run left nothing to do, with tables that say what is so. A `query` may read the clock, so it is always
    asked again, and so is a template that reads the run's times.
    """
    previous = ledger.current_run(manifest_id)
    if previous is None or not are_as_left(workplace, previous, older_than_s=older_than_s):
        return None
    inputs = inputs_of_unmoved(workplace, previous)
    if inputs is None or not have_their_answers(ledger, previous):
        return None
    return Unmoved(previous=previous, inputs=inputs)


def inputs_of_unmoved(workplace: Workplace, run: RunRecord) -> str | None:
    """What to record of the input files now, where a plan made now would be the plan of that run: the
    manifest, the template, the program's version and the bytes of the input files are the same, and neither
    a query nor the template can read the clock. None where anything moved."""
    if run.version != __version__ or workplace.manifest.dataset.query is not None:
        return None
    if run.document != document_of(workplace.manifest).decode():
        return None
    prompt = prompt_source(workplace).compile()
    if run.template_digest != prompt.digest() or prompt.times_read(()):
        return None
    return same_inputs(workplace, run.inputs)


def record_repeat(
    workplace: Workplace, ledger: Ledger, last: Unmoved, *, uid: str, finished: Finished
) -> None:
    """A run of its own, with the tables of the last one. The rows stay those of that one."""
    previous = last.previous
    run_id = ledger.start_run(
        RunStart(
            uid=uid,
            manifest_id=previous.manifest_id,
            manifest_digest=previous.manifest_digest,
            template_digest=previous.template_digest,
            dataset_digest=previous.dataset_digest,
            version=previous.version,
            git_commit=git_commit(workplace.place.project),
            snapshot=previous.snapshot,
            model=previous.model,
            rows=previous.rows,
            document=previous.document,
            inputs=last.inputs,
        )
    )
    failpoint("repeat.started")
    ledger.note_run(run_id, published=previous.published, history=previous.history)
    if last.inputs != previous.inputs:
        ledger.note_run(previous.id, inputs=last.inputs)  # the next run need not read them again
    failpoint("repeat.noted")
    record_end(ledger, run_id, "finished", finished.exit_code, finished)
