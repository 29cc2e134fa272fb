"""The commands of the README on real photographs: rows, inspection, both stages with tiny backbones, chat.

The backbones are untrained, so nothing generalises here; what is shown is that the picture reaches the words. After a
short run the model says the caption of the photograph it is shown, and not that of another.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import llavakit  # noqa: F401  registers the model with the Auto classes

from ..cpu_training import CPU_FLAGS
from ..warm_python import WarmPython

# What the chat template says before each talk. The tokenizer learns it too, or it would be most of a row's tokens
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
)
SYSTEM += "and polite answers to the user's questions. USER: ASSISTANT:"

TRAINING = ["--per_device_train_batch_size", "10", "--lr_scheduler_type", "cosine", "--warmup_steps", "0.03"]
TRAINING += [*CPU_FLAGS, "--save_strategy", "no"]
TRAINING += ["--gradient_checkpointing", "false", "--weight_decay", "0", "--num_processes", "1"]


@pytest.fixture(scope="module")
def run_llavakit(warm_python: WarmPython) -> Callable[..., str]:
    """Runs `llavakit ARGUMENTS`, and returns what it wrote."""

    def run(*arguments: object) -> str:
        done = warm_python.run(["-m", "llavakit.cli", *arguments])
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def photographs(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter as wide: the tower sees 64 pixels, and each photograph is read 62 times."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "images").mkdir()
    for name in ("captions.json", "instances.json"):
        shutil.copy(shared_data / "coco_photos" / name, folder)
    for path in (shared_data / "coco_photos" / "images").iterdir():
        Image.open(path).reduce(4).save(folder / "images" / path.name)
    return folder


@pytest.fixture(scope="module")
def rows(
    run_llavakit: Callable[..., str], photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    captions, instances = photographs / "captions.json", photographs / "instances.json"
    paths = {"align": folder / "align.json", "instruct": folder / "instruct.json"}
    run_llavakit("data", "alignment", "--captions", captions, "-o", paths["align"])
    run_llavakit("data", "simple", "--captions", captions, "--instances", instances, "-o", paths["instruct"])
    # The first exchange of each is asked for below, and quickly learnt by heart
    instruct = [row | {"conversations": row["conversations"][:2]} for row in json.loads(paths["instruct"].read_text())]
    paths["instruct"].write_text(json.dumps(instruct))
    return paths


@pytest.fixture(scope="module")
def untrained(
    run_llavakit: Callable[..., str],
    rows: dict[str, Path],
    write_backbones: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A LLaVA that `llavakit init` makes of an untrained CLIP tower and an untrained Llama."""
    folder = tmp_path_factory.mktemp("untrained")
    texts = [
        turn["value"]
        for path in rows.values()
        for row in json.loads(path.read_text())
        for turn in row["conversations"]
    ]
    texts += [SYSTEM] * 60
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision |= {"image_size": 64, "patch_size": 16}
    language = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    tower, llama = write_backbones(folder, texts, 1500, vision, {**language, "max_position_embeddings": 512})
    run_llavakit("init", "--vision", tower, "--language", llama, "--output_dir", folder / "llava")
    return folder / "llava"


@pytest.fixture(scope="module")
def trained(
    run_llavakit: Callable[..., str],
    untrained: Path,
    rows: dict[str, Path],
    photographs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    data = ["--image_folder", photographs / "images", "--max_length", 512]
    align = ["--stage", "align", "--learning_rate", "2e-3", "--num_train_epochs", 2]
    run_llavakit(
        "sft", "--model_name_or_path", untrained, "--dataset_name", rows["align"], *data, *align, *TRAINING,
        "--output_dir", folder / "align",
    )  # fmt: skip
    instruct = ["--stage", "instruct", "--learning_rate", "2e-3", "--num_train_epochs", 60]
    run_llavakit(
        "sft", "--model_name_or_path", folder / "align", "--dataset_name", rows["instruct"], *data, *instruct, *TRAINING,
        "--output_dir", folder / "instruct",
    )  # fmt: skip
    return folder / "instruct"


def first_answers(model_path: Path, rows: list[dict], pictures: list[Path]) -> list[str]:
    """What the model says to the first question of each row, shown that picture."""
    model = AutoModelForImageTextToText.from_pretrained(model_path).eval()
    processor = AutoProcessor.from_pretrained(model_path)
    talks = [
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": Image.open(picture)}, {"type": "text", "text": question}],
            }
        ]
        for picture, question in zip(
            pictures, (row["conversations"][0]["value"].split("\n")[1] for row in rows), strict=True
        )
    ]
    batch = processor.apply_chat_template(
        talks,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    with torch.inference_mode():
        generated = model.generate(**batch, max_new_tokens=64, do_sample=False)
    texts = processor.tokenizer.batch_decode(generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


@pytest.mark.slow
def test_each_photograph_gets_its_own_caption(trained: Path, rows: dict[str, Path], photographs: Path):
    instruct = json.loads(rows["instruct"].read_text())
    pictures = [photographs / "images" / row["image"] for row in instruct]
    captions = [row["conversations"][1]["value"] for row in instruct]
    assert len(captions) == 60

    said = first_answers(trained, instruct, pictures)
    right = sum(text == caption for text, caption in zip(said, captions, strict=True))
    order = random.Random(0).sample(range(60), 60)
    another = {order[i]: order[i - 1] for i in range(60)}  # a shuffle in which no photograph stays in its place
    shuffled = [pictures[another[i]] for i in range(60)]
    said_shuffled = first_answers(trained, instruct, shuffled)
    right_shuffled = sum(text == caption for text, caption in zip(said_shuffled, captions, strict=True))
    print(f"own photograph: {right} of 60; shuffled photographs: {right_shuffled} of 60")
    assert right >= 55
    assert right_shuffled <= 5


@pytest.mark.slow
def test_chat_answers_about_a_photograph(
    run_llavakit: Callable[..., str], trained: Path, rows: dict[str, Path], photographs: Path
):
    row = json.loads(rows["instruct"].read_text())[0]
    question, caption = row["conversations"][0]["value"].split("\n")[1], row["conversations"][1]["value"]
    image = photographs / "images" / row["image"]
    assert run_llavakit("chat", trained, "--image", image, "--question", question).strip() == caption


@pytest.mark.slow
def test_inspect_reads_the_photographs(
    run_llavakit: Callable[..., str], untrained: Path, rows: dict[str, Path], photographs: Path, tmp_path: Path
):
    for name, path in rows.items():
        page = tmp_path / f"{name}.html"
        folder = photographs / "images"
        text = run_llavakit(
            "inspect", path, "--model", untrained, "--image_folder", folder, "--html", page, "--rows", 3
        )
        assert "60" in text and page.stat().st_size > 10_000
