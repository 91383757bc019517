"""The commands to begin with: `init`, `schema`, `local-server`."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path

import click

from runner.cli.arguments import Session
from runner.cli.streams import say, write_out
from runner.cli.texts import here, path_here
from runner.errors import EXIT_DONE


@click.command(
    epilog="""\b
Examples:
  run init                            in this folder
  run init reviews                    in a folder `reviews`
"""
)
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@click.pass_obj
def init(session: Session, folder: Path) -> int:
    """Make a small project that works at once."""
    from runner.commands.init import MANIFEST
    from runner.commands.init import init as begin

    session.enter("init")
    made = begin(folder)
    for path in made.created:
        say(f"created  {path_here(path, here())}")
    say(f"next:    run {shlex.quote(path_here(str(folder / MANIFEST), here()))}")
    return EXIT_DONE


@click.command(
    epilog="""\b
Examples:
  run schema > manifest.schema.json
  # yaml-language-server: $schema=manifest.schema.json      first line of a manifest
"""
)
@click.pass_obj
def schema(session: Session) -> int:
    """Print the JSON Schema of manifests, for editors."""
    from runner.commands.schema import schema as text

    session.enter("schema")
    write_out(text())
    return EXIT_DONE


@click.command(
    "local-server",
    epilog="""\b
Examples:
  run local-server
  run local-server --upstream http://127.0.0.1:11434/v1     answers from Ollama
  run local-server --faults trouble.jsonl                   rehearse trouble: errors, lost replies
  OPENAI_BASE_URL=http://127.0.0.1:8720/v1 python my_batch_client.py
""",
)
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--port", type=int, metavar="PORT", default=8720, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where files and batches are kept. Default: ~/.local/state/runner/local-server.",
)
@click.option(
    "--upstream", metavar="URL", help="OpenAI-compatible server that answers instead of the stand-in."
)
@click.option(
    "--settings",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="JSON file with limits, delays, models, keys.",
)
@click.option(
    "--faults",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="JSON or JSONL file of faults to arm, in place of those left armed; GET /faults lists the kinds.",
)
@click.pass_obj
def local_server(
    session: Session,
    host: str,
    port: int,
    state: Path | None,
    upstream: str | None,
    settings: Path | None,
    faults: Path | None,
) -> int:
    """Serve the batch API on this machine, for any client."""
    from runner.commands.serve import armed, default_state, serve

    session.enter("local-server")
    folder = state if state is not None else default_state(os.environ)

    def announce(base_url: str) -> None:
        source = (
            f"answers come from {upstream}" if upstream else "answers are made up here, always the same ones"
        )
        keys = (
            "any key is accepted"
            if settings is None
            else f"keys and limits as in {path_here(str(settings), here())}"
        )
        say(f"listening on {base_url}; {source}; {keys}; Ctrl-C stops it")
        say(f"state in {path_here(str(folder), here())}")
        trouble = armed(folder)
        if trouble:
            say(f"{trouble} {'fault is' if trouble == 1 else 'faults are'} armed: it will misbehave")
        write_out(f"{base_url}\n")

    # Ctrl-C is how a server is ended, so it is no interruption, also in the moment before it listens.
    with suppress(KeyboardInterrupt):
        serve(
            host=host,
            port=port,
            state=folder,
            upstream=upstream,
            settings=settings,
            faults=faults,
            announce=announce,
        )
    return EXIT_DONE
