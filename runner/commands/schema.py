"""`run schema`: the JSON Schema of manifests, for editors and other programs."""

from __future__ import annotations

from runner.manifest import schema_text


def schema() -> str:
    """The schema as JSON text, newline at the end."""
    return schema_text().rstrip("\n") + "\n"
