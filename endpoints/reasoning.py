"""A model's reasoning, told apart from its answer.

Servers without a reasoning parser leave the reasoning in the text: between tags (Qwen3, DeepSeek-R1, Magistral, Kimi-VL),
without the opening tag where the chat template has written that already, and in channels (gpt-oss, OpenAI's harmony
format). None of it is the answer.
"""

import re

# Opening and closing, as they are written by the models named
TAGS = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen3, GLM
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
)
WRAPPERS = re.compile(r"^\s*<answer>(.*?)(?:</answer>\s*)?$", re.DOTALL)  # around the answer, where tags part the two
CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
CHANNEL_END = re.compile(r"<\|(?:end|return|call|start)\|>")
# Harmony whose special tokens were dropped when the text was decoded
BARE_CHANNELS = re.compile(r"^\s*analysis(?=[A-Z\W]).*assistantfinal", re.DOTALL)
BARE_ANALYSIS = re.compile(r"^\s*analysis(?=[A-Z])")


def split_reasoning(text: str) -> tuple[str, str]:
    """Part a text into reasoning and answer.

    Args:
        text: As the model wrote it.

    Returns:
        The reasoning, and the answer without any of it; the answer is empty where the reasoning never ended.
    """
    if "<|channel|>" in text:
        return _split_channels(text)
    if bare := BARE_CHANNELS.match(text):
        return bare[0], text[bare.end() :].strip()
    if BARE_ANALYSIS.match(text):
        return text, ""
    found = []
    for opening, closing in TAGS:
        if opening in text or closing in text:
            reasoning, text = _split_tags(text, opening, closing)
            found.append(reasoning)
    if not found:
        return "", text
    wrapped = WRAPPERS.match(text)
    return "\n".join(filter(None, found)), (wrapped[1] if wrapped else text).strip()


def has_reasoning(text: str) -> bool:
    """Whether a text holds marks of a model's reasoning, which no question and no answer may."""
    return "<|channel|>" in text or any(mark in text for pair in TAGS for mark in pair)


def _split_tags(text: str, opening: str, closing: str) -> tuple[str, str]:
    reasoning = []

    def take(block: re.Match[str]) -> str:
        reasoning.append(block[1])
        return ""

    text = re.sub(f"{re.escape(opening)}(.*?){re.escape(closing)}", take, text, flags=re.DOTALL)
    if closing in text:  # the chat template had written the opening tag
        before, _, text = text.rpartition(closing)
        reasoning.insert(0, before)
    if opening in text:  # it never ended
        text, _, after = text.partition(opening)
        reasoning.append(after)
    return "\n".join(part.strip() for part in reasoning if part.strip()), text


def _split_channels(text: str) -> tuple[str, str]:
    marks = list(CHANNEL.finditer(text))
    reasoning, answer = [], ""
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        content = text[mark.end() : following.start() if following else len(text)]
        content = CHANNEL_END.split(content)[0].strip()
        if mark[1] == "final":
            answer = content
        else:
            reasoning.append(content)
    return "\n".join(reasoning) or text, answer
