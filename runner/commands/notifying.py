"""The end of a run, told to those that the manifest names (`notify:`).

    notify      is this an occasion to tell of?  the address from the environment;  deliver
    deliver     Apprise where it is installed and knows the address, else a POST of JSON

What is decided: a message follows the publication of the table, never comes before it. It fails no run:
what can't be delivered is one `Trouble`. It takes bounded time, in a thread that is left behind where a
name look-up or a plug-in hangs. A run that only repeats what the last one said tells nobody anything; a
detached one has not ended; an interrupted one was ended by somebody who knows. A message may be lost
(this process is killed in between), or come twice (its reply was lost): it is news, not the record.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from runner import notify as notify_room
from runner import provider as provider_room
from runner.commands.moments import Finished, Reporter, Trouble
from runner.commands.notices import Notice, error_notice, finished_notice, occasion_of
from runner.commands.options import ManifestOptions, with_manifest
from runner.core.model import Manifest, NotifySettings
from runner.errors import EXIT_FAULT, Mistake, RunnerError
from runner.provider import is_web_address

_UNKNOWN = "neither an http(s) address nor one that Apprise knows"
_NEEDS_EXTRA = "no http(s) address; the extra `notify` brings Apprise, which knows many others"
_PATIENCE_S = 20.0
"""Longer than either way of delivery takes by itself."""


class Notifier:
    """Tells of one run's end, once."""

    def __init__(self, manifest: Manifest, environ: Mapping[str, str], reporter: Reporter) -> None:
        self._manifest = manifest
        self._environ = environ
        self._reporter = reporter
        self._is_told = False

    def finished(self, finished: Finished, error: RunnerError | None = None) -> None:
        """The table is written; `error` is what the run ends with all the same."""
        self._is_told = True
        notice = finished_notice(finished, manifest=self._manifest.path, error=error)
        notify(self._manifest.notify, notice, environ=self._environ, reporter=self._reporter)

    def failed(self, error: Exception) -> None:
        """The run ends with an error. A fault of this program is told by its class alone: what it says may
        be anything, and is in the crash log."""
        occasion = occasion_of(error)
        if self._is_told or occasion is None:
            return
        what, next_step, exit_code = f"internal error: {type(error).__name__}", "", EXIT_FAULT
        if isinstance(error, RunnerError):
            what, next_step, exit_code = error.what, error.next_step, error.exit_code
            next_step = with_manifest(next_step, ManifestOptions(path=self._manifest.path))
        notice = error_notice(
            occasion,
            name=self._manifest.name,
            manifest=self._manifest.path,
            what=what,
            next_step=next_step,
            exit_code=exit_code,
        )
        notify(self._manifest.notify, notice, environ=self._environ, reporter=self._reporter)


def notify_warnings(manifest: Manifest, environ: Mapping[str, str]) -> list[Mistake]:
    """What would keep messages from being delivered, as far as can be seen without sending one."""
    settings = manifest.notify
    if settings is None:
        return []
    address = environ.get(settings.url_env, "").strip()
    if not address:
        what = f"{settings.url_env} is not set here, so nobody would be told"
    elif notify_room.knows(address) or is_web_address(address):
        return []
    else:
        what = f"{settings.url_env} holds {_UNKNOWN if notify_room.is_installed() else _NEEDS_EXTRA}"
    path = "notify.url_env"
    return [Mistake(where=manifest.where(path), path=path, what=what)]


def notify(
    settings: NotifySettings | None,
    notice: Notice | None,
    *,
    environ: Mapping[str, str],
    reporter: Reporter,
) -> None:
    """Deliver a notice where the manifest wants it. Never raises for what goes wrong on the way."""
    if settings is None or notice is None or notice.occasion not in settings.on:
        return
    address = environ.get(settings.url_env, "").strip()
    if address:
        trouble = _in_time(address, notice)
    else:
        trouble = f"the environment variable {settings.url_env} is not set"
    if trouble is not None:
        what = f"nobody was told that {notice.title}: {trouble} (notify.url_env: {settings.url_env})"
        reporter.tell(Trouble(what=what))


def _in_time(address: str, notice: Notice) -> str | None:
    """What went wrong, or None; after a while whatever the other side does."""
    outcome: list[str | None] = []

    def work() -> None:
        try:
            outcome.append(deliver(address, notice))
        except Exception as error:  # whatever it is: its text, and a traceback, may hold the address
            outcome.append(f"the message could not be sent ({type(error).__name__})")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    return outcome[0] if outcome else f"no end within {_PATIENCE_S:.0f} s"


def deliver(address: str, notice: Notice) -> str | None:
    """Send a notice. None where it was taken, else what went wrong, without the address."""
    if notify_room.knows(address):
        return notify_room.send(address, title=notice.title, text=notice.text)
    if is_web_address(address):
        return provider_room.post_json(address, notice.as_json())
    return _UNKNOWN if notify_room.is_installed() else _NEEDS_EXTRA
