"""`run schedule serve`: the click side of the loop."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.arguments import Bending, Duration, Session, bending_options, manifest_options
from runner.cli.json_log import JsonLog
from runner.cli.signals import Interrupts, leave_at_once
from runner.errors import EXIT_DONE, InputError, Mistake

if TYPE_CHECKING:
    from runner.schedule.serving import Server, Wakeups
    from runner.schedule.webhooks import Secrets

GRACE_S = 4.5
"""How long a step may take to end once somebody asked for a stop. The next start goes on with it."""


@click.command(
    epilog="""\b
What it does goes to stderr, one JSON object a line. SIGTERM and Ctrl-C stop it
within 5 seconds; batches go on, and the next tick collects them.

\b
Examples:
  run schedule serve                          every manifest of this folder that has a schedule
  run schedule serve manifest.yaml --port 9464
  run schedule serve --port 9464 --webhook    the provider's webhooks, on /webhook
"""
)
@click.argument("targets", metavar="[DIR|MANIFEST]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--every",
    type=Duration(),
    default="1m",
    show_default=True,
    metavar="TIME",
    help="How often to look at what is under way.",
)
@click.option(
    "--port", type=int, metavar="PORT", help="Serve /healthz and /metrics there; 0 takes a free one."
)
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on, with --port.",
)
@click.option("--webhook", is_flag=True, help="Take the provider's signed webhooks on /webhook, with --port.")
@click.option(
    "--webhook-secret-env",
    "secret_env",
    metavar="NAME",
    default="RUNNER_WEBHOOK_SECRET",
    show_default=True,
    help="Name of the variable that holds the webhooks' secret (whsec_...).",
)
@bending_options
@click.pass_obj
def serve(
    session: Session,
    targets: tuple[Path, ...],
    every: float,
    port: int | None,
    host: str,
    webhook: bool,
    secret_env: str,
    bent: Bending,
) -> int:
    """Keep the time: look at every schedule in a loop, until Ctrl-C."""
    session.enter("schedule serve")
    # A signal is how a loop is ended, so it is no interruption, also in the moment before it listens to one.
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        from runner.schedule.serving import ServeOptions, Server, Wakeups

        log = JsonLog()
        secrets = _secrets(secret_env, port) if webhook else None
        if not every >= 1:
            raise InputError([Mistake(where="--every", what="is too short", hint="at least 1s")])
        options = ServeOptions(
            targets=list(targets) or [Path()],
            environ=dict(os.environ),
            every_s=every,
            bent=manifest_options("", bent),
        )
        wakeups = Wakeups()
        server = Server(options, reporter=log, log=log.log, wakeups=wakeups)
        stack.enter_context(session.interrupts.noted())
        _stop_on_signal(session.interrupts, wakeups)
        fields = {"targets": [str(target) for target in options.targets], "every_s": every}
        if port is not None:
            fields["address"] = _open_door(stack, server, wakeups, secrets, host, port)
        log.log("serving", fields)
        server.run()
    return EXIT_DONE


def _secrets(name: str, port: int | None) -> Secrets:
    """The secret of webhooks from the environment. Raises InputError; its text is never shown."""
    from runner.schedule.webhooks import Secrets

    mistakes = []
    if port is None:
        mistakes.append(Mistake(where="--webhook", what="goes with --port", hint="write --port 9464, too"))
    text = os.environ.get(name, "")
    if not text:
        what = f"needs the environment variable {name}, which is not set"
        mistakes.append(Mistake(where="--webhook", what=what, hint=f"export {name}=whsec_..."))
    try:
        secrets = Secrets(text) if text else None
    except ValueError as error:
        mistakes.append(Mistake(where=name, what=str(error), hint="copy it as the provider shows it"))
    if mistakes or secrets is None:
        raise InputError(mistakes)
    return secrets


def _open_door(
    stack: ExitStack, server: Server, wakeups: Wakeups, secrets: Secrets | None, host: str, port: int
) -> str:
    """Listen until the stack closes. Gives the address; raises InputError for one that can't be had."""
    from runner.commands.serve import address_mistake
    from runner.localserver.sockets import AddressError
    from runner.schedule.listening import Door, listening

    door = Door(server.health, server.metrics, secrets=secrets, wake=wakeups.tell, clock=time.time)
    try:
        return stack.enter_context(listening(door, host, port))
    except AddressError as error:
        raise address_mistake(host, port, error) from error


def _stop_on_signal(interrupts: Interrupts, wakeups: Wakeups) -> None:
    """The first signal stops the loop; where that takes too long, the program is left as after a kill, which
    loses nothing."""

    def watch() -> None:
        interrupts.wait()
        wakeups.stop()
        time.sleep(GRACE_S)
        leave_at_once()

    threading.Thread(target=watch, name="signals", daemon=True).start()
