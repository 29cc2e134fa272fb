"""Families of backbones, pair by pair, on the way that everyone goes: built of two folders, shown pictures, trained in
both stages, saved, and loaded where there is no llavakit."""

import random

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
)

from llavakit import LlavaForConditionalGeneration
from llavakit.checkpoints.building import build_llava, save_llava
from llavakit.modeling_llava.model_parts import STAGES, part_of

from ..warm_python import WITHOUT_LLAVAKIT
from .backbone_families import LANGUAGE, VISION

# Every language model with CLIP, every encoder with Llama, and some of the rest
REST = [(vision, language) for vision in VISION for language in LANGUAGE if vision != "CLIP" and language != "llama"]
PAIRS = [
    *(("CLIP", language) for language in LANGUAGE),
    *((vision, "llama") for vision in VISION if vision != "CLIP"),
    *random.Random(0).sample(REST, 4),
]

REMOTE = """
import sys, torch
try:
    import llavakit
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("llavakit can be imported here, so that this shows nothing")
from transformers import AutoModelForImageTextToText, AutoProcessor

for folder in sys.argv[1:]:
    expected = torch.load(f"{folder}/expected.pt", weights_only=False)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    inputs = processor(images=expected["pictures"], text=expected["text"], **expected["options"])
    assert all(torch.equal(tensor, inputs[name]) for name, tensor in expected["inputs"].items()), folder
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, expected["logits"]), folder
    answers = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert torch.equal(answers, expected["answers"]), folder
    print(folder)
"""

TEXT = ["<image>a cat", "a dog<image><image>"]
OPTIONS = {"padding": True, "padding_side": "left", "return_tensors": "pt"}


def pictures():
    generator = torch.Generator().manual_seed(3)
    sizes = [(28, 40), (50, 30), (33, 33)]
    return [
        Image.fromarray((torch.rand(height, width, 3, generator=generator) * 255).byte().numpy())
        for width, height in sizes
    ]


@pytest.fixture(scope="module")
def checkpoint(vision_folder, language_checkpoint, tmp_path_factory):
    """The folder of a LLaVA of a pair, and beside its weights what it says of the pictures; each is built once."""
    folders = {}

    def make(vision, language):
        if (vision, language) not in folders:
            # Scores far enough apart for greedy text to be well defined
            fields = {"bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2, **LANGUAGE[language]}
            parts = vision_folder(vision), language_checkpoint(language, **fields)
            torch.manual_seed(0)
            model, processor = build_llava(*parts, chat_template="plain")
            folder = tmp_path_factory.mktemp("llava")
            save_llava(model, processor, folder)
            inputs = dict(processor(images=pictures(), text=TEXT, **OPTIONS))
            with torch.no_grad():
                logits = model(**inputs).logits
            answers = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
            expected = {"pictures": pictures(), "text": TEXT, "options": OPTIONS, "inputs": inputs}
            expected |= {"logits": logits, "answers": answers}
            torch.save(expected, folder / "expected.pt")
            folders[vision, language] = folder
        return folders[vision, language]

    return make


@pytest.mark.parametrize(("vision", "language"), PAIRS)
def test_a_pair_sees_and_writes_and_comes_back(vision, language, checkpoint):
    folder = checkpoint(vision, language)
    expected = torch.load(folder / "expected.pt", weights_only=False)
    inputs, logits, answers = expected["inputs"], expected["logits"], expected["answers"]
    patches = VISION[vision].patches
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    assert (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist() == [patches, 2 * patches]
    with torch.no_grad():
        blind = model(**{**inputs, "pixel_values": torch.zeros_like(inputs["pixel_values"])}).logits
        assert torch.equal(model(**inputs).logits, logits)
        # The tokens that were written are those that a pass over the whole text would write
        whole = {"input_ids": answers, "pixel_values": inputs["pixel_values"]}
        whole["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(2, 4, dtype=torch.long)], dim=1)
        whole["position_ids"] = (whole["attention_mask"].cumsum(1) - 1).clamp(min=0)  # GPT-2 counts padding otherwise
        best = model(**whole).logits[:, -5:-1]
    assert logits.isfinite().all() and not torch.allclose(logits, blind)
    written = best.gather(-1, answers[:, -4:, None])[..., 0]
    best[..., 2] = -torch.inf  # the end, kept off by min_new_tokens
    torch.testing.assert_close(written, best.amax(-1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("vision", "language"), PAIRS)
def test_a_step_moves_what_learns_and_nothing_else(vision, language, stage, checkpoint):
    folder = checkpoint(vision, language)
    model = LlavaForConditionalGeneration.from_pretrained(folder, stage=stage).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    learning = {name for name in before if part_of(name) in STAGES[stage].learns}
    inputs = torch.load(folder / "expected.pt", weights_only=False)["inputs"]
    model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved <= learning and {part_of(name) for name in moved} == set(STAGES[stage].learns)
    # What stands behind the feature layer of the tower, or is never asked for, has no gradient
    assert all(part_of(name) == "vision tower" for name in learning - moved)


@pytest.mark.slow
def test_pairs_answer_the_same_where_there_is_no_llavakit(checkpoint, warm_python, tmp_path):
    folders = [str(checkpoint(*pair)) for pair in PAIRS]
    done = warm_python.run(["-c", WITHOUT_LLAVAKIT + REMOTE, *folders], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == folders
