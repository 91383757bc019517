"""Keys that look like the repeat of another row: `k0 #2` beside `k0`."""

# ruff: noqa: S608 - the path goes through engine.text, the number is a number
from __future__ import annotations

from runner.dataset import engine


def keys_like_repeats(path: str, repeats: int, *, limit: int) -> list[tuple[str, str]]:
    """(key, the key whose repeat it looks like), at most so many; of a snapshot, for so many repeats."""
    numbers = "|".join(str(number) for number in range(2, repeats + 1))
    if not numbers:
        return []
    table = f"read_parquet({engine.text(path)})"
    ending = f"' #({numbers})$'"
    query = (
        f"SELECT a._key, b._key FROM {table} a "
        f"JOIN {table} b ON b._key = regexp_replace(a._key, {ending}, '') "
        f"WHERE regexp_matches(a._key, {ending}) ORDER BY a._position LIMIT {limit}"
    )
    connection = engine.connect(files=[path])
    try:
        return [(str(key), str(like)) for key, like in connection.execute(query).fetchall()]
    finally:
        connection.close()
