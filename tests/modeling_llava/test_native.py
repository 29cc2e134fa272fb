"""Native resolution through a whole LLaVA: encoders that take any size, beside the same encoders called directly."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from llavakit import LlavaCollator, LlavaForConditionalGeneration
from llavakit.checkpoints.building import build_llava, save_llava
from llavakit.inference.engine import Question
from llavakit.inference.local_engine import LocalEngine
from llavakit.inference.session import ChatSession
from llavakit.modeling_llava.model_parts import STAGES, part_of
from llavakit.modeling_llava.vision_encoding import as_patches, as_pixels
from llavakit.train.inspect.shown_pictures import shown_picture, views_as_seen

from ..warm_python import WITHOUT_LLAVAKIT
from .backbone_families import clip, dinov2, siglip

# Answers end with a token of their own, as in most templates
TEMPLATE = (
    "{% for message in messages %}{% for block in message.content %}"
    "{{ '<image>' if block.type == 'image' else block.text }}{% endfor %}"
    "{% if message.role == 'assistant' %}{% generation %}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
# (model type, fields, its image processor): a view of its own is 56 pixels, 8 x 8 or 4 x 4 patches
ENCODERS = {
    "SigLIP 2 NaFlex": (
        "siglip2_vision_model",
        {"num_patches": 64, "patch_size": 7, "image_size": None},
        Siglip2ImageProcessorPil(patch_size=7, max_num_patches=64),
    ),
    "CLIP": ("clip_vision_model", {"image_size": 56}, clip(56)),
    "SigLIP": ("siglip_vision_model", {"image_size": 56}, siglip(56)),
    "DINOv2": ("dinov2_with_registers", {"image_size": 28, "num_register_tokens": 2}, dinov2(56)),
    "DINOv3": ("dinov3_vit", {"image_size": 56, "num_register_tokens": 1}, siglip(56)),
}
CONNECTORS = {
    "linear": {},
    "four patches a token": {"projector_type": "pixel_shuffle_mlp"},
    "a fixed number in rows": {"projector_type": "mlp2x_gelu", "projector_options": {"pooled_tokens": 4}},
    "a fixed number": {
        "projector_type": "qformer",
        "projector_options": {"num_queries": 3, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 16},
    },
    "of the image": {"projector_type": "resampler", "projector_options": {"num_queries": 4, "num_heads": 2}},
}


def picture(width, height, seed=0):
    pixels = np.random.default_rng([seed, width, height]).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folders(vision_checkpoint, language_checkpoint):
    """The folder of an encoder, with its image processor, and of a language model."""
    language, visions = language_checkpoint("llama", initializer_range=0.2, bos_token_id=1, eos_token_id=2), {}

    def make(encoder):
        if encoder not in visions:
            model_type, fields, image_processor = ENCODERS[encoder]
            visions[encoder] = vision_checkpoint(model_type, initializer_range=0.2, **fields)
            image_processor.save_pretrained(visions[encoder])
        return visions[encoder], language

    return make


@pytest.fixture(scope="module")
def build(folders):
    def make(encoder, connector="linear", **options):
        torch.manual_seed(0)
        options = {"chat_template": TEMPLATE, "image_aspect_ratio": "native", **CONNECTORS[connector], **options}
        return build_llava(*folders(encoder), **options)

    return make


@pytest.fixture(params=["SigLIP 2 NaFlex", "DINOv2"])
def llava(request, build):
    """A model whose pictures change its text, and its processor."""
    model, processor = build(request.param)
    with torch.no_grad():
        model.model.multi_modal_projector.linear.weight.mul_(10)
    return model, processor


def encode(processor, texts, pictures, side="left"):
    return dict(processor(images=pictures, text=texts, padding=True, padding_side=side, return_tensors="pt"))


TEXTS = ["<image> a cat <image>", "a dog", "<image>"]
PICTURES = [picture(50, 40), picture(20, 90), picture(33, 31)]
OF_TEXTS = [PICTURES[:2], [], PICTURES[2:]]


@pytest.mark.parametrize("connector", CONNECTORS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_tokens_counted_are_features_made(encoder, connector, build):
    model, processor = build(encoder, connector)
    draw, connected = random.Random(encoder + connector), model.model.multi_modal_projector
    pictures = [picture(draw.randint(1, 150), draw.randint(1, 150)) for _ in range(20)]
    counted = processor._get_num_multimodal_tokens([(one.height, one.width) for one in pictures]).num_image_tokens
    inputs = processor.process_images(pictures)
    with torch.no_grad():
        made = model.get_image_features(**inputs).pooler_output
        for one, features in zip(pictures[:5], made, strict=False):
            [alone] = model.get_image_features(**processor.process_images([one])).pooler_output
            torch.testing.assert_close(features, alone, rtol=1e-4, atol=1e-4)
    assert [len(features) for features in made] == counted
    assert all(features.isfinite().all() for features in made)
    assert len(set(counted)) == (1 if "fixed" in connector or "of the" in connector else len(set(counted))) > 0
    if connected.line_break is not None and connector != "a fixed number in rows":
        rows, columns = inputs["spatial_shapes"][0].tolist()
        across = 2 if connector == "four patches a token" else 1
        ends = made[0].reshape(rows // across, columns // across + 1, -1)[:, -1]
        assert torch.equal(ends, connected.line_break.expand_as(ends))


def test_features_are_those_of_the_naflex_encoder_on_its_own_image_processor(build):
    model, processor = build("SigLIP 2 NaFlex", image_layout_options={"line_breaks": False, "min_pixels": 49 * 60})
    draw, same = random.Random(0), 0
    for _ in range(40):
        one = picture(draw.randint(7, 120), draw.randint(7, 120))
        theirs, ours = processor.image_processor([one], return_tensors="pt"), processor.process_images([one])
        if not torch.equal(theirs["spatial_shapes"], ours["spatial_shapes"]):
            continue
        same += 1
        with torch.no_grad():
            states = model.model.vision_tower(**theirs, output_hidden_states=True).hidden_states[-2]
            expected = model.model.multi_modal_projector(states[:, : ours["pixel_values"].shape[1]])
            [made] = model.get_image_features(**ours).pooler_output
        torch.testing.assert_close(made, expected[0], rtol=1e-4, atol=1e-4)
    assert same >= 8


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name != "SigLIP 2 NaFlex"])
def test_features_are_those_of_the_encoder_called_directly(encoder, build):
    model, processor = build(encoder, image_layout_options={"line_breaks": False})
    options = {"interpolate_pos_encoding": True} if encoder in ("CLIP", "SigLIP") else {}
    before = model.config.num_additional_image_tokens
    for one in [picture(56, 56), picture(28, 84), picture(14, 14), picture(70, 42)]:  # whole patches: kept as they are
        pixels = processor.image_processor([one], do_resize=False, do_center_crop=False, return_tensors="pt")
        [made] = model.get_image_features(**processor.process_images([one])).pooler_output
        with torch.no_grad():
            states = model.model.vision_tower(**pixels, output_hidden_states=True, **options).hidden_states[-2]
            expected = model.model.multi_modal_projector(states[:, before:])
        assert torch.equal(made, expected[0])


def test_patches_and_pixels_are_each_other():
    pixels = torch.randn(2, 3, 28, 42)
    patches = as_patches(pixels, (14, 7))
    assert patches.shape == (2, 12, 294)
    assert torch.equal(as_pixels(patches, (2, 6), (14, 7)), pixels)
    assert torch.equal(patches[1, 7].reshape(14, 7, 3), pixels[1, :, 14:, 7:14].permute(1, 2, 0))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_mixed_sizes_is_its_samples(llava, side):
    model, processor = llava
    batch = encode(processor, TEXTS, OF_TEXTS, side)
    with torch.no_grad():
        scores = model(**batch).logits
        for row, text, images in zip(range(3), TEXTS, OF_TEXTS, strict=True):
            alone = model(**encode(processor, [text], images or None)).logits[0]
            mask = batch["attention_mask"][row].bool()
            torch.testing.assert_close(scores[row][mask], alone, rtol=1e-4, atol=1e-4)
        blind = model(**{**batch, "pixel_values": torch.zeros_like(batch["pixel_values"])}).logits
    assert not torch.allclose(scores, blind, atol=1e-2)


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"cache_implementation": "static"}]
)
def test_generation_repeats_a_picture_whole(llava, options):
    model, processor = llava
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, **options}

    def continuation(texts, pictures):
        batch = encode(processor, texts, pictures or None)
        return model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]

    together = continuation(TEXTS, OF_TEXTS)
    assert torch.equal(
        together, torch.cat([continuation([text], images) for text, images in zip(TEXTS, OF_TEXTS, strict=True)])
    )


def test_inputs_are_expanded_where_images_are_not_encoded_before(llava):
    """As transformers did before it encoded images ahead of beams."""
    model, processor = llava
    batch = encode(processor, TEXTS, OF_TEXTS)
    ids, expanded = model._expand_inputs_for_generation(2, input_ids=batch.pop("input_ids"), **batch)
    shapes = encode(processor, TEXTS, PICTURES)[
        "spatial_shapes"
    ]  # a row a view; those of a list a text are a row an image
    assert torch.equal(expanded["spatial_shapes"], shapes[[0, 1, 0, 1, 2, 2]])
    with torch.no_grad():
        logits = model(input_ids=ids, **expanded).logits
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[4], logits[5])


@pytest.mark.parametrize("stage", STAGES)
def test_what_learns_moves_and_nothing_else(llava, stage, tmp_path):
    save_llava(*llava, tmp_path)
    model, processor = LlavaForConditionalGeneration.from_pretrained(tmp_path, stage=stage).train(), llava[1]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    learning = {name for name in before if part_of(name) in STAGES[stage].learns}
    answer = [{"role": "assistant", "content": "on the mat"}]
    rows = [{"images": [one], "messages": [{"role": "user", "content": "<image>a cat"}, *answer]} for one in PICTURES]
    text = {"messages": [{"role": "user", "content": "a dog"}, *answer]}
    collator = LlavaCollator(processor)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for samples in (rows, [text], [rows[0], text]):  # text alone touches all that learns too
        batch = collator(samples)
        assert ("spatial_shapes" in batch) == (samples != [text])
        model(**batch).loss.backward()
        silent = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
        assert all(part_of(name) == "vision tower" for name in silent)
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved <= learning and {part_of(name) for name in moved} == set(STAGES[stage].learns)
    # What stands behind the feature layer of the tower has no gradient
    assert all(part_of(name) == "vision tower" for name in learning - moved)


def test_answers_that_share_pictures_are_those_of_each_question_alone(llava):
    model, processor = llava
    questions = [
        Question(f"{text}{one.size}", prompt=text, images=[one, PICTURES[0]], max_new_tokens=4)
        for one in PICTURES
        for text in ("a cat", "a dog sits")
    ]
    together = {answer.id: answer.text for answer in LocalEngine(model, processor).answer(questions)}
    for question in questions:
        [alone] = LocalEngine(model, processor, batch_size=1).answer([question])
        assert alone.error is None and together[question.id] == alone.text
    session = ChatSession(model, processor)
    session.set_image(PICTURES)
    assert session.ask("a cat", stream=False, max_new_tokens=3) is not None


def test_inspect_shows_the_picture_that_the_encoder_gets(llava):
    one = Image.new("RGB", (56, 28), (200, 30, 30))
    one.paste((0, 0, 255), (28, 0, 56, 28))
    [seen] = views_as_seen(one, llava[1])
    shown = shown_picture(one, llava[1])
    assert (shown.num_views, shown.num_tokens) == (1, llava[1].plan(56, 28).num_tokens)
    assert seen.size == (56, 28)
    assert np.abs(np.asarray(seen.convert("RGB"), dtype=int) - np.asarray(one, dtype=int)).max() <= 2


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
    inputs = processor(images=expected["pictures"], text=expected["texts"], padding=True, padding_side="left",
                       return_tensors="pt")
    assert all(torch.equal(tensor, inputs[name]) for name, tensor in expected["inputs"].items())
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, expected["logits"])
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), expected["answers"])
"""


@pytest.mark.slow
def test_what_was_saved_comes_back_where_there_is_no_llavakit(build, warm_python, tmp_path):
    folders = []
    for encoder, connector in [("SigLIP 2 NaFlex", "four patches a token"), ("CLIP", "of the image")]:
        model, processor = build(encoder, connector, image_layout_options={"max_pixels": 14 * 14 * 12})
        folder = tmp_path / f"llava{len(folders)}"
        save_llava(model, processor, folder)
        batch = encode(processor, TEXTS, OF_TEXTS)
        with torch.no_grad():
            logits = model(**batch).logits
            assert torch.equal(AutoModelForImageTextToText.from_pretrained(folder).eval()(**batch).logits, logits)
        answers = model.generate(**batch, max_new_tokens=4, do_sample=False)
        expected = {"pictures": OF_TEXTS, "texts": TEXTS, "inputs": batch, "logits": logits, "answers": answers}
        torch.save(expected, folder / "expected.pt")
        folders.append(str(folder))
    done = warm_python.run(["-c", WITHOUT_LLAVAKIT + REMOTE, *folders], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_cannot_be_is_refused(build, vision_checkpoint, language_checkpoint):
    with pytest.raises(ValueError, match="cuts whole pictures into patches.* use 'native'"):
        build("SigLIP 2 NaFlex", image_aspect_ratio="crop")
    with pytest.raises(ValueError, match="vision_feature_select_strategy='full' keeps 1 features.*use 'default'"):
        build("CLIP", vision_feature_select_strategy="full")
    with pytest.raises(ValueError, match='="full" keeps features that have no place.*use "default"'):
        build("CLIP", vision_feature_select_strategy="full", image_layout_options={"line_breaks": False})
    vision = vision_checkpoint("aimv2_vision_model")  # learnt positions of one size
    siglip(28).save_pretrained(vision)
    with pytest.raises(
        ValueError, match="own sizes, which Aimv2VisionModel with the connector 'linear' does not take"
    ):
        build_llava(vision, language_checkpoint("llama"), chat_template="plain", image_aspect_ratio="native")


def test_the_model_checks_what_it_is_given(llava):
    model, processor = llava
    batch = encode(processor, TEXTS, PICTURES)
    shapes = batch["spatial_shapes"]
    for match, changed in (
        ("spatial_shapes has 2 rows, but pixel_values has 3 views", {"spatial_shapes": shapes[:2]}),
        (
            "patches of view 1, but pixel_values has the shape",
            {"spatial_shapes": shapes * torch.tensor([[1], [9], [1]])},
        ),
        ("was planned for", {"spatial_shapes": shapes.flip(1) - torch.tensor([[1, 1], [0, 0], [0, 0]])}),
    ):
        with pytest.raises(ValueError, match=match):
            model(**{**batch, **changed})
