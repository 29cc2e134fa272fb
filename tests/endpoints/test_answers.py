"""The one reader of a model's answer: what is an answer, what is reasoning, refusal, a cut, or no answer at all."""

from typing import Any

import pytest

from llavakit.endpoints.answers import Again, Outcome, parse_completion, read_completion
from llavakit.endpoints.chat_model import CallError, Completion
from llavakit.endpoints.reasoning import has_reasoning, split_reasoning

from ..servers.chat_server import completion

ANSWER = "A red mug stands on a table."
HARMONY = (
    "<|channel|>analysis<|message|>A mug. Not a cup.<|end|><|start|>assistant<|channel|>final<|message|>"
    f"{ANSWER}<|return|>"
)


@pytest.mark.parametrize(
    "text",
    [
        ANSWER,
        f"<think>\n\n</think>\n\n{ANSWER}",
        f"<think>\nA mug; not a cup.\n</think>\n\n{ANSWER}",
        f"A mug; I go from the handle to the rim.\n</think>\n\n{ANSWER}",
        f"<think>I write </think> and mean it.</think>{ANSWER}",
        f"<thinking>A mug.</thinking>{ANSWER}",
        f"[THINK]A mug.[/THINK]{ANSWER}",
        f"◁think▷A mug.◁/think▷{ANSWER}",
        f"<think>A mug.</think><answer>{ANSWER}</answer>",
        HARMONY,
        HARMONY.removeprefix("<|channel|>analysis<|message|>"),
        f"<|channel|>final <|constrain|>text<|message|>{ANSWER}",
        f"analysisWe need to say what is there.assistantfinal{ANSWER}",
    ],
)
def test_the_answer_is_what_is_left_without_reasoning(text: str) -> None:
    reasoning, answer = split_reasoning(text)
    assert answer.strip() == ANSWER and (text == ANSWER) == (reasoning == "" and "<think>" not in text)
    reading = read_completion(Completion(text))
    assert (reading.outcome, reading.text.strip(), reading.status) == (Outcome.ANSWERED, ANSWER, "answered")
    assert not has_reasoning(answer)


@pytest.mark.parametrize("text", ["<think>A mug; I go", "<|channel|>analysis<|message|>A mug", "analysisWe need to"])
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_reasoning_that_never_ends_is_no_answer(text: str, finish_reason: str) -> None:
    reading = read_completion(Completion(text, finish_reason))
    assert (reading.outcome, reading.text, reading.again) == (Outcome.REASONED_AWAY, "", Again.NO)
    assert reading.reason and "reasoning" in reading.reason and "--extra_body" in reading.reason


def test_blanks_around_an_answer_are_none_of_it() -> None:
    """A server's parser that takes the reasoning out leaves the blank lines after it."""
    assert read_completion(Completion("\n\n8 4\nBoth are good.\n")).text == "8 4\nBoth are good."


def test_words_that_look_like_reasoning_are_left_alone() -> None:
    for text in ("Analysis of the mug: it is red.", "I think the mug is red.", "The final channel is the mug."):
        assert split_reasoning(text) == ("", text) and not has_reasoning(text)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_in_a_field_of_its_own_is_no_answer(field: str) -> None:
    cut = parse_completion(completion("", "length", **{field: "A mug."}))
    reading = read_completion(cut)
    assert reading.outcome is Outcome.REASONED_AWAY and reading.reason and "reasoning used up" in reading.reason
    alone = read_completion(parse_completion(completion(None, "stop", **{field: ANSWER})))
    assert alone.outcome is Outcome.REASONED_AWAY and alone.text == ""
    both = read_completion(parse_completion(completion(ANSWER, "stop", **{field: "A mug."})))
    assert (both.outcome, both.text) == (Outcome.ANSWERED, ANSWER)


@pytest.mark.parametrize("word", ["stop", "STOP", "eos", "end_turn"])
def test_good_finish_reasons_are_listed(word: str) -> None:
    assert read_completion(Completion(ANSWER, word)).status == "answered"


@pytest.mark.parametrize("word", ["error", "network_error", "insufficient_system_resource", "abort"])
def test_a_provider_that_died_is_asked_again(word: str) -> None:
    reading = read_completion(Completion(ANSWER, word))
    assert (reading.status, reading.again) == ("failed", Again.SAME) and repr(word) in str(reading.reason)


@pytest.mark.parametrize("word", ["tool_calls", "something_new", ""])
def test_an_unknown_finish_reason_is_no_answer_and_is_named(word: str) -> None:
    reading = read_completion(Completion(ANSWER, word))
    assert (reading.status, reading.again) == ("failed", Again.NO)
    assert (repr(word) if word else "does not say") in str(reading.reason)


@pytest.mark.parametrize("word", ["content_filter", "SAFETY", "RECITATION", "guardrail_intervened"])
def test_filters_refuse(word: str) -> None:
    assert read_completion(Completion("A red", word)).status == "refused"


def test_a_cut_answer_is_asked_for_once_more_with_room() -> None:
    for word in ("length", "max_tokens", "MAX_TOKENS"):
        reading = read_completion(Completion("A red mug", word))
        assert (reading.outcome, reading.status, reading.again) == (Outcome.CUT, "failed", Again.LONGER)


@pytest.mark.parametrize(
    ("content", "text", "status"),
    [
        ([{"type": "text", "text": "A red "}, {"type": "text", "text": "mug."}], "A red mug.", "answered"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Yes."}], "Yes.",
         "answered"),
        ([{"type": "output_text", "text": "Yes."}], "Yes.", "answered"),
        ([{"type": "refusal", "refusal": "I cannot."}], "I cannot.", "refused"),
        ([{"type": "reasoning", "text": "Hm."}], "", "failed"),
        ([], "", "failed"),
    ],
)  # fmt: skip
def test_content_as_a_list_of_parts(content: list[Any], text: str, status: str) -> None:
    reading = read_completion(parse_completion(completion(content)))
    assert (reading.text, reading.status) == (text, status)


def test_a_refusal_is_told_apart() -> None:
    reading = read_completion(parse_completion(completion(None, "stop", refusal="I cannot help with this.")))
    assert reading.status == "refused" and "I cannot help with this." in str(reading.reason)


@pytest.mark.parametrize("body", [None, "text", {}, {"choices": []}, {"choices": [{"message": "Yes"}]}])
def test_what_is_no_completion_is_malformed(body: Any) -> None:
    with pytest.raises(CallError, match="malformed answer") as caught:
        parse_completion(body)
    assert caught.value.retry and caught.value.billed
    with pytest.raises(CallError, match="part of the kind 'image_url'"):
        parse_completion(completion([{"type": "image_url"}]))


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        ({"code": 429, "message": "slow down"}, "retry"),
        ({"code": "429", "message": "slow down"}, "retry"),
        ({"code": "rate_limit_exceeded", "message": "slow down"}, "retry"),
        ({"code": 502, "message": "the provider died"}, "retry"),
        ({"message": "something"}, "retry"),
        ("something", "retry"),
        ({"code": 401, "message": "no such key"}, "fatal"),
        ({"type": "authentication_error", "message": "no such key"}, "fatal"),
        ({"code": 402, "message": "no credits"}, "fatal"),
        ({"code": "insufficient_quota", "message": "pay"}, "fatal"),
        ({"code": 403, "message": "Your input was flagged by moderation"}, "refused"),
        ({"code": "content_filter", "message": "no"}, "refused"),
        ({"code": 404, "message": "no such model"}, "doubtful"),
    ],
)
def test_an_error_within_a_success_means_what_its_code_would(error: Any, meaning: str) -> None:
    for body in ({"error": error}, {**completion("A red", "error"), "error": error}):
        with pytest.raises(CallError, match="error within a success") as caught:
            parse_completion(body)
        assert getattr(caught.value, meaning) and not caught.value.billed
    within = completion("A red", "error")
    within["choices"][0]["error"] = error
    with pytest.raises(CallError) as caught:
        parse_completion(within)
    assert getattr(caught.value, meaning) and not caught.value.billed


def test_an_empty_error_is_none() -> None:
    assert parse_completion({**completion(ANSWER), "error": None}).text == ANSWER
    with pytest.raises(CallError, match="no such thing"):
        parse_completion({"object": "error", "message": "no such thing", "code": 404})
