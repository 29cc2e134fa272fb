"""A chat template that makes llama.cpp come to our token ids.

llama.cpp writes a mark such as `<__media__>` for a picture into the text of a message, with nothing around it (some versions
give templates blocks, with a mark for a text); it cuts the rendering at the marks, and makes ids of what is between them.
Ours puts a picture on a line of its own, starts the text after it anew, and has tokens that swallow the white space beside
them. What is written here goes around a template, and leaves it as it is:

    messages ──contents as the template reads them──> its own text ──white space, marks──> what llama.cpp cuts
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ...processing import LlavaProcessor
from ...processing.chat_templates import reads_blocks, reads_strings
from ...processing.plain_tokenizer import control_tokens
from .format_base import CannotExpress

_GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")
_PROBE = [{"role": "user", "content": "Q"}]

# A content becomes parts again, and pictures stand on lines of their own.
_BEFORE = """\
{%- set all = namespace(messages=[], parts=[], text='', mark=image_token) -%}
{%- for message in messages -%}
    {%- set all.parts = [] -%}
    {%- set whole = [{'type': 'text', 'text': message['content']}] -%}
    {%- for block in (whole if message['content'] is string else message['content']) -%}
        {%- if block['type'] == 'text' -%}
            {%- for piece in block['text'].split('<__media') -%}
                {%- set after_mark = piece.split('__>') -%}
                {%- if not loop.first -%}
                    {%- set all.mark = '<__media' ~ after_mark[0] ~ '__>' -%}
                    {%- set all.parts = all.parts + [{'type': 'image'}] -%}
                {%- endif -%}
                {%- set text = piece if loop.first else after_mark[1:] | join('__>') -%}
                {%- if text -%}
                    {%- set all.parts = all.parts + [{'type': 'text', 'text': text}] -%}
                {%- endif -%}
            {%- endfor -%}
        {%- else -%}
            {%- set all.mark = block['text'] or image_token -%}
            {%- set all.parts = all.parts + [{'type': 'image'}] -%}
        {%- endif -%}
    {%- endfor -%}
    {%- set all.text = '' -%}
    {%- for part in all.parts -%}
        {%- if not loop.first and 'image' in [part['type'], all.parts[loop.index0 - 1]['type']] -%}
            {%- set all.text = all.text ~ '\\n' -%}
        {%- endif -%}
        {%- set all.text = all.text ~ (part['text'] if part['type'] == 'text' else all.mark ~ after_image) -%}
    {%- endfor -%}
    {%- set content = all.parts if gives_blocks else all.text -%}
    {%- set all.messages = all.messages + [{'role': message['role'], 'content': content}] -%}
{%- endfor -%}
{%- set messages = all.messages %}
"""
_AFTER = """
{%- set all.text = before_all ~ (rendered.replace(image_token, all.mark ~ after_image) if gives_blocks else rendered) -%}
{%- for token in swallows_before -%}
    {%- set pieces = all.text.split(token) -%}
    {%- set all.text = '' -%}
    {%- for piece in pieces -%}
        {%- set all.text = all.text ~ (piece if loop.last else piece.rstrip() ~ token) -%}
    {%- endfor -%}
{%- endfor -%}
{%- for token in swallows_after -%}
    {%- set pieces = all.text.split(token) -%}
    {%- set all.text = '' -%}
    {%- for piece in pieces -%}
        {%- set all.text = all.text ~ (piece if loop.first else token ~ piece.lstrip()) -%}
    {%- endfor -%}
{%- endfor -%}
{{- all.text -}}
"""


@dataclass(frozen=True)
class WordStarts:
    """Where the tokenizer puts its word-start mark unasked.

    Args:
        at_first: At the beginning of a text.
        always: After every token of its own, too.
    """

    at_first: bool
    always: bool


def word_starts(processor: LlavaProcessor) -> WordStarts:
    """Where a tokenizer does, as it shows with a letter alone, and behind an image."""
    tokenize = processor.tokenizer.tokenize
    first, bare = tokenize("a"), processor.tokenizer.backend_tokenizer.model.token_to_id("a")
    amid = tokenize(f"{processor.image_token}a")[1:]
    marked = first != ["a"] and bare is not None
    return WordStarts(at_first=marked, always=marked and first == amid)


def llama_cpp_template(processor: LlavaProcessor) -> str:
    """The chat template for the file.

    Raises:
        CannotExpress: The processor has several templates, or none.
    """
    own = processor.chat_template
    if not isinstance(own, str):
        raise CannotExpress(
            f"chat_template={own!r:.80}: a GGUF file has one template. Set processor.chat_template to the one that is to "
            "serve, and save it."
        )
    tokens: dict[str, str] = processor.tokenizer.special_tokens_map
    probe = (own, processor.image_token, tuple(tokens.items()))
    gives_blocks = reads_blocks(*probe) and not reads_strings(*probe)
    starts = word_starts(processor)
    anew = " " if starts.at_first and not starts.always and processor.starts_text_anew else ""
    begins_with_bos = starts_with_bos(processor)
    bos = tokens.get("bos_token", "")
    values = {
        "image_token": processor.image_token,
        "after_image": anew,
        "gives_blocks": gives_blocks,
        **{name: value for name, value in tokens.items() if isinstance(value, str)},
        "bos_token": bos and bos + anew,
    }
    before_all = " " if starts.at_first and not starts.always and not begins_with_bos else ""
    controls = control_tokens(processor.tokenizer.backend_tokenizer).items()
    swallows = [[name for name, token in controls if getattr(token, side)] for side in ("lstrip", "rstrip")]
    body = _GENERATION.sub(_as_condition, own.removesuffix("\n"))
    if gives_blocks or before_all or any(swallows):
        values |= {"before_all": before_all, "swallows_before": swallows[0], "swallows_after": swallows[1]}
        body = f"{{%- set rendered %}}\n{body}{{% endset -%}}{_AFTER}"
    return f"{_set(values.items())}{_BEFORE}{body}"


def starts_with_bos(processor: LlavaProcessor) -> bool:
    """Whether the template writes the bos token at the start of a conversation."""
    bos = processor.tokenizer.bos_token
    rendered = processor.apply_chat_template(_PROBE, tokenize=False, add_generation_prompt=True)
    return bos is not None and rendered.startswith(bos)


def _set(values: Iterable[tuple[str, object]]) -> str:
    return "".join(f"{{%- set {name} = {json.dumps(value)} -%}}\n" for name, value in values)


def _as_condition(tag: re.Match[str]) -> str:
    """A tag that says what is supervised, as one that every engine knows."""
    left, end, right = tag[1], tag[2], tag[3]
    return f"{{%{left} endif {right}%}}" if end else f"{{%{left} if true {right}%}}"
