"""The prompt of a manifest, before any row is looked at."""

from __future__ import annotations

from runner.commands.times import as_variables
from runner.commands.workplace import Workplace
from runner.core.model import RunTimes
from runner.prompt import PromptSource


def prompt_source(workplace: Workplace, times: RunTimes | None = None) -> PromptSource:
    """What the template is made a prompt of. Without `times` for a look at the template only."""
    prompt = workplace.manifest.prompt
    return PromptSource(
        template=prompt.template,
        search_root=str(workplace.place.project),
        params=dict(prompt.params),
        max_output_bytes=workplace.provider.limits.max_body_bytes,
        times=as_variables(times) if times is not None else {},
        is_isolated=workplace.is_isolated,
    )
