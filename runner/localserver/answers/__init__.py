"""What the local stand-in for a model says: a function of the request body alone, at once.

The answers are readable, deterministic and honest about being a stand-in; they have the shapes of the real
endpoints and satisfy the JSON Schema that a request asks for. Bodies that a real upstream would refuse are
refused with its 400.
"""

from runner.localserver.answers.answer import Answer, answer

__all__ = ["Answer", "answer"]
