"""The adapter for lmms-eval, against lmms-eval itself where it is installed."""

from importlib.metadata import entry_points
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("lmms_eval.api.model", reason="lmms-eval is not installed: pip install 'llavakit[lmms]'")

from lmms_eval.api.instance import Instance

from llavakit.evaluation.lmms_adapter import MODEL, LlavakitModel
from llavakit.inference.chat import load_llava
from llavakit.inference.engine import Question
from llavakit.inference.local_engine import LocalEngine

PICTURES = [Image.new("RGB", (40, 30), (60 * number, 80, 120)) for number in range(3)]


@pytest.fixture(scope="module")
def adapter(tiny_llava: str) -> LlavakitModel:
    model = LlavakitModel(tiny_llava, batch_size=2)
    model.task_dict = {"toy": {"test": [{"images": [picture]} for picture in PICTURES] + [{"images": PICTURES[:2]}]}}
    return model


def _request(kind: str, context: str, setting: Any, number: int) -> Instance:
    arguments = (context, setting, lambda document: document["images"], number, "toy", "test")
    return Instance(kind, arguments, number, {"task": "toy", "doc_id": number, "repeats": 1})


def test_answers_are_those_of_the_engine_in_the_order_of_the_requests(adapter: LlavakitModel, tiny_llava: str) -> None:
    prompts = ["what is it", "what is in the picture on the left of the house", "say it again"]
    settings = {"max_new_tokens": 6, "temperature": 0, "do_sample": False, "until": ["\n\n\n"]}
    requests = [_request("generate_until", prompt, settings, number) for number, prompt in enumerate(prompts)]
    engine = LocalEngine(*load_llava(tiny_llava), batch_size=1)
    questions = [
        Question(str(number), prompt, images=[PICTURES[number]], max_new_tokens=6)
        for number, prompt in enumerate(prompts)
    ]
    alone = {answer.id: answer.text for answer in engine.answer(questions)}
    assert adapter.generate_until(requests) == [alone["0"], alone["1"], alone["2"]]


def test_an_answer_ends_where_the_task_says(adapter: LlavakitModel) -> None:
    settings = {"max_new_tokens": 8, "temperature": 0, "until": ["\n\n\n"]}
    (whole,) = adapter.generate_until([_request("generate_until", "what is it", settings, 0)])
    stop = whole[len(whole) // 2]
    (cut,) = adapter.generate_until([_request("generate_until", "what is it", {**settings, "until": stop}, 0)])
    assert cut == whole[: whole.index(stop)]


def test_images_stand_where_the_context_names_them(adapter: LlavakitModel) -> None:
    document = _request("generate_until", "", {}, 3).args[2:]

    def blocks(context: str) -> list[str]:
        content = adapter._question("0", context, document).conversation()[0]["content"]
        return [block.get("text", "IMAGE") for block in content]

    assert blocks("compare <image> with <image>, please") == ["compare ", "IMAGE", " with ", "IMAGE", ", please"]
    assert blocks("what is it") == ["IMAGE", "IMAGE", "what is it"]
    assert blocks("the word <image> once") == ["IMAGE", "IMAGE", "the word <image> once"]


def test_likelihoods_rank_as_the_engine_does(adapter: LlavakitModel, tiny_llava: str) -> None:
    choices = ["yes", "no", "a cat"]
    requests = [_request("loglikelihood", "is it a cat", choice, number) for number in (0, 1) for choice in choices]
    found = adapter.loglikelihood(requests)
    engine = LocalEngine(*load_llava(tiny_llava))
    for place, number in enumerate((0, 1)):
        question = Question("q", "is it a cat", images=[PICTURES[number]], choices=choices)
        (answer,) = engine.answer([question])
        part = found[3 * place : 3 * place + 3]
        assert [likelihood for likelihood, _ in part] == pytest.approx(list(answer.scores.values()), abs=1e-4)
        assert not any(greedy for _, greedy in part)


def test_what_cannot_be_answered_is_an_error_and_no_empty_answer(adapter: LlavakitModel) -> None:
    with pytest.raises(ValueError, match="request 0 cannot be answered"):
        adapter.generate_until([_request("generate_until", "what is it " * 2000, {"max_new_tokens": 4}, 0)])


def test_unknown_options_are_refused(tiny_llava: str) -> None:
    with pytest.raises(ValueError, match="attn is not known"):
        LlavakitModel(tiny_llava, attn="x")


def test_lmms_eval_finds_it() -> None:
    (entry,) = [entry for entry in entry_points(group="lmms_eval.models") if entry.name == "llavakit"]
    assert entry.load() == MODEL
