"""The trouble of a tick, told to those that the manifests name (`notify:`), once.

A run tells of its own end when it has written its table (`commands.notifying`). What ends without one is told
here, because only the ledger knows whether the tick before said the same: a wrong key would otherwise be told
every few minutes. A manifest that is broken or gone is told where it last said so itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runner.commands.moments import Reporter
from runner.commands.notices import Notice, error_notice
from runner.commands.notifying import notify
from runner.commands.options import ManifestOptions
from runner.commands.workplace import survey_manifest
from runner.core.model import NotifySettings, Occasion
from runner.core.wire import decode_json
from runner.errors import InputError, RunnerError
from runner.ledger import Ledger, locate
from runner.schedule.reports import FailedManifest, TickReport

_told_here: dict[str, str] = {}
"""What this process told last of a manifest that fails. The ledger remembers better, but where the ledger is
the trouble, a loop would tell the same every minute."""


def announce(
    report: TickReport, bent: ManifestOptions, *, environ: Mapping[str, str], reporter: Reporter
) -> None:
    """Tell of what is new. Never raises for what goes wrong on the way."""
    failing = {problem.manifest for problem in report.failed}
    for manifest in _told_here.keys() - failing:
        del _told_here[manifest]
    for problem in report.failed:
        if problem.is_new and problem.finished is None and not _was_told_here(problem):
            settings = _settings(replace(bent, path=problem.manifest), environ)
            notify(settings, _notice(problem), environ=environ, reporter=reporter)


def _was_told_here(problem: FailedManifest) -> bool:
    """Of a manifest, not of one due time: each of those has an end of its own."""
    if problem.due_at is not None:
        return False
    before = _told_here.get(problem.manifest)
    _told_here[problem.manifest] = problem.message
    return before == problem.message


def _notice(problem: FailedManifest) -> Notice:
    return error_notice(
        Occasion.BUDGET if problem.is_budget else Occasion.FAILED,
        name=problem.name,
        manifest=problem.manifest,
        what=problem.message,
        next_step=problem.next_step,
        exit_code=problem.exit_code,
    )


def _settings(options: ManifestOptions, environ: Mapping[str, str]) -> NotifySettings | None:
    """Whom the manifest names; where that can't be read, whom it named in its last run."""
    try:
        manifest, mistakes = survey_manifest(options, environ)
    except InputError:
        manifest, mistakes = None, []
    if manifest is not None and (manifest.notify is not None or not mistakes):
        return manifest.notify
    try:
        return _named_in_last_run(options.path, environ)
    except (RunnerError, OSError):
        return None  # the ledger's trouble is told as such


def _named_in_last_run(path: str, environ: Mapping[str, str]) -> NotifySettings | None:
    ledger = Ledger.open_reading(locate(path, environ))
    if ledger is None:
        return None
    try:
        manifest_id = ledger.find_manifest(path)
        run = ledger.current_run(manifest_id) if manifest_id is not None else None
    finally:
        ledger.close()
    document = decode_json(run.document)["manifest"] if run is not None and run.document else {}
    named = document.get("notify")
    if named is None:
        return None
    usual = NotifySettings(url_env=named["url_env"])
    return NotifySettings(url_env=usual.url_env, on=tuple(map(Occasion, named.get("on", usual.on))))
