"""Prompts: a Jinja2 file and a row in, messages out.

The blocks `system`, `user` and `assistant` of a template are its messages, in the order in which they
stand; a template without them is one user message. Columns are variables by their names, `row` is the whole
row (`row["First name"]`), `params` are the manifest's. White space around a message is cut off, a line with
nothing but tags leaves no line, and NULL is written as empty text (and still `is none`).
The home of jinja2. This room knows nothing of manifests, datasets or requests.
"""

from runner.prompt.compiling import Prompt, PromptSource, compile_prompt
from runner.prompt.files import TemplateText
from runner.prompt.packaged import render_packaged

__all__ = ["Prompt", "PromptSource", "TemplateText", "compile_prompt", "render_packaged"]
