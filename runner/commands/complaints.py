"""Why a run ends otherwise than done, as errors for people: what happened, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.commands.options import ManifestOptions, command_line
from runner.core.model import Problem, ProblemKind
from runner.core.states import ShardState, Submission
from runner.errors import DecisionNeededError, ProviderRefusedError, RunnerError

_NEXT_STEPS = {
    ProblemKind.AUTHENTICATION: "set the right key in the environment and run the same command again",
    ProblemKind.PAYMENT: "add credit and run the same command again; everything so far is kept",
    ProblemKind.VOLUME: "verify the account or wait for the window to move, then run the same command again",
}
COMPLAINTS: dict[ShardState, tuple[type[RunnerError], str]] = {
    ShardState.HELD: (
        DecisionNeededError,
        "`{resolve}` shows what can be decided; nothing was bought twice",
    ),
    ShardState.REFUSED: (
        ProviderRefusedError,
        "mend what the server names and run the same command again; other shards are kept",
    ),
}
"""Ends of a shard that a person must hear of, with the error and the next step."""


def refusal(provider: str, problem: Problem) -> ProviderRefusedError:
    """The server wants nothing more from this account."""
    next_step = _NEXT_STEPS.get(problem.kind, "run the same command again when it is cured")
    return ProviderRefusedError(f"{provider} refused: {problem.message}", next_step=next_step)


def complaint_of(shards: Sequence[Submission], resolve: str) -> RunnerError | None:
    """Shards that were held or refused, as one error; None where there is none. `resolve` is the command
    that shows what can be decided."""
    for state, (kind, next_step) in COMPLAINTS.items():
        problems = [f"shard {shard.slot}: {shard.problem}" for shard in shards if shard.state is state]
        if problems:
            shards_are = "1 shard is" if len(problems) == 1 else f"{len(problems)} shards are"
            what = "\n".join([f"{shards_are} {state}:", *problems])
            return kind(what, next_step=next_step.format(resolve=resolve))
    return None


def deciding(path: str, here: ManifestOptions) -> str:
    """The command to decide about a held shard of the manifest at this path: where its file is gone, that of
    the manifest that is here."""
    return command_line("resolve", ManifestOptions(path=path) if Path(path).exists() else here)


def complaint_of_others(
    held: Mapping[str, Sequence[Submission]], here: ManifestOptions
) -> RunnerError | None:
    """Held shards of other manifests that this one's rows wait for, by the path of the manifest as a person
    types it; None where there is none."""
    if not held:
        return None
    problems = [
        f"{path}, shard {shard.slot}: {shard.problem}" for path, shards in held.items() for shard in shards
    ]
    what = "\n".join(["rows wait for shards of other manifests that are held:", *problems])
    commands = list(dict.fromkeys(f"`{deciding(path, here)}`" for path in held))
    show = "shows" if len(commands) == 1 else "show"
    return DecisionNeededError(
        what, next_step=f"{' and '.join(commands)} {show} what can be decided; nothing was bought twice"
    )


def batches_go_on(batches: int) -> str:
    """What is left behind, in words."""
    if not batches:
        return "nothing is under way"
    return "1 batch goes on" if batches == 1 else f"{batches} batches go on"
