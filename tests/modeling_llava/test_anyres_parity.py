"""With AnyRes and the same weights, transformers' LLaVA-NeXT and LLaVA-OneVision compute the very same bits."""

import copy

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from llavakit import LlavaCollator, LlavaProcessor
from llavakit.checkpoints.building import build_llava, save_llava
from llavakit.inference.engine import Question
from llavakit.inference.local_engine import LocalEngine
from llavakit.inference.session import ChatSession
from llavakit.processing.layout_anyres import NEXT_GRIDS, ONEVISION_GRIDS

from ..warm_python import WITHOUT_LLAVAKIT

SIDE = 28
TEMPLATE = (
    "{% for message in messages %}{% for block in message.content %}"
    "{{ '<image>' if block.type == 'image' else block.text }}{% endfor %}"
    "{% if message.role == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
# A square, a landscape, a tall one, one smaller than a view, a strip none of whose features stays, and one cut 5 x 3
SIZES = [(60, 60), (90, 40), (25, 80), (20, 17), (400, 2), (150, 97)]


def picture(width, height):
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixel_sizes(grids):
    return [[rows * SIDE, columns * SIDE] for rows, columns in grids]


VARIANTS = {
    "LLaVA-NeXT": {
        "vision": {"model_type": "clip_vision_model", "patch_size": 7},
        "image_processor": CLIPImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        "options": None,
        "layer": -2,
        "config": transformers.LlavaNextConfig,
        "fields": {
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
            "image_grid_pinpoints": pixel_sizes(NEXT_GRIDS),
        },
        "model": transformers.LlavaNextForConditionalGeneration,
        "pixels": LlavaNextImageProcessorPil(
            size={"shortest_edge": SIDE},
            crop_size={"height": SIDE, "width": SIDE},
            image_grid_pinpoints=pixel_sizes(NEXT_GRIDS),
        ),
    },
    "LLaVA-OneVision": {
        "vision": {"model_type": "siglip_vision_model", "patch_size": 7, "vision_use_head": False},
        "image_processor": SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, resample=3),
        "options": {"max_views": 2},
        "layer": -1,
        "config": transformers.LlavaOnevisionConfig,
        "fields": {
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_2",
            "image_grid_pinpoints": pixel_sizes(ONEVISION_GRIDS),
        },
        "model": transformers.LlavaOnevisionForConditionalGeneration,
        "pixels": LlavaOnevisionImageProcessorPil(
            size={"height": SIDE, "width": SIDE},
            image_grid_pinpoints=pixel_sizes(ONEVISION_GRIDS),
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
    },
}


@pytest.fixture(params=VARIANTS)
def variant(request):
    return VARIANTS[request.param]


@pytest.fixture
def processor(tiny_tokenizer, variant):
    return LlavaProcessor(
        variant["image_processor"],
        copy.deepcopy(tiny_tokenizer),
        7,
        chat_template=TEMPLATE,
        image_aspect_ratio="anyres",
        image_layout_options=variant["options"],
    )


@pytest.fixture
def ours(tiny_model, processor, variant):
    model = tiny_model(
        vision=variant["vision"],
        text={"max_position_embeddings": 1024},
        projector_type="mlp2x_gelu",
        image_line_break=True,
        vision_feature_layer=variant["layer"],
        image_token_index=processor.image_token_id,
    )
    with torch.no_grad():
        for weight in model.model.multi_modal_projector.parameters():
            weight.mul_(10)  # for pictures to matter
    return model


@pytest.fixture
def theirs(ours, variant):
    """Transformers' model with our weights."""
    config = variant["config"](
        vision_config=ours.config.vision_config.to_dict(),
        text_config=ours.config.text_config.to_dict(),
        image_token_index=ours.config.image_token_id,
        **variant["fields"],
    )
    model = variant["model"](config).eval()
    names = {"model.multi_modal_projector.line_break": "model.image_newline"}
    weights = {names.get(name, name): weight for name, weight in ours.state_dict().items()}
    assert weights.keys() == model.state_dict().keys()
    model.load_state_dict(weights)
    return model


def messages(*pictures, text="a cat"):
    blocks = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*blocks, {"type": "text", "text": text}]}]


def encode(processor, *conversations, **options):
    return processor.apply_chat_template(
        list(conversations),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True, "padding_side": "left", **options},
    )


def as_theirs(batch, pictures, variant):
    """What transformers' model takes: its own pixels, and the sizes of the pictures."""
    images = variant["pixels"](pictures, return_tensors="pt")
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return {**text, "pixel_values": images["pixel_values"], "image_sizes": images["image_sizes"]}


def test_logits_loss_and_gradients_are_bit_identical(ours, theirs, processor, variant):
    pictures = [picture(*size) for size in SIZES]
    batch = encode(processor, *(messages(one, text="a cat sits"[: 3 + index]) for index, one in enumerate(pictures)))
    reference = as_theirs(batch, pictures, variant)
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == processor.image_token_id, -100)
    a, b = ours(**batch, labels=labels), theirs(**reference, labels=labels)
    assert a.logits.dtype == torch.float32
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.loss, b.loss)
    a.loss.backward()
    b.loss.backward()
    newline, line_break = theirs.model.image_newline, ours.model.multi_modal_projector.line_break
    assert line_break.grad.abs().sum() > 0
    assert torch.equal(line_break.grad, newline.grad)
    weights = theirs.model.multi_modal_projector.linear_1.weight
    assert torch.equal(ours.model.multi_modal_projector.linear_1.weight.grad, weights.grad)


def test_features_of_each_picture_are_bit_identical(ours, theirs, processor, variant):
    pictures = [picture(*size) for size in SIZES]
    images = variant["pixels"](pictures, return_tensors="pt")
    with torch.no_grad():
        a = ours.get_image_features(**processor.process_images(pictures)).pooler_output
        sizes = {"pixel_values": images["pixel_values"], "image_sizes": images["image_sizes"]}
        b = theirs.get_image_features(**sizes, return_dict=True).pooler_output
    assert len(a) == len(b) == len(SIZES)
    assert all(torch.equal(mine, other) for mine, other in zip(a, b, strict=True))
    pooled = processor.process_images(pictures)["feature_places"][:, 9:11]
    assert bool(pooled.any()) == (variant["options"] is not None)


def test_greedy_text_is_identical(ours, theirs, processor, variant):
    pictures = [picture(*size) for size in SIZES]
    batch = encode(processor, *map(messages, pictures))
    settings = {"max_new_tokens": 12, "do_sample": False}
    mine = ours.generate(**batch, **settings)
    assert mine.shape[1] == batch["input_ids"].shape[1] + 12
    assert torch.equal(mine, theirs.generate(**as_theirs(batch, pictures, variant), **settings))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_mixed_sizes_scores_as_its_samples_alone(ours, processor, side):
    pictures = [picture(*size) for size in SIZES]
    samples = [messages(*pictures[:2], text="a cat sits"), messages(text="a dog"), *map(messages, pictures[2:])]
    batch = encode(processor, *samples, padding_side=side)
    with torch.no_grad():
        together = ours(**batch).logits
        for index, sample in enumerate(samples):
            alone = ours(**encode(processor, sample)).logits[0]
            real = together[index][batch["attention_mask"][index].bool()]
            torch.testing.assert_close(real, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
def test_a_batch_of_mixed_sizes_answers_as_its_samples_alone(ours, processor, options):
    pictures = [picture(*size) for size in SIZES[:4]]
    samples = [messages(*pictures[:2]), messages(text="a dog"), *map(messages, pictures[2:])]
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, **options}
    batch = encode(processor, *samples)
    together = ours.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
    alone = []
    for sample in samples:
        inputs = encode(processor, sample)
        alone.append(ours.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :])
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.slow
def test_a_static_cache_and_compilation_answer_alike(ours, processor):
    batch = encode(processor, messages(picture(90, 40)))
    settings = {"max_new_tokens": 6, "do_sample": False}
    plain = ours.generate(**batch, **settings)
    assert torch.equal(plain, ours.generate(**batch, **settings, use_cache=False))
    assert torch.equal(plain, ours.generate(**batch, **settings, cache_implementation="static"))
    with torch.no_grad():
        expected = ours(**batch).logits
        torch._dynamo.reset()
        # Not as one graph: which features stay is data
        compiled = torch.compile(ours, backend="eager")(**batch).logits
    torch.testing.assert_close(compiled, expected)


def test_questions_that_share_a_picture_are_answered_as_alone(ours, processor):
    """Its prefix is read once for the questions on it, however many tokens it takes."""
    pictures = [picture(*size) for size in SIZES[:3]]
    asked = [(text, one) for one in pictures for text in ("a cat", "a dog sits")]
    questions = [
        Question(str(index), prompt=text, images=[one], max_new_tokens=4) for index, (text, one) in enumerate(asked)
    ]
    together = {answer.id: answer.text for answer in LocalEngine(ours, processor).answer(questions)}
    for question in questions:
        [alone] = LocalEngine(ours, processor, batch_size=1).answer([question])
        assert alone.error is None and together[question.id] == alone.text


def test_a_talk_reads_a_picture_once(ours, processor):
    session = ChatSession(ours, processor)
    session.set_image(picture(90, 40))
    [tokens] = processor._get_num_multimodal_tokens(image_sizes=[(40, 90)]).num_image_tokens
    for index in range(2):
        session.ask("a cat", stream=False, max_new_tokens=3)
        assert session.num_cached_tokens >= tokens * index


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_both_stages_take_a_step_and_what_is_frozen_stays(ours, processor, stage):
    ours.set_stage(stage)
    before = copy.deepcopy(ours.state_dict())
    answer = [{"role": "assistant", "content": "on the mat"}]
    question = {"role": "user", "content": "<image>a cat"}
    rows = [{"images": [picture(*size)], "messages": [question, *answer]} for size in SIZES]
    learning = [parameter for parameter in ours.parameters() if parameter.requires_grad]
    ours.train()(**LlavaCollator(processor)(rows)).loss.backward()
    torch.optim.SGD(learning, lr=1.0).step()
    learns = ("multi_modal_projector",) + (("language_model", "lm_head") if stage == "instruct" else ())
    moved = {name for name, weight in ours.state_dict().items() if not torch.equal(weight, before[name])}
    assert "model.multi_modal_projector.line_break" in moved
    assert moved and all(any(part in name for part in learns) for name in moved)


REMOTE = """
import sys, torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

try:
    import llavakit
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("llavakit can be imported here, so that this shows nothing")
folder = sys.argv[1]
expected = torch.load(f"{folder}/expected.pt")
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules.")
content = [{"type": "image", "image": Image.open(f"{folder}/picture.png")}, {"type": "text", "text": "a cat"}]
batch = processor.apply_chat_template(
    [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
)
assert batch["pixel_values"].shape[0] == expected["views"]
with torch.no_grad():
    assert torch.equal(model(**batch).logits, expected["logits"])
assert torch.equal(model.generate(**batch, max_new_tokens=6, do_sample=False), expected["text"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"candidates": [[28, 84], [84, 28]]}, {"max_views": 2}])
def test_the_code_beside_the_weights_stands_alone(
    vision_checkpoint, language_checkpoint, tmp_path, warm_python, options
):
    vision, language = vision_checkpoint("clip_vision_model", patch_size=7), language_checkpoint("llama")
    VARIANTS["LLaVA-NeXT"]["image_processor"].save_pretrained(vision)
    model, processor = build_llava(
        vision,
        language,
        chat_template=TEMPLATE,
        projector_type="mlp2x_gelu",
        image_aspect_ratio="anyres",
        image_layout_options=options,
    )
    assert model.config.image_line_break and processor.image_token_grid == [4, 4]
    folder = tmp_path / "checkpoint"
    save_llava(model, processor, folder)
    picture(130, 40).save(folder / "picture.png")
    batch = encode(processor, messages(picture(130, 40)))
    with torch.no_grad():
        logits = model(**batch).logits
    expected = {"views": len(batch["pixel_values"]), "logits": logits}
    expected["text"] = model.generate(**batch, max_new_tokens=6, do_sample=False)
    torch.save(expected, folder / "expected.pt")
    done = warm_python.run(["-c", WITHOUT_LLAVAKIT + REMOTE, str(folder)], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
