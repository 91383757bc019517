"""`run schedule emit`: a schedule as ready files for something else that keeps the time.

The rule: the job is always the same, `run schedule tick MANIFEST`, and it is called twice over: when the
schedule is due, and every few minutes in between. The first is for being on time, the second collects what is
under way and makes up for what the first missed or read by the wrong clock. `tick` itself decides what is
due, in the schedule's own time zone; so a call too many does nothing and one too few costs minutes.

Reads the manifest; writes nothing, and touches no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from runner.commands.options import ManifestOptions
from runner.commands.workplace import Workplace, open_workplace
from runner.core import due
from runner.core.calendars import UntranslatableError, in_between, on_calendar, plain_cron
from runner.core.model import ScheduleSettings
from runner.errors import InputError, Mistake
from runner.manifest import variables
from runner.prompt import render_packaged
from runner.schedule import quoting

MARK: Final = "Made by `run schedule emit`; edit the manifest and emit again."
MINUTES: Final = (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60)
"""How often can be looked: what divides an hour."""
USUAL_MINUTES: Final = 10
USUAL_IMAGE: Final = "runner:latest"
_GITHUB_FASTEST_MIN = 5
_LONGEST_NAME = 43
"""Of a CronJob: 52 characters, with room for what tells the two apart."""


class Target(StrEnum):
    """Who keeps the time."""

    SYSTEMD = "systemd"
    CRON = "cron"
    GITHUB = "github"
    KUBERNETES = "kubernetes"
    AIRFLOW = "airflow"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmittedFile:
    """One file: its name, without a folder, and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """An environment variable that the job needs, or (not `is_required`) takes where it is set.
    `is_secret`: it holds a key or an address."""

    name: str
    what_for: str
    is_secret: bool = False
    is_required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitted:
    """The files, and what has to be set where they are used."""

    files: tuple[EmittedFile, ...]
    needed: tuple[Needed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitOptions:
    """`manifest`: which, and how it is bent. `program`: the words that start this program on the machine
    where the job will run (systemd, cron, Airflow). `every_min`: how often to look in between, one of
    MINUTES. `image`: for Kubernetes."""

    manifest: ManifestOptions
    target: Target
    program: Sequence[str]
    every_min: int = USUAL_MINUTES
    image: str = USUAL_IMAGE


def emit(options: EmitOptions, *, environ: Mapping[str, str]) -> Emitted:
    """The files for one manifest. Raises InputError: no schedule, or one that the target can't be told."""
    workplace = open_workplace(options.manifest, environ)
    schedule = workplace.manifest.schedule
    if schedule is None:
        where = workplace.manifest.path
        what = "has no `schedule`, so there is nothing to emit"
        hint = 'add, for example, schedule: {cron: "17 2 * * 1-5", timezone: Europe/London}'
        raise InputError([Mistake(where=where, what=what, hint=hint)])
    if options.every_min not in MINUTES:
        what = f"{options.every_min} minutes do not divide an hour"
        raise InputError([Mistake(where="--every", what=what, hint=f"one of {', '.join(map(str, MINUTES))}")])
    job = _Job(options, workplace, schedule, _needed(options.manifest, workplace, environ))
    try:
        return Emitted(files=tuple(_TARGETS[options.target](job)), needed=job.needed)
    except UntranslatableError as error:
        where = workplace.manifest.where("schedule.cron")
        what = f"{options.target.value} has no words for '{schedule.cron}': {error}"
        hint = "write it in plain cron, or use --target systemd or `run schedule serve`"
        raise InputError([Mistake(where=where, path="schedule.cron", what=what, hint=hint)]) from error


def _needed(options: ManifestOptions, workplace: Workplace, environ: Mapping[str, str]) -> tuple[Needed, ...]:
    """The secrets first. Names only: no value of the environment goes into a file."""
    found = []
    manifest, key = workplace.manifest, workplace.provider.api_key_env
    if key is not None:
        found.append(Needed(name=key, what_for="the provider's API key", is_secret=True))
    if manifest.notify is not None:
        what_for = "the address to tell how a run ended"
        found.append(Needed(name=manifest.notify.url_env, what_for=what_for, is_secret=True))
    for name, is_required in _read_by(options).items():
        what_for = "the manifest reads it" if is_required else "the manifest reads it; has a default"
        found.append(Needed(name=name, what_for=what_for, is_required=is_required))
    if environ.get("RUNNER_LEDGER"):
        found.append(Needed(name="RUNNER_LEDGER", what_for="where the ledger is", is_secret=True))
    return tuple({one.name: one for one in reversed(found)}.values())[::-1]


def _read_by(options: ManifestOptions) -> Mapping[str, bool]:
    """The variables that the manifest reads; a stranger's is told none."""
    if options.is_isolated:
        return {}
    return variables(options.path, set_values=options.set_values, profile=options.profile)


class _Job:
    """What all targets say of one manifest, and the words that each quotes in its own way."""

    def __init__(
        self,
        options: EmitOptions,
        workplace: Workplace,
        schedule: ScheduleSettings,
        needed: tuple[Needed, ...],
    ) -> None:
        self.options = options
        self.workplace = workplace
        self.schedule = schedule
        self.needed = needed
        self.name = workplace.manifest.name.strip("-")
        self.common: dict[str, Any] = {
            "mark": MARK,
            "name": self.name,
            "words": due.in_words(schedule),
            "needed": needed,
            "every": options.every_min,
            "has_required": any(one.is_required for one in needed),
        }

    @property
    def poll(self) -> str:
        return in_between(self.schedule.cron, self.options.every_min)

    def command(self, *flags: str) -> list[str]:
        """On this machine, or one like it."""
        return self._tick([*self.options.program], self.workplace.manifest.path, *flags)

    def command_in_project(self, folder: str) -> list[str]:
        """Where the project's folder is `folder`, and `run` is on the path."""
        path = f"{folder}{self.workplace.manifest_path}"
        return self._tick(["run"], f"./{path}" if path.startswith("-") else path)

    def _tick(self, program: list[str], manifest: str, *flags: str) -> list[str]:
        """The command. Raises InputError for what could not be written into a file of lines."""
        words = [*program, "schedule", "tick", *flags, *self.options.manifest.words(), manifest]
        for word in words:
            if not word.isprintable():
                shown = word.encode("unicode_escape", "backslashreplace").decode("ascii")
                what = "holds a character that is not printable, which no such file can hold"
                raise InputError([Mistake(where=shown, what=what, hint="rename it")])
        return words


def _rendered(template: str, job: _Job, **values: Any) -> str:
    text = Path(__file__).with_name("templates").joinpath(template).read_text(encoding="utf-8")
    return render_packaged(text, {**job.common, **values})


# ---------------------------------------------------------------- the targets


def _systemd(job: _Job) -> list[EmittedFile]:
    minute, *_ = job.poll.split()
    first = minute.partition("-")[0] if minute[0].isdigit() else "00"
    step = f"/{job.options.every_min}" if job.options.every_min < 60 else ""
    words = job.command()
    if "$" in words[0]:
        what = "systemd takes no program with a `$` in its path"
        raise InputError([Mistake(where=words[0], what=what, hint="install it elsewhere")])
    timer = _rendered(
        "systemd.timer.j2",
        job,
        cron=" ".join(job.schedule.cron.split()),
        timezone=job.schedule.timezone,
        due=on_calendar(job.schedule.cron, job.schedule.timezone),
        poll=f"*-*-* *:{int(first):02d}{step}:00",
    )
    service = _rendered("systemd.service.j2", job, command=quoting.systemd(words))
    return [
        EmittedFile(name=f"run-{job.name}.service", text=service),
        EmittedFile(name=f"run-{job.name}.timer", text=timer),
    ]


def _cron(job: _Job) -> list[EmittedFile]:
    command = quoting.shell(job.command("--quiet"))  # cron mails every word
    if job.needed:
        file = f'"$HOME/.config/runner/{job.name}.env"'
        read = f". {file}" if job.common["has_required"] else f"{{ [ ! -e {file} ] || . {file}; }}"
        command = f"set -a && {read} && set +a && exec {command}"
    line = quoting.cron_command(command)
    if len(line.encode()) > quoting.MAX_CRON_COMMAND:
        what = f"the command is longer than the {quoting.MAX_CRON_COMMAND} bytes that cron takes"
        raise InputError([Mistake(where=job.workplace.manifest.path, what=what, hint="use shorter paths")])
    text = _rendered(
        "crontab.j2",
        job,
        poll=job.poll,
        due=plain_cron(job.schedule.cron),
        timezone=job.schedule.timezone,
        command=line,
    )
    return [EmittedFile(name=f"run-{job.name}.crontab", text=text)]


def _github(job: _Job) -> list[EmittedFile]:
    if job.options.every_min < _GITHUB_FASTEST_MIN:
        what = f"GitHub starts no job more often than every {_GITHUB_FASTEST_MIN} minutes"
        raise InputError(
            [Mistake(where="--every", what=what, hint=f"--every {_GITHUB_FASTEST_MIN}m or more")]
        )
    zone = job.schedule.timezone
    text = _rendered(
        "github.yaml.j2",
        job,
        title=quoting.yaml(f"run-{job.name}"),
        due=quoting.yaml(plain_cron(job.schedule.cron)),
        poll=quoting.yaml(job.poll),
        timezone="" if zone == "UTC" else quoting.yaml(zone),
        command=quoting.github(quoting.shell(job.command_in_project(""))),
    )
    return [EmittedFile(name=f"run-{job.name}.yaml", text=text)]


def _kubernetes(job: _Job) -> list[EmittedFile]:
    name = job.name[:_LONGEST_NAME].rstrip("-")
    words = [word.replace("$", "$$") for word in job.command_in_project("/project/")]
    if not job.options.image.isprintable() or not job.options.image.strip():
        raise InputError([Mistake(where="--image", what="not the name of an image")])
    image = quoting.yaml(job.options.image)
    zone = quoting.yaml(job.schedule.timezone)
    times = (("due", plain_cron(job.schedule.cron)), ("poll", job.poll))
    text = _rendered(
        "kubernetes.yaml.j2",
        job,
        image=job.options.image,
        label=quoting.yaml(name),
        secrets=quoting.yaml(f"{name}-secrets"),
        claim=quoting.yaml(f"{name}-project"),
        command=quoting.yaml_list(words),
        jobs=[
            {
                "name": quoting.yaml(f"run-{name}-{which}"),
                "cron": quoting.yaml(cron),
                "timezone": zone,
                "image": image,
            }
            for which, cron in times
        ],
    )
    return [EmittedFile(name=f"run-{job.name}.yaml", text=text)]


def _airflow(job: _Job) -> list[EmittedFile]:
    text = _rendered(
        "airflow.py.j2",
        job,
        dag_id=quoting.python(f"run-{job.name}"),
        command=quoting.python(job.command()),
        due=quoting.python(plain_cron(job.schedule.cron)),
        poll=quoting.python(job.poll),
        timezone=quoting.python(job.schedule.timezone),
    )
    return [EmittedFile(name=f"run_{job.name.replace('-', '_')}.py", text=text)]


_TARGETS: Mapping[Target, Callable[[_Job], list[EmittedFile]]] = {
    Target.SYSTEMD: _systemd,
    Target.CRON: _cron,
    Target.GITHUB: _github,
    Target.KUBERNETES: _kubernetes,
    Target.AIRFLOW: _airflow,
}


# ---------------------------------------------------------------- to a folder


def write(emitted: Emitted, folder: Path) -> list[Path]:
    """Write the files into a folder, which is made where it is not there. Gives their paths.

    A file that an earlier `emit` wrote is replaced. Raises InputError where another one is in the way
    (nothing is written then), or where the folder can't be written to.
    """
    paths = [folder / file.name for file in emitted.files]
    try:
        others = [path for path in paths if path.exists() and not _is_emitted(path)]
        if others:
            what, hint = "is there already, and not made by `emit`", "choose another folder (-o)"
            raise InputError([Mistake(where=str(path), what=what, hint=hint) for path in others])
        folder.mkdir(parents=True, exist_ok=True)
        for file, path in zip(emitted.files, paths, strict=True):
            beside = path.with_name(f".{path.name}.new")
            beside.write_text(file.text, encoding="utf-8")
            beside.replace(path)
    except OSError as error:
        where = str(error.filename or folder)
        raise InputError([Mistake(where=where, what=f"can't be written: {error.strerror}")]) from error
    return paths


def _is_emitted(path: Path) -> bool:
    wanted = f"# {MARK}\n".encode()
    with path.open("rb") as file:
        return file.read(len(wanted)) == wanted
