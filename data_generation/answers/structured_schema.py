"""The form of a structured answer as pydantic's models: servers decode by its schema, and answers are checked by it."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..languages import count_words
from .structured_detail import MIN_CLAIMS, MIN_QA, MIN_WORDS


def _is_told(text: str) -> str:
    if not text.strip():
        raise ValueError("it is empty")
    return text


def _is_detailed(text: str) -> str:
    if count_words(text) < MIN_WORDS:
        raise ValueError("it is too short")
    return text


def _is_box(box: list[float]) -> list[float]:
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError("these are no corners within the image")
    return box


Text = Annotated[str, AfterValidator(_is_told)]
Box = Annotated[list[float], Field(min_length=4, max_length=4), AfterValidator(_is_box)]


class Strict(BaseModel):
    """Nothing is converted, nothing may be added."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Claim(Strict):
    """What the description says of one object, and where that is: [left, top, right, bottom] as shares of the image."""

    text: Text
    category: Text
    bbox: Box


class QuestionWithAnswer(Strict):
    """A question on the image, and its answer."""

    question: Text
    answer: Text


class GroundedDescription(Strict):
    """The whole answer."""

    description: Annotated[str, AfterValidator(_is_detailed)]
    claims: Annotated[list[Claim], Field(min_length=MIN_CLAIMS)]
    qa: Annotated[list[QuestionWithAnswer], Field(min_length=MIN_QA)]


# Of each list in an answer: what an entry is called, and its fields
LISTS: dict[str, tuple[str, type[BaseModel]]] = {
    "claims": ("claim", Claim),
    "qa": ("question with its answer", QuestionWithAnswer),
}


def json_schema() -> dict[str, Any]:
    """The JSON schema, each object written out where it stands: not every server follows references."""
    schema = GroundedDescription.model_json_schema()
    definitions = schema.pop("$defs")

    def written_out(part: Any) -> Any:
        if isinstance(part, list):
            return [written_out(inner) for inner in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return written_out(definitions[part["$ref"].rpartition("/")[2]])
        # Titles and docstrings are for readers of this file
        dropped = {"title", "description"} if "type" in part and isinstance(part["type"], str) else set()
        return {name: written_out(inner) for name, inner in part.items() if name not in dropped}

    return written_out(schema)


def why_invalid(answer: Any) -> str | None:
    """What is wrong with an answer first of all, for a person; None where nothing is."""
    try:
        GroundedDescription.model_validate(answer)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return _reason(answer, first["loc"], first["type"])
    return None


def _reason(answer: Any, place: tuple[int | str, ...], kind: str) -> str:
    is_of_other_form = kind in ("missing", "extra_forbidden", "model_type")
    if not place or (len(place) == 1 and is_of_other_form):
        return "the answer must be an object of description, claims and qa"
    if place[0] == "description":
        return f"the description has fewer than {MIN_WORDS} words"
    what, model = LISTS[str(place[0])]
    if len(place) == 1:
        return f"fewer than {MIN_CLAIMS if model is Claim else MIN_QA} of: {what}"
    number, fields = int(place[1]) + 1, list(model.model_fields)
    if is_of_other_form:
        return f"{what} {number} must be an object of {', '.join(fields)}"
    if place[2] == "bbox":
        box = answer[place[0]][place[1]]["bbox"]
        return f"claim {number}: {box!r} is no box [left, top, right, bottom] within 0 and 1"
    return f"{what} {number}: {' and '.join(fields[:2])} must be text"
