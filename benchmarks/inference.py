"""How much is saved where questions share an image, side by side with `generate` for each question.

    python benchmarks/inference.py [--questions 10] [--repeats 5]

The model is small, untrained and in float32, and reads an image as 576 tokens (336 pixels, patches of 14). Each row of
the table is measured in turns with what it is compared to, and the fastest of the repeats counts; the answers of both
are checked to be the same. The side of `generate` is given its inputs ready for the model, while ours starts from an open
image and text, so that the preparation of images and text counts against ours alone. Choices are compared with a single
forward pass for each question, which is less than what `generate` does. The last column compares processor time, which
other work on the machine disturbs less.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

from llavakit.checkpoints.building import build_llava
from llavakit.inference.choices import encode_choices
from llavakit.inference.engine import Question
from llavakit.inference.local_engine import LocalEngine
from llavakit.inference.prefix import Prompt
from llavakit.inference.questions import answer_questions
from llavakit.inference.session import ChatSession

THINGS = "car dog tree house boat horse table lamp bird road child cup door hat kite".split()
CHOICES = ("A", "B", "C", "D")
NEW_TOKENS = 8


def build(layers: int, width: int) -> tuple[Any, Any]:
    """A model with 576 tokens an image, and its processor.

    By default it has the proportions of CLIP ViT-L/14 before a language model of half a billion parameters, and as few
    key and value heads as those have.
    """
    set_seed(0)
    vision = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 8}
    language = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        CLIPVisionModel(CLIPVisionConfig(**vision, image_size=336, patch_size=14)).save_pretrained(folder / "vision")
        size = {"height": 336, "width": 336}
        CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=size).save_pretrained(folder / "vision")
        tokenizer = byte_tokenizer()
        tokenizer.save_pretrained(folder / "language")
        heads = {"num_attention_heads": width // 64, "num_key_value_heads": 2}
        config = LlamaConfig(vocab_size=len(tokenizer), **heads, **language)
        LlamaForCausalLM(config).save_pretrained(folder / "language")
        model, processor = build_llava(str(folder / "vision"), str(folder / "language"), chat_template="vicuna_v1")
    readable_and_endless(model, processor)
    return model.eval(), processor


def byte_tokenizer() -> Any:
    """A tokenizer of bytes and of the words of the questions."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator([*map(question, range(50)), *[f" {choice}" for choice in CHOICES] * 50], trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def readable_and_endless(model: Any, processor: Any) -> None:
    """Only readable tokens are generated, so that equal texts are equal tokens; and no answer ends early."""
    tokenizer = processor.tokenizer
    texts = {token: tokenizer.decode([token]) for token in range(model.config.text_config.vocab_size)}
    banned = {token for token, text in texts.items() if not text.strip() or not text.isprintable() or "\ufffd" in text}
    model.generation_config.suppress_tokens = sorted(banned | set(tokenizer.all_special_ids))


def question(number: int) -> str:
    """A question, each with other words and of another length."""
    one, two = THINGS[number % len(THINGS)], THINGS[(7 * number + 3) % len(THINGS)]
    return f"What is the {one} doing" + " beside the " * (number % 4 > 1) + two * (number % 4 > 1) + "?"


def as_model_reads(processor: Any, messages: list[dict[str, Any]], image: Image.Image) -> dict[str, torch.Tensor]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": messages[0]["content"]}]
    filled = [{**messages[0], "content": content}, *messages[1:]]
    return processor.apply_chat_template(
        filled, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def generated(model: Any, processor: Any, inputs: dict[str, torch.Tensor], max_new_tokens: int) -> str:
    """What stock `generate` answers."""
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :]).strip()


def seconds(run: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """How long it takes, by the clock and of processors."""
    start, cpu = time.perf_counter(), time.process_time()
    result = run()
    return (time.perf_counter() - start, time.process_time() - cpu), result


def compare(name: str, repeats: int, stock: Callable[[], Any], ours: Callable[[], Any], same: Callable) -> None:
    """Measure both in turns, and print a row of the table.

    Raises:
        AssertionError: They do not answer the same.
    """
    times: list[tuple[float, ...]] = []
    for repeat in range(repeats + 1):
        stock_seconds, expected = seconds(stock)
        our_seconds, answers = seconds(ours)
        assert same(expected, answers), f"{name}: {expected} and {answers}"
        if repeat:  # the first warms up
            times.append((*stock_seconds, *our_seconds))
    stock_clock, stock_cpu, our_clock, our_cpu = (min(column) for column in zip(*times, strict=True))
    ratios = f"{stock_clock / our_clock:>9.1f}x{stock_cpu / our_cpu:>9.1f}x"
    print(f"{name:<42}{stock_clock:>10.3f}{our_clock:>10.3f}{ratios}", flush=True)


def chat_after(model: Any, processor: Any, image: Image.Image, turns: int) -> ChatSession:
    session = ChatSession(model, processor)
    session.set_image(image)
    for turn in range(turns):
        session.ask(question(turn), stream=False, max_new_tokens=NEW_TOKENS)
    return session


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--turns", type=int, default=10, help="of the chat; the last one is measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", type=int, default=8, help="of the language model")
    parser.add_argument("--width", type=int, default=512, help="of the language model")
    args = parser.parse_args()

    model, processor = build(args.layers, args.width)
    pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    texts = [question(number) for number in range(args.questions)]
    ready = [as_model_reads(processor, [{"role": "user", "content": text}], image) for text in texts]
    asked = [Question(str(n), text, images=[image], max_new_tokens=NEW_TOKENS) for n, text in enumerate(texts)]
    scored = [Question(str(n), text, images=[image], choices=CHOICES) for n, text in enumerate(texts)]
    print(
        f"{model.num_parameters():,} parameters, {processor.num_image_tokens} tokens an image, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}"
    )
    print(f"{'':<42}{'generate':>10}{'llavakit':>10}{'ratio':>10}{'CPU':>10}")

    def each_by_itself() -> list[str]:
        return [generated(model, processor, inputs, NEW_TOKENS) for inputs in ready]

    for name, batch_size in (("one by one", 1), ("batched", args.questions)):
        engine = LocalEngine(model, processor, batch_size=batch_size)
        compare(
            f"{args.questions} questions, {NEW_TOKENS} new tokens, {name}",
            args.repeats,
            each_by_itself,
            lambda engine=engine: [answer.text for answer in answer_questions(asked, engine)],
            lambda expected, texts: expected == texts,
        )

    prompt = Prompt(ready[0]["input_ids"][0].tolist(), [])
    choices = encode_choices(processor, scored[0].conversation(), prompt, CHOICES)
    assert choices.num_tokens == 1
    choice_ids = torch.tensor(choices.ids)[:, 0]

    def each_scored_by_itself() -> list[list[float]]:
        with torch.inference_mode():
            logits = [model(**inputs, logits_to_keep=1).logits[0, -1] for inputs in ready]
        return [one.log_softmax(-1)[choice_ids].tolist() for one in logits]

    engine = LocalEngine(model, processor, batch_size=args.questions)
    compare(
        f"{args.questions} questions, one-token choices",
        args.repeats,
        each_scored_by_itself,
        lambda: [list(answer.scores.values()) for answer in answer_questions(scored, engine)],
        lambda expected, scores: np.allclose(expected, scores, atol=1e-3),
    )
    measure_chat(model, processor, image, args.turns, args.repeats)


def measure_chat(model: Any, processor: Any, image: Image.Image, turns: int, repeats: int) -> None:
    """The time to the first token of the last turn of a conversation."""
    conversations = iter([chat_after(model, processor, image, turns - 1) for _ in range(repeats + 1)])
    history = chat_after(model, processor, image, turns - 1).history
    last = question(turns)
    inputs = as_model_reads(processor, [*history, {"role": "user", "content": last}], image)
    compare(
        f"chat, turn {turns}, time to the first token",
        repeats,
        lambda: generated(model, processor, inputs, 1),
        lambda: next(conversations).ask(last, stream=False, max_new_tokens=1),
        lambda expected, said: expected == said,
    )


if __name__ == "__main__":
    main()
