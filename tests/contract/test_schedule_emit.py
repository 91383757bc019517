"""Emitted files, held against those who will read them: systemd, cron and sh, GitHub, Kubernetes, Python."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from runner.commands.options import AS_WRITTEN
from runner.core.due import upcoming
from runner.core.model import ScheduleSettings
from runner.errors import InputError
from runner.schedule.emitting import EmitOptions, Emitted, Target, emit, write
from tests.contract.manifest_factories import GOOD, make_project

CRON = "17 2 * * 1-5"
SCHEDULED = GOOD + f'schedule: {{cron: "{CRON}", timezone: Europe/London}}\n'
NEEDY = SCHEDULED.replace("provider: local", "provider: doubleword").replace(
    "path: data/", "path: ${FOLDER}/${PART:-data}/"
)
NEEDY += "notify: {url_env: ALERT_URL}\n"
ENVIRON = {"DOUBLEWORD_API_KEY": "sk-canary-1", "ALERT_URL": "https://canary-2/", "FOLDER": "canary-3"}
HARD_NAMES = (
    "plain",
    "with blanks  and 'quotes' \"of both\"",
    "100%",
    "50\\%off\\",
    "$HOME `id` $(id) ${X} %h %%",
    "a;b&c|d>e*f?g#h!",
    "${{ github.actor }} {{ jinja }}",
    "ünïcödé 表",
)


def project(folder: Path, text: str = SCHEDULED) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").touch()
    return make_project(folder, text)


def emitted(manifest: Path, target: Target, **options: Any) -> Emitted:
    program = options.pop("program", [sys.executable, "-m", "runner"])
    bent = replace(AS_WRITTEN, path=str(manifest))
    wanted = EmitOptions(manifest=bent, target=target, program=program, **options)
    return emit(wanted, environ=ENVIRON)


def text_of(manifest: Path, target: Target, **options: Any) -> str:
    (file,) = emitted(manifest, target, **options).files
    return file.text


def refusal(manifest: Path, target: Target, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        emitted(manifest, target, **options)
    return str(caught.value)


# ---------------------------------------------------------------- systemd


def units(manifest: Path, **options: Any) -> dict[str, str]:
    return {Path(file.name).suffix: file.text for file in emitted(manifest, Target.SYSTEMD, **options).files}


def exec_start(service: str) -> list[str]:
    """The words of `ExecStart=`, read as systemd.service(5) says."""
    (line,) = re.findall(r"^ExecStart=(.*)$", service, re.MULTILINE)
    quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    assert " ".join(f'"{word}"' for word in quoted) == line
    words = [re.sub(r"\\(.)", r"\1", word).replace("%%", "%") for word in quoted]
    return [words[0], *(word.replace("$$", "$") for word in words[1:])]


@pytest.mark.parametrize("name", HARD_NAMES)
def test_systemd_starts_the_very_command(tmp_path: Path, name: str) -> None:
    manifest = project(tmp_path / name)
    service = units(manifest)[".service"]
    assert exec_start(service) == [sys.executable, "-m", "runner", "schedule", "tick", str(manifest)]
    (line,) = re.findall(r"^ExecStart=(.*)$", service, re.MULTILINE)
    assert not re.search(r"(?<!%)(%%)*%(?!%)", line)  # no specifier
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)", line)  # no variable


@pytest.mark.parametrize("name", HARD_NAMES)
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
def test_systemd_finds_nothing_wrong_with_its_units(tmp_path: Path, name: str) -> None:
    written = write(emitted(project(tmp_path / name, NEEDY), Target.SYSTEMD), tmp_path / "units")
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, written)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_timer_is_due_and_looks_in_between(tmp_path: Path) -> None:
    timer = units(project(tmp_path))[".timer"]
    assert re.findall(r"^OnCalendar=(.*)$", timer, re.MULTILINE) == [
        "Mon..Fri *-*-* 02:17:00 Europe/London",
        "*-*-* *:02/10:00",
    ]
    assert "OnCalendar=*-*-* *:47:00\n" in units(project(tmp_path), every_min=60)[".timer"]
    assert "OnCalendar=*-*-* *:00/1:00\n" in units(project(tmp_path), every_min=1)[".timer"]


@pytest.mark.parametrize("target", list(Target))
def test_an_expression_of_several_lines_is_as_good_as_one(tmp_path: Path, target: Target) -> None:
    words = " ".join(CRON.split()[:3]), " ".join(CRON.split()[3:])
    block = f"schedule:\n  cron: |\n    {words[0]}\n    {words[1]}\n  timezone: Europe/London\n"
    lines = emitted(project(tmp_path, GOOD + block), target)
    assert lines.files == emitted(project(tmp_path), target).files


def test_systemd_knows_days_that_other_crons_don_t(tmp_path: Path) -> None:
    manifest = project(tmp_path, SCHEDULED.replace(CRON, "0 9 * * 5L"))
    assert "OnCalendar=Fri *-*~01..07 09:00:00 Europe/London\n" in units(manifest)[".timer"]
    assert refusal(manifest, Target.CRON).startswith(
        f"{manifest}:9:18: schedule.cron: cron has no words for '0 9 * * 5L'"
    )


# ---------------------------------------------------------------- cron


def crontab(text: str) -> list[tuple[str, str, str]]:
    """Zone, times and command of each line, as cron takes them in: `\\%` is `%`, a bare `%` ends it."""
    zone, found = "", []
    for line in text.splitlines():
        if line.startswith("CRON_TZ="):
            zone = line.partition("=")[2]
        elif line and not line.startswith("#"):
            *times, rest = line.split(" ", 5)
            command, is_escaped = "", False
            for mark in rest:
                if is_escaped:
                    command = command[:-1] + mark if mark == "%" else command + mark
                    is_escaped = False
                elif mark == "%":
                    break
                else:
                    command += mark
                    is_escaped = mark == "\\"
            found.append((zone, " ".join(times), command))
    return found


def recorder(folder: Path) -> Path:
    """A program that writes down its words and what it needs of its environment."""
    program = folder / "it's 100% run"
    code = (
        f"#!{sys.executable}\nimport json, os, sys\n"
        "names = ('DOUBLEWORD_API_KEY', 'ALERT_URL', 'FOLDER')\n"
        "print(json.dumps([sys.argv, {name: os.environ.get(name) for name in names}]))\n"
    )
    program.write_text(code)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.mark.parametrize("name", HARD_NAMES)
def test_cron_starts_the_very_command_with_its_secrets(tmp_path: Path, name: str) -> None:
    manifest = project(tmp_path / name, NEEDY)
    program = recorder(tmp_path)
    lines = crontab(text_of(manifest, Target.CRON, program=[str(program)]))
    home = Path(os.environ["HOME"]) / ".config" / "runner"
    home.mkdir(parents=True)
    (home / "m.env").write_text("DOUBLEWORD_API_KEY='k \"1'\nALERT_URL='https://a/?b&c'\nFOLDER=f\n")
    assert len(lines) == 2
    for _, _, command in lines:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            env={"HOME": os.environ["HOME"], "PATH": "/usr/bin:/bin"},
        )
        words, environ = json.loads(done.stdout)
        assert words == [str(program), "schedule", "tick", "--quiet", str(manifest)]
        assert environ == {"DOUBLEWORD_API_KEY": 'k "1', "ALERT_URL": "https://a/?b&c", "FOLDER": "f"}


def test_a_crontab_is_due_when_the_schedule_is(tmp_path: Path) -> None:
    manifest = project(tmp_path, SCHEDULED.replace(CRON, "30 1,13 */2 jan-dec sun"))
    (_, between, _), (zone, times, _) = crontab(text_of(manifest, Target.CRON))
    start = datetime(2026, 10, 1, tzinfo=UTC)
    wanted = ScheduleSettings(cron="30 1,13 */2 jan-dec sun", timezone="Europe/London")
    read_back = ScheduleSettings(cron=times, timezone=zone)
    assert upcoming(read_back, start, 50) == upcoming(wanted, start, 50)
    first, second = upcoming(ScheduleSettings(cron=between), start, 2)
    assert second - first == timedelta(minutes=10)


def test_a_missing_file_of_variables_stops_only_who_needs_it(tmp_path: Path) -> None:
    manifest = project(tmp_path, SCHEDULED.replace("path: data/", "path: ${PART:-data}/"))
    (_, _, command), _ = crontab(text_of(manifest, Target.CRON, program=[str(recorder(tmp_path))]))
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(done.stdout)[0][1:] == ["schedule", "tick", "--quiet", str(manifest)]
    assert "EnvironmentFile=-%h/" in units(manifest)[".service"]
    assert "EnvironmentFile=%h/" in units(project(tmp_path, NEEDY))[".service"]
    assert "EnvironmentFile" not in units(project(tmp_path))[".service"]


def test_a_command_that_cron_would_cut_is_refused(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["x" * 200] * 5)
    assert "longer than the 990 bytes" in refusal(project(folder), Target.CRON)


# ---------------------------------------------------------------- GitHub and Kubernetes


def workflow(text: str) -> dict[str, Any]:
    """A workflow, checked against GitHub's schema. YAML 1.1 takes its `on` for a boolean."""
    found = yaml.safe_load(text)
    found["on"] = found.pop(True)
    schema = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "github-workflows.json"
    jsonschema.Draft7Validator(json.loads(schema.read_text())).validate(found)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", HARD_NAMES)
def test_a_workflow_fits_githubs_schema_and_starts_the_very_command(tmp_path: Path, name: str) -> None:
    project(tmp_path)
    (tmp_path / name).mkdir()
    manifest = make_project(tmp_path / name, NEEDY)
    found = workflow(text_of(manifest, Target.GITHUB))
    assert found["on"]["schedule"] == [
        {"cron": CRON, "timezone": "Europe/London"},
        {"cron": "2-59/10 * * * *"},
    ]
    job = found["jobs"]["tick"]
    assert job["env"] == {
        "DOUBLEWORD_API_KEY": "${{ secrets.DOUBLEWORD_API_KEY }}",
        "ALERT_URL": "${{ secrets.ALERT_URL }}",
        "FOLDER": "${{ vars.FOLDER }}",
        "PART": "${{ vars.PART }}",
    }
    command = job["steps"][-1]["run"]
    assert "${{" not in command.replace("${{ '${{' }}", "")
    shown = command.replace("${{ '${{' }}", "${{").replace("run ", "printf '%s\\n' ", 1)
    words = subprocess.run(["/bin/sh", "-c", shown], capture_output=True, text=True, check=True, timeout=30)
    assert words.stdout.splitlines() == ["schedule", "tick", f"{name}/m.yaml"]


def test_a_name_that_looks_like_an_option_is_none(tmp_path: Path) -> None:
    project(tmp_path)
    manifest = make_project(tmp_path, SCHEDULED, name="-m.yaml")
    assert workflow(text_of(manifest, Target.GITHUB))["jobs"]["tick"]["steps"][-1]["run"] == (
        "run schedule tick ./-m.yaml"
    )


def test_utc_needs_no_zone_of_github(tmp_path: Path) -> None:
    found = workflow(text_of(project(tmp_path, SCHEDULED.replace("Europe/London", "UTC")), Target.GITHUB))
    assert found["on"]["schedule"][0] == {"cron": CRON}


def test_github_is_not_asked_more_often_than_it_can(tmp_path: Path) -> None:
    assert refusal(project(tmp_path), Target.GITHUB, every_min=3) == (
        "--every: GitHub starts no job more often than every 5 minutes; --every 5m or more"
    )


@pytest.mark.parametrize("name", HARD_NAMES)
def test_cronjobs_fit_kubernetes_schema_and_start_the_very_command(tmp_path: Path, name: str) -> None:
    project(tmp_path)
    (tmp_path / name).mkdir()
    manifest = make_project(tmp_path / name, NEEDY)
    jobs = list(yaml.safe_load_all(text_of(manifest, Target.KUBERNETES, image="example.com/it:1")))
    for job in jobs:
        kubernetes_validate.validate(job, "1.33", strict=True)
        pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == "example.com/it:1"
        words = [word.replace("$$", "$") for word in container["command"]]
        assert not any(re.search(r"(?<!\$)\$\(", word) for word in container["command"])
        assert words == ["run", "schedule", "tick", f"/project/{name}/m.yaml"]
        needed = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in container["env"]}
        assert {key for key, ref in needed.items() if ref.get("optional")} == {"PART"}
        assert set(needed) == {"DOUBLEWORD_API_KEY", "ALERT_URL", "FOLDER", "PART"}
    times = [(job["metadata"]["name"], job["spec"]["schedule"], job["spec"]["timeZone"]) for job in jobs]
    assert times == [
        ("run-m-due", CRON, "Europe/London"),
        ("run-m-poll", "2-59/10 * * * *", "Europe/London"),
    ]


def test_a_cronjobs_name_is_short_enough(tmp_path: Path) -> None:
    manifest = project(tmp_path, SCHEDULED + f"name: {'long-' * 12}end-\n")
    for job in yaml.safe_load_all(text_of(manifest, Target.KUBERNETES)):
        name = job["metadata"]["name"]
        assert len(name) <= 52
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
        kubernetes_validate.validate(job, "1.33", strict=True)


# ---------------------------------------------------------------- Airflow


@pytest.mark.parametrize("name", HARD_NAMES)
def test_an_airflow_file_compiles_and_declares_its_dag(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = project(tmp_path / name, NEEDY)
    (file,) = emitted(manifest, Target.AIRFLOW).files
    assert file.name == "run_m.py"
    code = compile(file.text, file.name, "exec")
    made: dict[str, Any] = {}

    def dag(**options: Any) -> Any:
        made.update(options)
        return lambda function: function

    def task(**options: Any) -> Any:
        return lambda function: lambda: made.update(task=function, **options)

    sdk, trigger = ModuleType("airflow.sdk"), ModuleType("airflow.timetables.trigger")
    vars(sdk).update(dag=dag, task=task)
    vars(trigger).update(MultipleCronTriggerTimetable=lambda *times, timezone: (*times, timezone))
    for module in (ModuleType("airflow"), ModuleType("airflow.timetables"), sdk, trigger):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    called: list[Any] = []
    space: dict[str, Any] = {}
    exec(code, space)
    assert (made["dag_id"], made["schedule"]) == ("run-m", (CRON, "2-59/10 * * * *", "Europe/London"))
    assert (made["catchup"], made["max_active_runs"], made["retries"]) == (False, 1, 0)
    space["subprocess"] = SimpleNamespace(run=lambda *words, **options: called.append((*words, options)))
    made["task"].__globals__["subprocess"] = space["subprocess"]
    made["task"]()
    words = [sys.executable, "-m", "runner", "schedule", "tick", str(manifest)]
    assert called == [(words, {"check": True})]


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("target", list(Target))
def test_secrets_are_named_and_never_written(tmp_path: Path, target: Target) -> None:
    result = emitted(project(tmp_path, NEEDY), target)
    assert [(one.name, one.is_secret, one.is_required) for one in result.needed] == [
        ("DOUBLEWORD_API_KEY", True, True),
        ("ALERT_URL", True, True),
        ("FOLDER", False, True),
        ("PART", False, False),
    ]
    texts = "".join(file.text for file in result.files)
    assert all(one.name in texts for one in result.needed)
    assert "canary" not in texts


@pytest.mark.parametrize("target", list(Target))
def test_a_manifest_without_a_schedule_has_nothing_to_emit(tmp_path: Path, target: Target) -> None:
    manifest = project(tmp_path, GOOD)
    assert refusal(manifest, target) == (
        f"{manifest}: has no `schedule`, so there is nothing to emit; "
        'add, for example, schedule: {cron: "17 2 * * 1-5", timezone: Europe/London}'
    )


@pytest.mark.parametrize("target", list(Target))
def test_a_path_that_no_line_can_hold_is_refused(tmp_path: Path, target: Target) -> None:
    project(tmp_path)
    (tmp_path / "a\nb").mkdir()
    manifest = make_project(tmp_path / "a\nb", SCHEDULED)
    assert "a\\nb/m.yaml: holds a character that is not printable" in refusal(manifest, target)


def test_looks_must_divide_an_hour(tmp_path: Path) -> None:
    assert refusal(project(tmp_path), Target.CRON, every_min=7) == (
        "--every: 7 minutes do not divide an hour; one of 1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60"
    )


def test_only_emitted_files_are_replaced(tmp_path: Path) -> None:
    result = emitted(project(tmp_path), Target.SYSTEMD)
    folder = tmp_path / "units"
    assert [path.name for path in write(result, folder)] == ["run-m.service", "run-m.timer"]
    write(result, folder)
    (folder / "run-m.timer").write_text("[Timer]\n")
    (folder / "run-m.service").unlink()
    with pytest.raises(InputError, match=r"run-m.timer: is there already, and not made by `emit`"):
        write(result, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["run-m.timer"]


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "units").touch()
    with pytest.raises(InputError, match=r"units.*can't be written"):
        write(emitted(project(tmp_path), Target.CRON), tmp_path / "units")
