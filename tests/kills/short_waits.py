"""The program's own waits made short, in a process that a test started. What is done, and in which order,
is untouched; only how long the program waits in between.

Production waits half a minute and more where a test has a tenth of a second: an intent may be sent for at
least five seconds, an account is polled thirty times a minute, a refused call is tried again after
seconds. All of them are plain numbers, read where they are used, so they are set here and nowhere in the
program. `settle_s` and `poll_interval_s` are settings of the manifest and need no help.
"""

from __future__ import annotations

import functools

from runner.commands import tracks
from runner.core import states
from runner.provider import client

SEND_WINDOW_S = 0.5
BACKOFF_S = 0.02


def shorten_waits() -> None:
    """From here on in this process."""
    states.SHORTEST_SEND_WINDOW_S = SEND_WINDOW_S
    states._backoff_s = lambda attempt: BACKOFF_S
    tracks.POLLS_PER_MINUTE = 100_000
    client.Patience = functools.partial(  # type: ignore[misc,assignment]
        client.Patience, first_wait_s=0.02, max_wait_s=0.1
    )
