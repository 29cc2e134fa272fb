"""Text of others, made fit to be looked at."""

import re

# Controls would be obeyed by a terminal, and overrides of the writing direction would reorder the page
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Text with what cannot be seen made visible: line breaks and tabs by signs, control characters by escapes."""
    text = _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    return text.replace("\n", "⏎\n").replace("\t", "⇥\t")
