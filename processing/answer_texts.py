"""Answers that come apart from their prompts, as trl's collators of preferences and of completions have them tokenized.

A tokenizer puts its word-start mark before a text, and an answer is none: it goes on from the header of its turn. What
tells an answer is what the template writes around one.
"""

from typing import NamedTuple


class AnswerFrame(NamedTuple):
    """What a template writes around an answer.

    Attributes:
        bos (`str`): The beginning-of-sequence token, with which its conversations begin.
        before (`str`): A prompt, to the end of the answer's header.
        after (`str`): The stop, and what else follows an answer.
    """

    bos: str
    before: str
    after: str

    def holds(self, text: str) -> bool:
        """Whether a text, to which no bos token is to be added, is an answer: it ends as answers end, and does not begin
        as conversations begin."""
        return text.endswith(self.after) and not text.startswith(self.bos)
