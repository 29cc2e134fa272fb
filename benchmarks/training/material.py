"""A LLaVA with random weights and rows as long as those that LLaVA was trained on, made here."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

from .presets import Preset

NUM_ROWS = 512
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def words(number: int = 4000) -> list[str]:
    """Made-up words, each a token or two."""
    chance = random.Random(0)
    return sorted({"".join(chance.choices(SYLLABLES, k=chance.choice((1, 2, 2, 3)))) for _ in range(2 * number)})[
        :number
    ]


def write_material(folder: Path, preset: Preset, shared: Sequence[int] = ()) -> None:
    """Write `folder/llava`, and the rows of both stages beside `images`: `align.json`, `instruct.json`.

    Args:
        folder: Where to.
        preset: Sizes of the model.
        shared: For each of these numbers, the rows of stage 2 once more, so many about one image: `instruct-2.json`, ...
    """
    _write_model(folder, preset)
    _write_rows(folder, preset.vision["image_size"], shared)


def _write_model(folder: Path, preset: Preset) -> None:
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

    from ..checkpoints.building import build_llava, save_llava

    set_seed(0)
    side = preset.vision["image_size"]
    CLIPVisionModel(CLIPVisionConfig(**preset.vision)).save_pretrained(folder / "vision")
    size = {"shortest_edge": side}
    CLIPImageProcessor(size=size, crop_size={"height": side, "width": side}).save_pretrained(folder / "vision")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=preset.language["vocab_size"] - 1,  # and <image>
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(words())], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    tokenizer.save_pretrained(folder / "language")
    LlamaForCausalLM(LlamaConfig(**preset.language)).save_pretrained(folder / "language")
    backbones = str(folder / "vision"), str(folder / "language")
    model, processor = build_llava(*backbones, chat_template="vicuna_v1", projector_type="mlp2x_gelu")
    save_llava(model, processor, folder / "llava")


def _write_rows(folder: Path, side: int, shared: Sequence[int]) -> None:
    from PIL import Image

    chance = random.Random(1)
    vocabulary = words()

    def text(least: int, most: int) -> str:
        return " ".join(chance.choices(vocabulary, k=chance.randint(least, most)))

    (folder / "images").mkdir(exist_ok=True)
    names = []
    for number in range(NUM_ROWS):
        names.append(f"{number}.jpg")
        small = Image.frombytes("RGB", (16, 16), chance.randbytes(768))
        small.resize((side + side // 3, side), Image.Resampling.BICUBIC).save(
            folder / "images" / names[-1], quality=90
        )

    def row(number: int, image: str, turns: list[tuple[str, str]]) -> dict:
        said = []
        for turn, (question, answer) in enumerate(turns):
            said.append({"from": "human", "value": question if turn else f"<image>\n{question}".rstrip()})
            said.append({"from": "gpt", "value": answer})
        return {"id": str(number), "image": image, "conversations": said}

    captions = [row(number, name, [("", text(6, 18))]) for number, name in enumerate(names)]
    tasks = []
    for number in range(NUM_ROWS):
        # Shares of LLaVA-Instruct-158K: 58K conversations, 23K detailed descriptions, 77K of complex reasoning
        kind = chance.choices(("talk", "describe", "reason"), weights=(58, 23, 77))[0]
        if kind == "talk":
            turns = [(text(6, 14), text(8, 40)) for _ in range(chance.randint(2, 5))]
        else:
            turns = [(text(8, 24), text(70, 130) if kind == "describe" else text(80, 150))]
        tasks.append(row(number, names[number], turns))
    files = {"align": captions, "instruct": tasks}
    for rows_an_image in shared:
        together = [{**task, "image": names[number // rows_an_image]} for number, task in enumerate(tasks)]
        files[f"instruct-{rows_an_image}"] = together
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
