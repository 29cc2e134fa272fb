"""Whose fault an error is: a status is read with its body."""

from typing import Any

import pytest

from llavakit.endpoints.errors import error_of_status

OPENROUTER = {
    "code": 403,
    "message": "m requires moderation. Your input was flagged.",
    "metadata": {"reasons": ["violence"], "flagged_input": "...", "provider_name": "x"},
}
AZURE = {"code": "content_filter", "message": "...", "innererror": {"code": "ResponsibleAIPolicyViolation"}}


def meaning(status: int, error: Any) -> str:
    found = error_of_status(status, {"error": error})
    kinds = [kind for kind in ("fatal", "doubtful", "refused", "retry") if getattr(found, kind)]
    assert len(kinds) <= 1
    return kinds[0] if kinds else "failed"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (403, OPENROUTER),
        (400, AZURE),
        (400, {"code": "content_policy_violation", "message": "Flagged."}),
        (400, {"code": "data_inspection_failed", "message": "Input data may contain inappropriate content."}),
        (400, {"message": "Content Exists Risk"}),
        (403, {"message": "Your request was rejected by our safety system."}),
        (403, "The prompt was flagged as harmful"),
        (451, {"message": "The image violates our content policy."}),
    ],
)
def test_a_flagged_input_is_refused(status: int, error: Any) -> None:
    assert meaning(status, error) == "refused"


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (401, {"message": "Incorrect API key provided", "code": "invalid_api_key"}, "fatal"),
        (402, {"message": "no credits"}, "fatal"),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, "fatal"),
        (403, {"message": "no access to this model", "code": "model_access_denied"}, "doubtful"),
        (403, {"message": "Your account was flagged and suspended."}, "doubtful"),
        (403, {"message": "Country, region, or territory not supported"}, "doubtful"),
        (403, "Forbidden", "doubtful"),
        (404, {"message": "no such model"}, "doubtful"),
        (400, {"message": "Unsupported parameter: 'max_tokens'", "param": "max_tokens"}, "doubtful"),
        (400, {"message": "'max_tokens' is not supported. Use 'max_completion_tokens' instead."}, "doubtful"),
        (400, {"message": "max_tokens is too large: 9999", "param": "max_tokens"}, "doubtful"),
        (422, {"message": "Extra inputs are not permitted"}, "doubtful"),
        (400, {"message": "maximum context length is 8192", "code": "context_length_exceeded"}, "failed"),
        (400, {"message": "the image is too small"}, "failed"),
        (413, {"message": "too large"}, "failed"),
    ],
)
def test_key_model_parameter_or_this_request(status: int, error: Any, expected: str) -> None:
    assert meaning(status, error) == expected


def test_the_other_field_for_the_limit_is_named() -> None:
    error = {
        "message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
        "param": "max_tokens",
    }
    assert "--token_limit" in error_of_status(400, {"error": error}).reason


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_what_passes_is_tried_again(status: int) -> None:
    found = error_of_status(status, {"error": {"message": "busy"}})
    assert found.retry and found.overloaded == (status in (429, 503, 529))
    waiting = error_of_status(status, None, {"retry-after": "7"})
    assert waiting.retry_after == 7 and waiting.overloaded == (status in (503, 529))
    assert error_of_status(status, None, {"retry-after": "7000"}).fatal


@pytest.mark.parametrize("body", [None, "", "<html>", [], {"error": None}, {"detail": [{"msg": "field required"}]}, 7])
def test_any_body_is_read(body: Any) -> None:
    assert error_of_status(422, body).reason.startswith("HTTP 422: ")
