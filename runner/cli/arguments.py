"""Options that several commands share, and the words they accept."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from runner.cli.signals import Interrupts
from runner.commands.options import ManifestOptions, Narrowing
from runner.errors import InputError, Mistake

Function = TypeVar("Function", bound=Callable[..., Any])

COMMAND_NAMES = (
    "run",
    "validate",
    "plan",
    "apply",
    "status",
    "results",
    "history",
    "explain",
    "diff",
    "retry",
    "cancel",
    "resolve",
    "rebuild",
    "gc",
    "schedule",
    "init",
    "schema",
    "local-server",
)
"""In the order in which they are used; the first word of a command line is one of these, or a path."""

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+|\d+(?:\.\d+)?")


@dataclass(slots=True)
class Session:
    """One execution of the program: what the error boundary may want to know, and who hears Ctrl-C."""

    manifests: tuple[str, ...] = ()
    command: str = ""
    wants_json: bool = False
    interrupts: Interrupts = field(default_factory=Interrupts)
    bent: Bending = field(default_factory=lambda: Bending())
    about: ManifestOptions | None = None

    def enter(self, command: str, manifests: tuple[str, ...] = ()) -> None:
        """A command begins."""
        self.command, self.manifests = command, manifests

    def manifest_at_hand(self, path: str | None) -> ManifestOptions | None:
        """The manifest with this path, or the one that the command is about, as it is bent; None where it is
        about several, or what it was given are plans and folders."""
        takes_manifests = self.command not in ("apply", "schedule tick", "schedule list")
        if path is None and takes_manifests and len(self.manifests) == 1:
            path = self.manifests[0]
        return self.about if path is None else ManifestOptions(path=path, **asdict(self.bent))


class Duration(click.ParamType[float]):
    """Seconds as a number, or with units: `90`, `90s`, `30m`, `2h`, `1h30m`, `1d`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds. Fails with what is allowed."""
        if isinstance(value, (int, float)):
            return float(value)
        text = str(value).strip().lower()
        if not _DURATION.fullmatch(text):
            self.fail(f"{value!r} is not a length of time; write seconds, or 30m, 2h, 1h30m", param, ctx)
        if text[-1].isdigit():
            return float(text)
        parts = re.findall(r"([\d.]+)([smhd])", text)
        return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


class Count(click.ParamType[int]):
    """A whole number of 1 or more."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Fails with what is allowed."""
        text = str(value).replace(",", "").replace("_", "")
        if not text.isascii() or not text.isdigit() or int(text[:18]) < 1:
            self.fail(f"{value!r} is not a whole number of 1 or more", param, ctx)
        return int(text[:18])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bending:
    """What is other than the manifest says, or is not believed of it. See `bending_options`."""

    set_values: tuple[str, ...] = ()
    profile: str | None = None
    is_isolated: bool = False
    allowed_paths: tuple[str, ...] = ()


def bending_options(function: Callable[..., int]) -> Callable[..., int]:
    """`--set KEY=VALUE` (repeatable), `--profile NAME`, `--isolated`, `--allow-path FOLDER` (repeatable):
    handed on together, as `bent`."""

    @wraps(function)
    def with_bending(
        *arguments: Any,
        set_values: tuple[str, ...],
        profile: str | None,
        isolated: bool,
        allowed_paths: tuple[str, ...],
        **others: Any,
    ) -> int:
        if allowed_paths and not isolated:
            what = "does nothing without --isolated"
            raise InputError(
                [Mistake(where="--allow-path", what=what, hint="without it any path is allowed")]
            )
        folders = tuple(str(Path(path).absolute()) for path in allowed_paths)
        bent = Bending(set_values=set_values, profile=profile, is_isolated=isolated, allowed_paths=folders)
        if (session := click.get_current_context().find_object(Session)) is not None:
            session.bent = bent
        return function(*arguments, bent=bent, **others)

    decorated: Callable[..., int] = with_bending
    for option in reversed(_BENDING):
        decorated = option(decorated)
    return decorated


_BENDING = (
    click.option(
        "--set",
        "set_values",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override a value of the manifest, e.g. model.name=X. Repeatable.",
    ),
    click.option("--profile", metavar="NAME", help="Use this block of the manifest's `profiles`."),
    click.option("--isolated", is_flag=True, help="The manifest is a stranger's: shut its template in."),
    click.option(
        "--allow-path",
        "allowed_paths",
        metavar="FOLDER",
        multiple=True,
        help="With --isolated: it may use this folder, too. Repeatable.",
    ),
)


def narrowing_options(function: Callable[..., int]) -> Callable[..., int]:
    """`--only`, `--where`, `--sample`, `--seed`, `--limit`: handed on together, as `narrowing`."""

    @wraps(function)
    def with_narrowing(
        *arguments: Any,
        only: Any,
        where: str | None,
        sample: int | None,
        seed: int | None,
        limit: int | None,
        **others: Any,
    ) -> int:
        if seed is not None and sample is None:
            what = "does nothing without --sample"
            raise InputError([Mistake(where="--seed", what=what, hint="write --sample N --seed S")])
        narrowing = Narrowing(limit=limit, sample=sample, seed=seed or 0, where=where, only=only)
        return function(*arguments, narrowing=narrowing, **others)

    decorated: Callable[..., int] = with_narrowing
    for option in reversed(_NARROWING):
        decorated = option(decorated)
    return decorated


_NARROWING = (
    click.option(
        "--only",
        type=click.Choice(("failed", "new", "changed")),
        help="Only rows that failed, that are new, or whose request changed.",
    ),
    click.option("--where", metavar="SQL", help="Only rows for which this holds, e.g. \"lang = 'de'\"."),
    click.option("--sample", type=Count(), metavar="N", help="Only N rows by chance, the same every time."),
    click.option("--seed", type=int, metavar="S", help="Another chance for --sample. Default: 0."),
    click.option("--limit", type=Count(), metavar="N", help="Only the first N rows of those left."),
)
refresh_option = click.option("--refresh", is_flag=True, help="Ask again what is answered, too.")


def pace_options(function: Function) -> Function:
    """`--detach` and `--wait`."""
    function = click.option(
        "--wait",
        "wait_s",
        type=Duration(),
        metavar="SECONDS",
        help="Stop waiting after this time: 90, 30m, 2h.",
    )(function)
    return click.option("--detach", is_flag=True, help="Submit everything and return; run again to collect.")(
        function
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """How a run speaks: `yes` asks nobody, `as_json` events on stdout, `quiet` nothing unless it fails."""

    yes: bool = False
    as_json: bool = False
    quiet: bool = False


quiet_option = click.option("--quiet", "-q", is_flag=True, help="Say nothing unless something goes wrong.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Don't ask; go on.")


def json_option(what: str) -> Callable[[Function], Function]:
    """`--json`, with what it prints."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} on stdout.")


def voice_options(function: Function) -> Function:
    """`--yes`, `--json`, `--quiet`: what makes a `Voice`."""
    return yes_option(json_option("one JSON object per event")(quiet_option(function)))


def manifest_options(path: str, bent: Bending) -> ManifestOptions:
    """The options of one manifest as the commands take them. Raises InputError for a `--set` without `=`."""
    mistakes = []
    for value in bent.set_values:
        key, equals, _ = value.partition("=")
        if not equals or not key.strip():
            what = f"{value!r} has no {'key' if equals else '`=`'}"
            mistakes.append(Mistake(where="--set", what=what, hint="write --set KEY=VALUE"))
    if mistakes:
        raise InputError(mistakes)
    return ManifestOptions(
        path=path,
        set_values=bent.set_values,
        profile=bent.profile,
        is_isolated=bent.is_isolated,
        allowed_paths=bent.allowed_paths,
    )


def check_manifests(paths: tuple[str, ...]) -> None:
    """Every path must be there. Raises InputError that names all that are not, with the nearest match."""
    mistakes = [missing(path) for path in paths if not os.path.lexists(path)]
    if mistakes:
        raise InputError(mistakes)


def missing(path: str) -> Mistake:
    """A path that isn't there, with what may have been meant: a command, or a file beside it."""
    import difflib

    if path in COMMAND_NAMES:
        return Mistake(where=path, what="no such file", hint=f"the command comes first: `run {path} ...`")
    is_word = not set(path) & {".", "/"}
    what = "no such file or command" if is_word else "no such file"
    near = difflib.get_close_matches(path.lower(), COMMAND_NAMES, n=1, cutoff=0.6) if is_word else []
    if near:
        return Mistake(where=path, what=what, hint=f"did you mean `run {near[0]}`?")
    folder = Path(path).parent
    near = difflib.get_close_matches(str(Path(path)), _manifests_in(folder), n=1, cutoff=0.6)
    if near:
        return Mistake(where=path, what=what, hint=f"did you mean `{near[0]}`?")
    if not folder.is_dir():
        return Mistake(where=path, what=what, hint=f"there is no folder `{folder}`")
    return Mistake(where=path, what=what, hint="`run --help` shows how to call it" if is_word else "")


def _manifests_in(folder: Path) -> list[str]:
    try:
        return sorted(str(path) for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    except OSError:
        return []
