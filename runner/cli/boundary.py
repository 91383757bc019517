"""The one error boundary: what went wrong becomes text, a next step and an exit code.

    known error          `error: what`, `next:  step`, `(exit n)`; several mistakes each on a line
    interrupt            how to go on; exit 130
    reader of stdout left    quiet
    anything else        a log file with the traceback, three lines of text; exit 1

Nobody else exits. What others wrote (server texts, paths, data) is cleaned on its way out.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import click

from runner.cli.arguments import Session
from runner.cli.crash_log import blotted, write_crash_log
from runner.cli.streams import ReaderLeftError, say, write_out
from runner.cli.texts import clean, clean_lines, here
from runner.commands.options import ManifestOptions, with_manifest
from runner.errors import (
    EXIT_DONE,
    EXIT_FAULT,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    InputError,
    InterruptedRunError,
    Mistake,
    RunnerError,
    StillRunningError,
    UnpublishedError,
)

SENDING_COMMANDS = ("run", "retry", "apply", "plan", "validate")
"""Commands whose user asks first, when something is wrong: did it cost anything?"""
_DID_YOU_MEAN = re.compile(r"\(?Did you mean (?:one of: )?(.*?)\?\)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as it will be told. `lines` are cleaned; `is_fault` is False for an end that is no error."""

    lines: tuple[str, ...]
    next_step: str
    exit_code: int
    remark: str = ""
    is_fault: bool = True
    mistakes: tuple[dict[str, str], ...] = ()
    manifest: str | None = None

    def as_text(self) -> str:
        """The lines for people."""
        word = (
            click.style("error:", fg="red", bold=True) if self.is_fault else click.style("note:", bold=True)
        )
        pad = "" if self.is_fault else " "
        first, *others = self.lines
        head = f"{word}{pad} " if self.mistakes else " " * 7
        shown = [f"{word}{pad} {first}", *(f"{head}{line}" for line in others)]
        if self.next_step:
            shown.append(f"next:  {self.next_step}")
        remark = "; ".join(part for part in (self.remark, f"exit {self.exit_code}") if part)
        shown.append(f"       ({remark})")
        return "\n".join(shown)

    def as_json(self) -> dict[str, Any]:
        """The last object of a `--json` stream."""
        found: dict[str, Any] = {"event": "error", "what": "\n".join(self.lines), "next_step": self.next_step}
        if self.mistakes:
            found["mistakes"] = list(self.mistakes)
        if self.manifest is not None:
            found["manifest"] = self.manifest
        return found | {"exit_code": self.exit_code}


def guarded(work: Callable[[], int], session: Session) -> int:
    """Run `work` and return the exit code, whatever happens in it."""
    try:
        return work()
    except click.exceptions.Exit as asked:
        return asked.exit_code
    except ReaderLeftError:
        return EXIT_DONE
    except (KeyboardInterrupt, click.Abort):
        return tell(interrupted(session), session)
    except click.exceptions.NoArgsIsHelpError as lost:
        say(lost.format_message())
        return EXIT_INPUT
    except click.ClickException as misuse:
        return tell(usage_failure(misuse), session)
    except RunnerError as error:
        return tell(failure_of(error, session), session)
    except Exception as error:  # the last resort: a traceback belongs in a file, not before a user
        return tell(internal_failure(error, session), session)


def tell(failure: Failure, session: Session) -> int:
    """Say it on stderr, and as the last object on stdout where JSON was asked for. Returns the exit code."""
    from runner.core.wire import encode_json

    say(failure.as_text())
    if session.wants_json:
        try:
            write_out(encode_json(failure.as_json()).decode() + "\n")
        except (ReaderLeftError, RunnerError):
            return failure.exit_code
    return failure.exit_code


def failure_of(error: RunnerError, session: Session, *, manifest: str | None = None) -> Failure:
    """A known error as text. One mistake with a hint: the hint is the next step."""
    at_hand = session.manifest_at_hand(manifest)
    lines, next_step = tuple(clean_lines(error.what)), _filled(error.next_step, at_hand)
    mistakes: tuple[Mistake, ...] = ()
    remark = ""
    if isinstance(error, InputError):
        mistakes = tuple(_shown(mistake, at_hand) for mistake in error.mistakes)
        lines = tuple(map(str, mistakes))
        sent = "nothing was sent" if manifest is None else f"nothing of {manifest} was sent"
        if isinstance(error, UnpublishedError):
            sent = "every answer is kept"
        remark = clean(sent) if session.command in SENDING_COMMANDS else ""
        if len(mistakes) == 1 and not next_step:
            lines, next_step = (str(replace(mistakes[0], hint="")),), mistakes[0].hint
    return Failure(
        lines=lines or (type(error).__name__,),
        next_step=next_step,
        exit_code=error.exit_code,
        remark=remark,
        is_fault=not isinstance(error, (InterruptedRunError, StillRunningError)),
        mistakes=tuple(asdict(mistake) for mistake in mistakes),
        manifest=clean(manifest) if manifest is not None else None,
    )


def _filled(next_step: str, manifest: ManifestOptions | None) -> str:
    """Cleaned, and with the manifest, where it is known, in the commands that it advises."""
    return clean(next_step if manifest is None else with_manifest(next_step, manifest))


def _shown(mistake: Mistake, manifest: ManifestOptions | None) -> Mistake:
    """Cleaned, and with its file as one would type it here."""
    folder = here().rstrip(os.sep) + os.sep
    return Mistake(
        where=clean(mistake.where.removeprefix(folder)),
        what=clean(mistake.what),
        path=clean(mistake.path),
        hint=_filled(mistake.hint, manifest),
    )


def usage_failure(error: click.ClickException) -> Failure:
    """A mistake on the command line itself, in our words."""
    what, hint = clean(error.format_message()), ""
    if meant := _DID_YOU_MEAN.search(what):
        what, hint = what[: meant.start()], f"did you mean {meant[1]}?"
    what = what[:1].lower() + what[1:].rstrip(". ")
    context = getattr(error, "ctx", None)
    command = context.command_path.replace("run run", "run") if context is not None else "run"
    return Failure(lines=(what,), next_step=hint or f"see `{command} --help`", exit_code=EXIT_INPUT)


def interrupted(session: Session) -> Failure:
    """Ctrl-C or SIGTERM outside the run's own handling of it."""
    again = ""
    if session.manifests and session.command in ("run", "retry"):
        again = (
            f"`run {' '.join(map(shlex.quote, session.manifests))}` goes on from here; remote work continues"
        )
    return Failure(lines=("interrupted",), next_step=clean(again), exit_code=EXIT_INTERRUPTED, is_fault=False)


def internal_failure(error: Exception, session: Session) -> Failure:
    """A fault of this program: the traceback goes to a file that can be reported."""
    place = write_crash_log(error, session.manifests, cwd=here())
    what = clean(blotted(f"internal error: {type(error).__name__}: {error}", os.environ), limit=300)
    details = f"; details in {clean(place)}" if place else ""
    return Failure(
        lines=(what + details,),
        next_step="please report it with that file; the same command is safe to repeat"
        if place
        else "please report it; the same command is safe to repeat",
        exit_code=EXIT_FAULT,
    )
