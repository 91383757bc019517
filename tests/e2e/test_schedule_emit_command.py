"""`run schedule emit` as a process: files on stdout or in a folder, what to set on stderr, mistakes told."""

from __future__ import annotations

from pathlib import Path

from tests.project_factory import make_project

SCHEDULE = {"cron": "17 2 * * 1-5", "timezone": "Europe/London"}


def test_files_go_to_stdout_and_what_to_set_to_stderr(tmp_path: Path) -> None:
    project = make_project(tmp_path, schedule=SCHEDULE, notify={"url_env": "ALERT_URL"})
    done = project.call("schedule", "emit", "--target", "systemd", "manifest.yaml")
    assert done.code == 0
    assert done.stdout.startswith("# ---- run-test.service\n# Made by `run schedule emit`")
    assert "\n# ---- run-test.timer\n" in done.stdout
    assert f'schedule" "tick" "{project.manifest_path}"\n' in done.stdout
    assert done.stderr == "to set   ALERT_URL  (secret: the address to tell how a run ended)\n"


def test_files_go_to_a_folder(tmp_path: Path) -> None:
    project = make_project(tmp_path, schedule=SCHEDULE)
    done = project.call("schedule", "emit", "--target", "cron", "-o", "out", "manifest.yaml")
    assert (done.code, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "wrote    out/run-test.crontab",
        "to set   nothing: this manifest needs no variable of the environment",
    ]
    assert "17 2 * * 1-5 " in (tmp_path / "out" / "run-test.crontab").read_text()


def test_mistakes_are_told_without_a_traceback(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    for arguments, words in (
        (["--target", "cron", "manifest.yaml"], "has no `schedule`"),
        (["--target", "anacron", "manifest.yaml"], "'anacron' is not one of"),
        (["--target", "cron", "--image", "x", "manifest.yaml"], "--image: goes with --target kubernetes"),
        (["--target", "cron", "no.yaml"], "no.yaml: no such file"),
        (["--target", "cron", "--every", "90s", "manifest.yaml"], "--every: 90 seconds are no whole number"),
        (["manifest.yaml"], "missing option"),
    ):
        done = project.call("schedule", "emit", *arguments)
        assert done.code == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr
