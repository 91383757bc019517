"""The usual result line, told in one look.

Nearly every line is the same: a chat answer that ended by itself, with its tokens counted. For it alone
`read_result_line` and `judge` make a dozen objects that say nothing new. What is told here is what they would
say (`usual_outcome`); whatever is not fully recognised is left to them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from runner.core.model import Outcome, Status
from runner.core.settling import MAX_TOKENS, WORD_LIMIT


class UsualAnswer(NamedTuple):
    """What is told of a line with HTTP status 200, no error, and a chat answer in one text that ended with
    `stop`. `line_id` is the response's id."""

    custom_id: str
    input_tokens: int
    output_tokens: int
    model: str
    line_id: str

    def outcome(self) -> Outcome:
        """What `judge` says of it."""
        return Outcome(
            Status.SUCCEEDED, "stop", None, self.input_tokens, self.output_tokens, self.model, self.line_id
        )


def usual_answer(line: Any) -> tuple[str, int, int, str, str] | None:
    """The parts of a `UsualAnswer`, from a decoded line; None for any other line. Never raises."""
    try:
        response = line["response"]
        body = response["body"]
        choice = body["choices"][0]
        message, usage = choice["message"], body["usage"]
        custom_id, line_id, model = line["custom_id"], line["id"], body["model"]
        input_tokens, output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        if (
            response["status_code"] == 200
            and line["error"] is None
            and choice["finish_reason"] == "stop"
            and type(message["content"]) is str
            and message.get("refusal") is None
            and type(custom_id) is type(line_id) is type(model) is str
            and 0 < len(line_id) <= WORD_LIMIT
            and 0 < len(model) <= WORD_LIMIT
            and type(input_tokens) is type(output_tokens) is int
            and 0 <= input_tokens < MAX_TOKENS
            and 0 <= output_tokens < MAX_TOKENS
        ):
            return custom_id, input_tokens, output_tokens, model, line_id
    except (KeyError, IndexError, TypeError):
        pass  # what the line lacks, `judge` finds too
    return None
