"""Messages through Apprise, for addresses that only it knows. The extra `notify` brings it; without it
every question is answered with no.

Apprise lives here and nowhere else. Its rule: an address is a secret, so the logs of Apprise and of what it
sends with are heard by nobody, and what goes wrong is told without it.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

TOTAL_S = 15.0


def is_installed() -> bool:
    """Whether the extra is there."""
    return _apprise() is not None


def knows(address: str) -> bool:
    """Whether Apprise is there and can send to this address (or to these, separated by blanks)."""
    return _recipients(address) is not None


def send(address: str, *, title: str, text: str) -> str | None:
    """Send a message. None where it was taken, else what went wrong, without the address. Never raises."""
    recipients = _recipients(address)
    if recipients is None:
        return "Apprise does not know the address"
    try:
        return None if recipients.notify(title=title, body=text) else "Apprise could not deliver the message"
    except Exception as error:  # of a plug-in of others; its text may hold the address
        return f"Apprise failed ({type(error).__name__})"


def _recipients(address: str) -> Any:
    apprise = _apprise()
    if apprise is None:
        return None
    with suppress(Exception):
        asset = apprise.AppriseAsset(async_mode=False, secure_logging=True)
        recipients = apprise.Apprise(asset=asset)
        if recipients.add(address):
            return recipients
    return None


def _apprise() -> Any:
    """The library, silenced; None where it is not installed."""
    try:
        import apprise
    except Exception:  # one that can't be imported is none, whatever ails it
        return None
    for name in ("apprise", "urllib3"):  # what it sends with writes addresses too
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return apprise
