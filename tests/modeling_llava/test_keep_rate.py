"""Fewer image tokens at inference: the processor counts them, and the model keeps the features that differ most."""

import copy
import itertools
import random

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit import LlavaProcessor
from llavakit.modeling_llava.keep_rate import most_diverse
from llavakit.processing.image_layouts import IMAGE_LAYOUTS

from .test_layouts import TEMPLATE, Halves, encode, messages

SIDE = 56  # 16 patches


@pytest.fixture
def made(tiny_model, tiny_tokenizer, monkeypatch):
    """Makes a model, and a processor for each of several rates."""
    monkeypatch.setitem(IMAGE_LAYOUTS, "halves", Halves)

    def make(layout="crop", rates=(1.0,), model_fields=None, **fields):
        processors = [
            LlavaProcessor(
                CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False),
                copy.deepcopy(tiny_tokenizer),
                14,
                chat_template=TEMPLATE,
                image_aspect_ratio=layout,
                image_keep_rate=rate,
                **fields,
            )
            for rate in rates
        ]
        model = tiny_model(
            image_token_index=processors[0].image_token_id,
            image_line_break=processors[0].layout.line_breaks,
            vision={"image_size": SIDE},
            text={"max_position_embeddings": 1024},
            **(model_fields or {}),
        )
        with torch.no_grad():
            for weight in model.model.multi_modal_projector.parameters():
                weight.mul_(20)
            if model.model.multi_modal_projector.line_break is not None:
                model.model.multi_modal_projector.line_break.normal_()
        return model, *processors

    return make


@pytest.fixture
def pictures():
    torch.manual_seed(3)
    sizes = [(56, 80), (100, 60), (56, 56), (160, 60)]
    return [Image.fromarray((torch.rand(height, width, 3) * 255).byte().numpy()) for width, height in sizes]


def test_the_choice_is_greedy_and_close_to_the_best():
    """Each next one is the farthest from all before; and greed is at most twice as close as can be (angles are a metric)."""
    rng = random.Random(0)
    for _ in range(30):
        tokens = rng.randint(2, 9)
        count = rng.randint(2, tokens)
        features = torch.randn(tokens, 3) * torch.rand(tokens, 1)
        chosen = most_diverse(features, count).tolist()
        assert chosen == sorted(set(chosen)) and len(chosen) == count
        directions = torch.nn.functional.normalize(features, dim=-1)
        angles = (directions @ directions.T).clamp(-1, 1).arccos()

        def apart(indices, angles=angles):
            return min(angles[one, other].item() for one, other in itertools.combinations(indices, 2))

        best = max(apart(indices) for indices in itertools.combinations(range(tokens), count))
        assert apart(chosen) >= best / 2 - 0.02
        # Fewer are some of more: the choice goes on where it stopped
        assert set(most_diverse(features, count - 1).tolist()) < set(chosen)


def test_what_is_seen_twice_is_kept_once():
    wall, things = torch.randn(8), torch.randn(3, 8)
    features = torch.stack([wall, wall * 2, things[0], wall, things[1], wall, wall, things[2]])
    kept = most_diverse(features, 4).tolist()
    assert {2, 4, 7} < set(kept)
    assert torch.equal(most_diverse(wall.expand(6, 8), 3), torch.tensor([0, 1, 2]))  # and ties go by order


def test_the_whole_rate_is_what_it_was(made, pictures):
    model, plain, whole = made(rates=(1.0, 1.0))
    assert plain.view == whole.view and plain.view.keep_rate == 1
    batch = encode(plain, messages(*pictures))
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values"}
    # A rate that leaves nothing out, down to the bits
    _, nearly = made(rates=(0.99,))
    others = encode(nearly, messages(*pictures))
    assert torch.equal(others["input_ids"], batch["input_ids"]) and "feature_places" in others
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, model(**others).logits)


@pytest.mark.parametrize("layout", [*IMAGE_LAYOUTS, "halves"])
@pytest.mark.parametrize("rate", [0.03, 0.25, 0.5, 0.9])
def test_tokens_counted_are_features_kept(made, pictures, layout, rate):
    model, plain, processor = made(layout, rates=(1.0, rate))
    inputs = processor.process_images(pictures)
    with torch.no_grad():
        everything = model.get_image_features(**plain.process_images(pictures)).pooler_output
        kept = model.get_image_features(**inputs).pooler_output
    expected = [max(1, round(len(image) * rate)) for image in everything]
    assert [len(image) for image in kept] == expected
    for image, some in zip(everything, kept, strict=True):
        assert torch.equal(some, image[most_diverse(image, len(some))])
    sizes = [(picture.height, picture.width) for picture in pictures]
    assert processor._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens == expected
    samples = [messages(pictures[0], pictures[1]), messages(text="a dog"), messages(pictures[3], text="a cat sits")]
    batch = encode(processor, *samples)
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [sum(expected[:2]), 0, expected[3]]
    for options in ({}, {"num_beams": 2}):
        options = {"max_new_tokens": 4, "do_sample": False, **options}
        together = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
        for row, sample in zip(together, samples, strict=True):
            alone = encode(processor, sample)
            assert torch.equal(model.generate(**alone, **options)[0, alone["input_ids"].shape[1] :], row)


def test_it_is_set_when_a_processor_is_loaded_and_saved_with_it(made, pictures, tmp_path):
    model, processor = made(rates=(1.0,))
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path, image_keep_rate=0.5)
    assert loaded.process_images(pictures)["feature_places"][:, 0].tolist() == [8] * 4
    loaded.image_keep_rate = 0.25  # or at any time
    assert len(model.get_image_features(**loaded.process_images(pictures)).pooler_output[0]) == 4
    loaded.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).image_keep_rate == 0.25
    with pytest.raises(ValueError, match="image_keep_rate=0.25: which parts of a picture have a token is known only"):
        loaded.image_regions(*pictures[0].size).of_token(0)


def test_the_page_says_how(made, tmp_path, monkeypatch, code_block):
    made()[1].save_pretrained(tmp_path / "llava")
    monkeypatch.chdir(tmp_path)
    names = {"AutoProcessor": AutoProcessor}
    exec(code_block("architectures.md", "python keep"), names)
    assert names["processor"].view.keep_rate == 0.25


def test_a_step_can_be_taken_with_it(made, pictures):
    """It is meant for inference, and does no harm in training."""
    model, processor = made("halves", rates=(0.5,))
    batch = encode(processor, messages(*pictures))
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    assert model.model.multi_modal_projector.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("rate", [0, -0.5, 1.5, float("nan")])
def test_what_is_no_rate_is_refused(made, rate):
    with pytest.raises(ValueError, match=r"image_keep_rate=.* give a number above 0 and up to 1"):
        made(rates=(rate,))


@pytest.mark.parametrize(
    "fields",
    [
        {"image_seq_length": 256, "image_token_grid": (4, 4), "image_tokens_of": "image"},  # a resampler
        {"image_seq_length": 16, "image_token_grid": (16, 1)},  # a Q-Former of as many queries as patches
        {"image_seq_length": 4, "image_token_grid": (2, 2)},  # patches that were averaged
        {"vision_feature_select_strategy": "full", "num_additional_image_tokens": 1},  # a class token among them
    ],
)
def test_tokens_that_are_no_patches_are_not_left_out(made, fields):
    with pytest.raises(
        ValueError, match="image_keep_rate=0.5 leaves out patches, and this model's image tokens are none"
    ):
        made(rates=(0.5,), **fields)


def test_the_model_checks_what_the_choice_is_of(made, pictures):
    model, processor = made("halves", rates=(0.5,))
    inputs = processor.process_images(pictures[:1])
    inputs["feature_places"][0, -1] = 17
    with pytest.raises(ValueError, match="gives image 0 17 tokens, but its views have 16 features that stay"):
        model.get_image_features(**inputs)
