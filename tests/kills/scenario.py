"""One scenario: a point, a mode of the server, a seed; played to its end on a stage.

    play
      _prepare    a project of its own, a key of its own, the faults of the mode
      _approach   what must happen before the point is met
      _kill_at    the command, killed at the point; with some seeds killed again at a random moment
      _finish     the command without any kill, until it is done
      judge       the witness and the table

Everything that varies comes from dice that the scenario's name seeds, so a name repeats a scenario, but
for what threads and the clock decide.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runner.failpoints import VARIABLE
from runner.ledger import Ledger, locate
from tests.kills import weaknesses
from tests.kills.judge import Judgement, Mark, ServerBooks, judge
from tests.kills.modes import LONGEST_LATE_S, MODES
from tests.kills.program import Ended, run_program
from tests.kills.routes import RUN, TO_THE_END, Route, hits_of, route_to
from tests.localserver_process import ServerProcess, running_server

KILLED = -9
MOST_RUNS = 8
MOST_POINTS = 160
"""A run meets about so many points in all; a second kill is at one of them."""
TEMPLATE = "{{ text }}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is to be killed where, and under which conditions.

    Several points make one life: killed at the first, started again and killed at the second, and so on.
    """

    points: tuple[str, ...]
    mode: str
    seed: int

    @property
    def name(self) -> str:
        """Repeats it: `python -m tests.kills --only NAME`."""
        return f"{'+'.join(self.points)}/{self.mode}/{self.seed}"

    @classmethod
    def named(cls, name: str) -> Scenario:
        """The scenario of a name."""
        points, mode, seed = name.split("/")
        return cls(points=tuple(points.split("+")), mode=mode, seed=int(seed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the dice gave a scenario. `again`, `again_after_s`: a last kill, at a moment of no name."""

    rows: int
    shards: int
    attempts: int
    nth: int
    has_fence: bool
    failing: bool
    truncated: bool
    slow: bool
    again: str
    again_after_s: float | None
    is_repeated: bool

    @classmethod
    def of(cls, scenario: Scenario, route: Route, dice: random.Random) -> Shape:
        """Seed 0 is the plain one: with a fence, at the first hit, nothing else."""
        plain = scenario.seed == 0
        has_fence = route.has_fence if route.has_fence is not None else plain or dice.random() < 0.6
        # Without a fence a shard may be held; another one must come through all the same.
        shards = dice.randint(2, 3) if has_fence else 3
        how = 0.0 if plain else dice.random()
        first_only = plain or not has_fence or len(scenario.points) > 1
        return cls(
            rows=shards * dice.randint(2, 4),
            shards=shards,
            attempts=dice.randint(1, 2) + route.failing,
            nth=1 if first_only else dice.randint(1, hits_of(scenario.points[0])),
            has_fence=has_fence,
            failing=route.failing or (not plain and dice.random() < 0.3),
            truncated=route.truncated or (not plain and dice.random() < 0.2),
            slow=not plain and route.command == RUN and dice.random() < 0.2,
            again=f"*:{dice.randint(1, MOST_POINTS)}" if how > 0.8 else "",
            again_after_s=dice.uniform(0.0, 0.5) if 0.6 < how <= 0.8 else None,
            is_repeated=dice.random() < 0.1,
        )


@dataclass(slots=True)
class Stage:
    """A server, for one scenario after another.

    `ledger`: an empty one with all its tables, for scenarios that are not about making it.
    """

    folder: Path
    server: ServerProcess
    ledger: Path
    weakness: str = ""


@dataclass(slots=True)
class Played:
    """How a scenario went. `kills` counts every SIGKILL, `met` are the points at which one came."""

    scenario: Scenario
    judgement: Judgement
    kills: int = 0
    faults: int = 0
    met: tuple[str, ...] = ()
    codes: list[int] = field(default_factory=list)


@contextmanager
def stages(folder: Path, count: int) -> Iterator[list[Stage]]:
    """So many stages, each with a server of its own: faults are armed for all who use a server."""
    if not count:
        yield []
        return
    with (
        running_server(folder / f"server-{count}", finaliser_interval_s=0.5) as server,
        stages(folder, count - 1) as others,
    ):
        ledger = folder / f"empty-{count}" / ".runner" / "ledger.db"
        ledger.parent.mkdir(parents=True)
        Ledger.open(locate(str(ledger.parent.parent / "manifest.yaml"), {})).close()
        yield [*others, Stage(folder=folder, server=server, ledger=ledger)]


def play(scenario: Scenario, stage: Stage) -> Played:
    """The whole of it. Leaves the project's folder only where something was wrong."""
    run = _Run(scenario, stage)
    played = run.play()
    if not played.judgement.problems:
        shutil.rmtree(run.folder)
    return played


class _Run:
    def __init__(self, scenario: Scenario, stage: Stage) -> None:
        self._scenario = scenario
        self._stage = stage
        self._route = route_to(scenario.points[0])
        dice = random.Random(scenario.name)
        self._shape = Shape.of(scenario, self._route, dice)
        self._faults = MODES[scenario.mode](dice, has_fence=self._shape.has_fence)
        if self._route.fault is not None:
            self._faults.append({"times": len(scenario.points), **self._route.fault})
        self._key = f"{scenario.name.replace('/', '-')[:60]}-{os.urandom(4).hex()}"
        self.folder = stage.folder / self._key
        self._rows = self._dataset()
        self._played = Played(scenario=scenario, judgement=Judgement())
        self._errors: list[str] = []
        self._books = ServerBooks(stage.server.state_dir)

    def play(self) -> Played:
        mark = self._prepare()
        for command, point in self._route.before:
            if point == TO_THE_END:
                self._finish()
            else:
                self._command(command, point)
        if self._route.is_bought_first:
            self._arm()
        shape = self._shape
        for point in self._scenario.points:
            if self._command(self._route.command, f"{point}:{shape.nth}").code == KILLED:
                self._played.met += (point,)
        if shape.again or shape.again_after_s is not None:
            self._command(self._route.command, shape.again, shape.again_after_s)
        if self._route.command != RUN:
            self._command(self._route.command)
        self._finish()
        self._judge(mark)
        return self._played

    # ------------------------------------------------------------ the project

    def _dataset(self) -> list[dict[str, str]]:
        rows = [
            {"id": f"k{number}", "text": f"row-{number}-end of {self._key}"}
            for number in range(self._shape.rows)
        ]
        if self._shape.slow:
            rows[0]["text"] += " [[local:slow 0.3]]"
        if self._shape.truncated:
            rows[1]["text"] += " [[local:truncate]]"
        if self._shape.failing:
            rows[-1]["text"] += " [[local:fail 503]]"
        return rows

    def _prepare(self) -> Mark:
        """Writes the project; arms the faults, but on routes that do it later. Gives where the books end."""
        (self.folder / ".runner").mkdir(parents=True, mode=0o700)
        provider = {
            "base_url": self._stage.server.base_url,
            "api_key_env": "KILLS_KEY",
            "poll_interval_s": 0.05,
            "settle_s": 0.1,
        }
        if self._shape.has_fence:
            provider["name"] = "doubleword"
        manifest = {
            "version": 1,
            "name": "kills",
            "dataset": {"path": "rows.jsonl", "key": "id"},
            "prompt": {"template": "prompt.j2"},
            "model": {"provider": provider, "name": "m", "parameters": {"max_tokens": 100}},
            "batch": {"max_requests_per_file": -(-self._shape.rows // self._shape.shards)},
            "output": {"path": "results.jsonl"},
            "retry": {"attempts": self._shape.attempts, "backoff": {"initial": "20ms", "max": "20ms"}},
            "on_truncated": {"max_tokens_factor": 2, "ceiling": 200},
            "allow_failures": "100%",
        }
        if self._route.is_scheduled:
            manifest["schedule"] = {"cron": "* * * * *"}
        (self.folder / "manifest.yaml").write_text(json.dumps(manifest))
        (self.folder / "prompt.j2").write_text(TEMPLATE)
        if not self._scenario.points[0].startswith("ledger."):
            shutil.copyfile(self._stage.ledger, self.folder / ".runner" / "ledger.db")
        rows = self.folder / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in self._rows))
        os.utime(rows, (time.time() - 60,) * 2)  # a dataset as young as the run is not trusted
        self._stage.server.call("DELETE", "//faults")
        if not self._route.is_bought_first:
            self._arm()
        return self._books.mark()

    def _arm(self) -> None:
        for fault in self._faults:
            self._stage.server.arm(**fault)

    # ------------------------------------------------------------ runs

    def _command(self, command: tuple[str, ...], point: str = "", after_s: float | None = None) -> Ended:
        ours = {name: text for name, text in os.environ.items() if not name.startswith("RUNNER_")}
        environ = {**ours, "KILLS_KEY": self._key}
        if point:
            environ[VARIABLE] = point
        if self._stage.weakness:
            environ[weaknesses.VARIABLE] = self._stage.weakness
        ended = run_program(command, cwd=self.folder, environ=environ, kill_after_s=after_s)
        self._played.codes.append(ended.code)
        if ended.was_too_slow:
            self._errors.append(f"{' '.join(command)} did not end")
        elif ended.code == KILLED:
            self._played.kills += 1
        if ended.code not in (KILLED, 0, 3, 4, 75):
            self._errors.append(f"{' '.join(command)} left with {ended.code}: {ended.stderr}")
        elif "Traceback" in ended.stderr or "internal error" in ended.stderr:
            self._errors.append(ended.stderr)
        return ended

    def _finish(self) -> None:
        """The same command until the table is complete, or until only a person can help."""
        for _ in range(MOST_RUNS):
            code = self._command(RUN).code
            if code == 4 or (code == 0 and self._is_complete()):
                return

    def _is_complete(self) -> bool:
        table = self.folder / "results.jsonl"
        open_rows = ("pending", "cancelled")
        return table.exists() and not any(f'"_status":"{word}"' in table.read_text() for word in open_rows)

    # ------------------------------------------------------------ the end

    def _judge(self, mark: Mark) -> None:
        played = self._played
        if any(fault["kind"] == "late-effect" for fault in self._faults):
            time.sleep(LONGEST_LATE_S)  # what was put off may still come; only then is the witness complete
        self._books.wait_until_idle(mark)
        if played.codes[-1] == 4:
            self._command(RUN)  # what was held gets another look; perhaps its batch is there by now
        if self._shape.is_repeated:
            self._repeat(mark)
        armed = json.loads(self._stage.server.call("GET", "//faults")[2])["armed"]
        played.faults = sum(fault["fired"] for fault in armed)
        played.judgement = judge(
            self._rows,
            self.folder / "results.jsonl",
            self._books.executed(mark, self._key),
            attempts=self._shape.attempts,
            is_held=played.codes[-1] == 4 and not self._shape.has_fence,
        )
        played.judgement.tracebacks = len(self._errors)
        played.judgement.problems += self._errors

    def _repeat(self, mark: Mark) -> None:
        """Once more: nothing is sent, and the table has the same bytes."""
        table = self.folder / "results.jsonl"
        before = self._books.executed(mark, self._key), table.read_bytes()
        self._command(RUN)
        self._books.wait_until_idle(mark)
        if (self._books.executed(mark, self._key), table.read_bytes()) != before:
            self._errors.append("the same command again did something")
