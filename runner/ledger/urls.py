"""What RUNNER_LEDGER says: which database it names, and how that is told without its secrets.

The rule: a URL is read here and nowhere else, because it may hold a password, in its middle or in its query,
and a text that can't be read as one may still hold half of one. What is shown, and what is written into the
journal, is made of the parts that are no secrets.
"""

from __future__ import annotations

import hashlib

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from runner.errors import LedgerError

POSTGRESQL = "postgresql+psycopg"
_SPELLINGS = (POSTGRESQL, "postgresql", "postgres")
"""People copy URLs from where they rent the server, and those name no driver of Python."""
_NO_SECRETS = ("host", "port", "dbname", "options")
NEXT_STEP = (
    "give an SQLAlchemy URL: sqlite:////folder/ledger.db, or postgresql://user@host/database and the "
    "password in ~/.pgpass"
)


def read_url(url: str) -> URL | None:
    """Its parts, the driver for PostgreSQL filled in; None for a text that is no URL.

    One with a plain @ in a password is none: all behind it would be taken for the host, and shown."""
    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        return None
    if parts.get_backend_name() != "sqlite" and "@" in f"{parts.host}{parts.database}":
        return None
    return parts.set(drivername=POSTGRESQL) if parts.drivername in _SPELLINGS else parts


def usable_url(url: str) -> URL:
    """Its parts. Errors: LedgerError for no URL, and for a database or driver that nobody has tried."""
    parts = read_url(url)
    if parts is None:
        # What the parser says quotes the text, and so perhaps the password.
        raise LedgerError(
            "RUNNER_LEDGER: the database can't be used: this is no URL (in a password, @ : / and % are "
            "written %40 %3A %2F %25)",
            next_step=NEXT_STEP,
        )
    if parts.drivername != POSTGRESQL and parts.get_backend_name() != "sqlite":
        raise LedgerError(f"RUNNER_LEDGER: {parts.drivername} is not supported", next_step=NEXT_STEP)
    return parts


def is_server(parts: URL) -> bool:
    """Whether it is PostgreSQL."""
    return parts.drivername == POSTGRESQL


def shown_url(url: str) -> str:
    """The URL without a password, and without all of its query that is not known to hold none."""
    parts = read_url(url)
    if parts is None:
        return "RUNNER_LEDGER"
    query = {name: value for name, value in parts.query.items() if name in _NO_SECRETS}
    return parts.set(query=query).render_as_string(hide_password=True)


def url_digest(url: str) -> str:
    """Tells databases that share a folder from each other. Not made of who asks for a server's: a new
    password leaves the same ledger, and a digest of a short one would give it away."""
    parts = read_url(url)
    if parts is not None and is_server(parts):
        query = {name: value for name, value in parts.query.items() if name in _NO_SECRETS}
        url = URL.create(
            POSTGRESQL, host=parts.host, port=parts.port, database=parts.database, query=query
        ).render_as_string()
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
