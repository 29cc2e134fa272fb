"""What a run costs: tokens by rule against a real tokenizer, prices, the estimate, and the bound that a budget rests on."""

import asyncio
import json
from pathlib import Path

import pytest

from llavakit.cli import main
from llavakit.data_generation.contexts.schema import read_contexts
from llavakit.data_generation.prompts import DATA_TYPES, TYPES
from llavakit.data_generation.prompts.prompt import load_prompt
from llavakit.data_generation.teachers.estimate import estimate
from llavakit.endpoints.budget import Budget
from llavakit.endpoints.prices import Price, count_tokens, find_price, prompt_tokens, shipped_prices

CONTEXT = {
    "id": "c",
    "image": "c.jpg",
    "captions": ["A grey cat sleeps on a wooden chair.", "A cat on a chair beside a window."],
    "instances": [{"category": "cat", "bbox": [0.125, 0.25, 0.5, 0.75]}],
}


def test_every_listed_price_is_a_price() -> None:
    for model in shipped_prices()["dollars_per_million_tokens"]:
        price = find_price(model)
        assert 0 < price.input <= price.output and (price.image_tokens is None or price.image_tokens > 0)
    assert find_price("gpt-4o").dollars(1_000_000, 100_000) == pytest.approx(2.5 + 1.0)


def test_a_price_is_given_or_known() -> None:
    assert find_price("my-model", 1.0, 2.0) == Price(1.0, 2.0)
    assert find_price("my-model", 0.0, 0.0).dollars(10**9, 10**9) == 0
    assert find_price("gpt-4o", 1.0, 2.0) == Price(1.0, 2.0), "what is given goes before what is listed"
    with pytest.raises(ValueError, match="'gpt-4o-2031'. Give --input_price and --output_price"):
        find_price("gpt-4o-2031")
    with pytest.raises(ValueError, match="go together"):
        find_price("my-model", input_price=1.0)
    with pytest.raises(ValueError, match="must not be negative"):
        find_price("my-model", -1.0, 1.0)


def test_tokens_by_rule_are_near_a_tokenizer(shared_data: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / "llama2")
    contexts = list(read_contexts(shared_data / "caps_boxes_coco2014_val_80.jsonl"))
    for type in TYPES:
        prompt, counted, real = load_prompt(type), 0, 0
        for context in contexts[:20]:
            request = prompt.request(context)
            counted += prompt_tokens(request)
            real += sum(len(tokenizer.encode(message["content"])) for message in request.messages)
        print(f"{type}: {counted} by rule, {real} by Llama 2's tokenizer, {counted / real:.2f}")
        # Llama 2 has 32,000 pieces and one for each digit; today's tokenizers make fewer of the same text
        assert 0.7 < counted / real < 1.1


def test_the_bound_is_one() -> None:
    price = Price(1e6, 0.0, image_tokens=500)  # a dollar a token read
    for type in DATA_TYPES:
        request = load_prompt(type).request(CONTEXT)
        texts = json.dumps(request.messages, ensure_ascii=False) + json.dumps(request.response_format)
        assert prompt_tokens(request, price) < price.at_most(request) < len(texts.encode()) + 600
    assert Price(0.0, 1e6).at_most(load_prompt("detail").request(CONTEXT)) == load_prompt("detail").max_tokens
    assert count_tokens("ÄÖ 猫猫猫 🐈") <= len("ÄÖ 猫猫猫 🐈".encode())


def test_a_picture_of_unknown_cost_is_no_guess() -> None:
    request = load_prompt("vision_detail").request(CONTEXT)
    with pytest.raises(ValueError, match="give --image_tokens"):
        Price(1.0, 1.0).at_most(request)
    with_picture, without = Price(1.0, 1.0, image_tokens=1000), Price(1.0, 1.0, image_tokens=0)
    assert prompt_tokens(request, with_picture) - prompt_tokens(request, without) == 1000


def test_the_estimate_counts_what_would_be_asked() -> None:
    bare = {**CONTEXT, "id": "b", "instances": []}
    price = Price(2.0, 10.0)
    detail, structured = estimate([CONTEXT, bare], [load_prompt("detail"), load_prompt("structured")], price)
    assert (detail.calls, detail.skipped, structured.calls, structured.skipped) == (2, 0, 1, 1)
    asked = [load_prompt("detail").request(context) for context in (CONTEXT, bare)]
    assert detail.prompt_tokens == sum(map(prompt_tokens, asked))
    assert detail.max_completion_tokens == 2 * load_prompt("detail").max_tokens > detail.completion_tokens > 100


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "contexts.jsonl"
    path.write_text("".join(json.dumps({**CONTEXT, "id": str(n)}) + "\n" for n in range(1000)))
    command = ["data", "estimate", str(path), "--types", "conversation,detail,reasoning"]
    assert main([*command, "--model", "gpt-4o"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines[1:5]}
    assert list(table) == [*TYPES, "all"] and table["all"][0] == "3,000"
    numbers = {name: [float(cell.replace(",", "")) for cell in cells] for name, cells in table.items()}
    assert numbers["all"][:3] == [sum(numbers[type][place] for type in TYPES) for place in range(3)]
    _, read, written, dollars, most = numbers["all"]
    assert dollars == pytest.approx((2.5 * read + 10 * written) / 1e6, abs=0.01) and most > dollars
    assert main([*command, "--model", "mine"]) == 1
    assert "--input_price and --output_price" in capsys.readouterr().err
    assert main([*command, "--model", "mine", "--input_price", "0", "--output_price", "0"]) == 0


def test_a_budget_waits_for_calls_in_flight() -> None:
    async def scenario() -> list[bool]:
        budget = Budget(10.0, spent=1.0)
        first, second = await budget.reserve(4.0), await budget.reserve(4.0)
        third = asyncio.create_task(budget.reserve(4.0))
        await asyncio.sleep(0.01)
        waiting = not third.done()
        budget.settle(4.0, 1.0)  # 2 spent and 4 in flight: room for 4
        results = [first, second, waiting, await third]
        budget.settle(4.0, 4.0)
        budget.settle(4.0, 4.0)
        return [*results, await budget.reserve(0.5), budget.spent == 10.0]

    assert asyncio.run(scenario()) == [True, True, True, True, False, True]
