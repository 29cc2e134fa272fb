"""Structured answers are read strictly, and their claims are held against the annotation."""

import json
from typing import Any

import pytest

from llavakit.data_generation.answers.structured import (
    Rejected,
    answer_format,
    intersection_over_union,
    parse_structured,
    structured_exchanges,
    verify_claims,
)
from llavakit.data_generation.answers.structured_detail import MIN_WORDS

CONTEXT = {
    "instances": [
        {"category": "dog", "bbox": [0.1, 0.1, 0.5, 0.5]},
        {"category": "dog", "bbox": [0.6, 0.6, 0.9, 0.9]},
        {"category": "cat", "bbox": [0.1, 0.6, 0.3, 0.9]},
    ]
}


def answer(**changes: Any) -> dict[str, Any]:
    good = {
        "description": "word " * MIN_WORDS,
        "claims": [
            {"text": "A dog.", "category": "dog", "bbox": [0.1, 0.1, 0.5, 0.5]},
            {"text": "A cat.", "category": "Cat", "bbox": [0.11, 0.61, 0.31, 0.9]},
        ],
        "qa": [{"question": "Who?", "answer": "A dog."}, {"question": "Who else?", "answer": "A cat."}],
    }
    return {**good, **changes}


def test_a_good_answer_is_read():
    parsed = parse_structured(json.dumps(answer()))
    assert parsed == answer() == parse_structured(f"```json\n{json.dumps(answer())}\n```")
    verify_claims(parsed, CONTEXT)
    exchanges = structured_exchanges(parsed, "Describe it.")
    assert [question for question, _ in exchanges] == ["Describe it.", "Who?", "Who else?"]
    assert exchanges[0][1] == ("word " * MIN_WORDS).strip()


def claim(**changes: Any) -> dict[str, Any]:
    claims = answer()["claims"]
    return answer(claims=[claims[0], {**claims[1], **changes}])


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ([], "must be an object of description"),
        ({**answer(), "more": 1}, "must be an object of description"),
        (answer(description="word " * (MIN_WORDS - 1)), f"fewer than {MIN_WORDS} words"),
        (answer(description=None), "fewer than"),
        (answer(claims=answer()["claims"][:1]), "fewer than 2 of: claim"),
        (answer(claims="two"), "fewer than 2 of: claim"),
        (answer(claims=["a", "b"]), "claim 1 must be an object"),
        (answer(qa=answer()["qa"][:1]), "fewer than 2 of: question"),
        (answer(qa=[{"question": "Who?", "answer": " "}] * 2), "question and answer must be text"),
        (claim(text=""), "claim 2: text and category must be text"),
        (claim(bbox=[0.1, 0.6, 0.3]), "claim 2: .* is no box"),
        (claim(bbox=[0.1, 0.6, 1.3, 0.9]), "claim 2: .* is no box"),
        (claim(bbox=[0.3, 0.6, 0.1, 0.9]), "claim 2: .* is no box"),
        (claim(bbox=[0.1, 0.6, "0.3", 0.9]), "claim 2: .* is no box"),
    ],
)
def test_a_broken_answer_is_rejected(broken: Any, reason: str):
    with pytest.raises(Rejected, match=reason):
        parse_structured(json.dumps(broken))


def test_text_that_is_not_json_is_rejected():
    for text in ("", "The dog.", json.dumps(answer())[:-5]):
        with pytest.raises(Rejected, match="not JSON"):
            parse_structured(text)


def test_claims_are_held_against_the_annotation():
    with pytest.raises(Rejected, match="claim 2: the annotation has no 'horse'"):
        verify_claims(claim(category="horse"), CONTEXT)
    with pytest.raises(Rejected, match="claim 2: no annotated 'Cat' is at .*overlaps by 0.00"):
        verify_claims(claim(bbox=[0.6, 0.6, 0.9, 0.9]), CONTEXT)  # there is a dog, not a cat
    verify_claims(claim(category="dog", bbox=[0.6, 0.6, 0.9, 0.9]), CONTEXT)
    half = claim(bbox=[0.1, 0.6, 0.3, 0.751])  # overlaps by 0.503
    verify_claims(half, CONTEXT)
    with pytest.raises(Rejected, match="overlaps by 0.50, and 0.51 is asked for"):
        verify_claims(half, CONTEXT, min_overlap=0.51)


def test_overlap():
    assert intersection_over_union([0, 0, 1, 1], [0, 0, 1, 1]) == 1
    assert intersection_over_union([0, 0, 0.5, 1], [0.5, 0, 1, 1]) == 0
    assert intersection_over_union([0, 0, 0.5, 0.5], [0.6, 0.6, 1, 1]) == 0
    assert intersection_over_union([0, 0, 1, 1], [0.5, 0, 1, 1]) == pytest.approx(0.5)


def test_the_schema_says_what_is_checked():
    """Strict decoding needs every object closed and every key required."""

    def check(schema: dict[str, Any]) -> None:
        if schema["type"] == "object":
            assert schema["additionalProperties"] is False and schema["required"] == list(schema["properties"])
            for inner in schema["properties"].values():
                check(inner)
        elif schema["type"] == "array":
            assert schema["minItems"] >= 2
            check(schema["items"])

    schema = answer_format()["json_schema"]["schema"]
    check(schema)
    assert set(schema["properties"]) == set(answer())
    assert set(schema["properties"]["claims"]["items"]["properties"]) == set(answer()["claims"][0])
