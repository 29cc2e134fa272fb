"""With the same weights, tiles and pixel shuffle give the features and scores of transformers' own InternVL."""

import copy

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from llavakit import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from llavakit.checkpoints.building import build_llava, save_llava

from ..warm_python import WITHOUT_LLAVAKIT

SIDE = 56
VISION = {"model_type": "internvl_vision", "image_size": [SIDE, SIDE], "patch_size": [14, 14]}
SIZES = [(40, 40), (120, 50), (30, 90), (200, 190)]


@pytest.fixture
def model(tiny_model):
    model = tiny_model(
        vision=VISION, text={"model_type": "qwen2"}, projector_type="pixel_shuffle_mlp", vision_feature_layer=-1
    )
    with torch.no_grad():  # InternVL's vision starts with zeros in place of positions and of its class token
        for parameter in model.model.vision_tower.embeddings.parameters():
            parameter.normal_()
    return model


@pytest.fixture
def theirs(model):
    config = transformers.InternVLConfig(
        vision_config=model.config.vision_config.to_dict(),
        text_config=model.config.text_config.to_dict(),
        image_token_id=model.config.image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    theirs = transformers.InternVLForConditionalGeneration(config).eval()
    assert list(model.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(model.state_dict())
    return theirs


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in SIZES]


@pytest.fixture
def image_processor():
    return GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE})


@pytest.fixture
def processor(model, image_processor, tiny_tokenizer):
    processor = LlavaProcessor(
        image_processor,
        copy.deepcopy(tiny_tokenizer),
        model.config.vision_config.patch_size,
        chat_template="plain",
        num_additional_image_tokens=1,
        image_aspect_ratio="tiles",
        image_seq_length=model.config.num_image_tokens,
        image_token_grid=model.config.feature_grid,
        image_layout_options={"max_tiles": 6},
    )
    model.config.image_token_id = processor.image_token_id
    return processor


def encode(processor, *images, side="left"):
    """A prompt for each list of images, which are given one after the other: a row a view, as the reference takes them."""
    texts = [f"a cat{processor.image_token * len(each)} sits" for each in images]
    return processor(
        images=[image for each in images for image in each],
        text=texts,
        return_tensors="pt",
        padding=True,
        padding_side=side,
    )


def test_features_of_views_equal_those_of_the_reference(model, theirs):
    pixels = torch.randn(5, 3, SIDE, SIDE)
    with torch.no_grad():
        ours = torch.stack(model.get_image_features(pixels).pooler_output)
        assert ours.dtype == torch.float32 and ours.shape == (5, 4, 32)
        assert torch.equal(ours, theirs.get_image_features(pixels).pooler_output)


def test_a_picture_becomes_what_it_becomes_for_the_reference(model, theirs, processor, pictures):
    """From pixels to features: theirs come as a row a tile, ours joined to images."""
    reference = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=6)
    expected = reference(pictures, return_tensors="pt")
    with torch.no_grad():
        views = theirs.get_image_features(expected["pixel_values"]).pooler_output
        images = model.get_image_features(**processor.process_images(pictures)).pooler_output
    assert [len(image) for image in images] == [4 * count for count in expected["num_patches"]]
    assert torch.equal(torch.cat(images), views.flatten(0, 1))


def test_logits_loss_and_gradients_equal_those_of_the_reference(model, theirs, processor, pictures):
    batch = encode(processor, pictures[:1], pictures[1:])
    places = batch.pop("feature_places")
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == model.config.image_token_id, -100)
    theirs.config.image_token_id = model.config.image_token_id
    ours, expected = model(**batch, feature_places=places, labels=labels), theirs(**batch, labels=labels)
    assert torch.equal(ours.logits, expected.logits) and torch.equal(ours.loss, expected.loss)
    ours.loss.backward()
    expected.loss.backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name].grad), name


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_scores_as_its_samples_alone(model, processor, pictures, side):
    samples = [pictures[:2], [], pictures[2:3], pictures[3:]]
    batch = encode(processor, *samples, side=side)
    with torch.no_grad():
        together = model(**batch).logits
        for index, sample in enumerate(samples):
            alone = model(**encode(processor, sample)).logits[0]
            real = together[index][batch["attention_mask"][index].bool()]
            torch.testing.assert_close(real, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"cache_implementation": "static"}, {"num_beams": 3, "num_return_sequences": 2}]
)
def test_generation_in_a_batch_is_that_of_each_alone(model, processor, pictures, options):
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, **options}
    samples = [pictures[:2], [], pictures[3:]]
    batch = encode(processor, *samples)
    together = model.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
    alone = []
    for sample in samples:
        inputs = encode(processor, sample)
        alone.append(model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :])
    assert torch.equal(together, torch.cat(alone))


def test_a_cache_changes_no_score(model, processor, pictures):
    batch = encode(processor, pictures[1:2])
    settings = {"max_new_tokens": 5, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with_cache, without = (model.generate(**batch, **settings, use_cache=use) for use in (True, False))
    assert torch.equal(with_cache.sequences, without.sequences)
    torch.testing.assert_close(torch.stack(with_cache.logits), torch.stack(without.logits), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_compiled_forward_gives_the_same_scores(model, processor, pictures):
    """Where features go is data, so that the graph is broken there; the encoder and the connector are whole graphs."""
    batch = encode(processor, pictures[:2], pictures[2:])
    connector, features = model.model.multi_modal_projector, torch.randn(3, 16, 32)
    with torch.no_grad():
        compiled = torch.compile(connector, backend="eager", fullgraph=True)(features, (4, 4))
        torch.testing.assert_close(compiled, connector(features, (4, 4)))
        expected = model(**batch).logits
        torch.testing.assert_close(torch.compile(model, backend="eager")(**batch).logits, expected)


@pytest.mark.parametrize("downsample", [1, 2, 4])
def test_a_token_holds_the_square_of_its_patches(tiny_config, downsample):
    """Features that say where they are from, through a connector whose layers do nothing."""
    config = tiny_config(
        vision={**VISION, "hidden_size": 2, "num_attention_heads": 1},
        text={"hidden_size": 2 * downsample**2, "num_attention_heads": 1, "num_key_value_heads": 1},
        projector_type="pixel_shuffle_mlp",
        projector_options={"downsample": downsample},
    )
    connector = LlavaForConditionalGeneration(config).model.multi_modal_projector
    connector.layer_norm = connector.act = torch.nn.Identity()
    for layer in (connector.linear_1, connector.linear_2):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    rows, columns = 4, 8  # of a view that is no square
    places = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(8.0), indexing="ij"), dim=-1)
    tokens = connector(places.reshape(1, rows * columns, 2), (rows, columns))
    assert tokens.shape[1] == connector.num_tokens(rows * columns, config)
    assert connector.grid((rows, columns), config) == (rows // downsample, columns // downsample)
    for index, token in enumerate(tokens[0]):
        top, left = index // (columns // downsample) * downsample, index % (columns // downsample) * downsample
        square = places[top : top + downsample, left : left + downsample]
        assert torch.equal(token, square.flatten())


def test_counts_follow(tiny_config):
    def config(**fields):
        return tiny_config(vision=VISION, projector_type="pixel_shuffle_mlp", **fields)

    assert (config().num_image_tokens, config().patch_grid, config().feature_grid) == (4, (4, 4), (2, 2))
    assert config(view_size=[112, 56]).feature_grid == (4, 2)
    assert config(projector_options={"downsample": 4}).num_image_tokens == 1
    papers = LlavaConfig(
        vision_config={"model_type": "internvl_vision"},
        projector_type="pixel_shuffle_mlp",
        vision_feature_layer=-1,
    )
    assert (papers.image_shape, papers.patch_grid, papers.num_image_tokens) == ((3, 448, 448), (32, 32), 256)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"view_size": [70, 56]},
            r"The 5 x 4 patches of a view are no whole number of squares of 2 x 2: choose view_size",
        ),
        ({"projector_options": {"downsample": 3}}, "squares of 3 x 3.*another downsample in projector_options"),
        ({"projector_options": {"downsample": 0}}, "has downsample=0"),
        ({"projector_options": {"downsample": 0.5}}, r"has downsample=0\.5"),
        ({"projector_options": {"rows": 2}}, r"its options are \['downsample'\]"),
        ({"vision_feature_select_strategy": "full"}, "keeps 1 features before the patches.*use 'default'"),
    ],
)
def test_what_leaves_patches_over_is_refused_when_the_config_is_made(tiny_config, fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(vision=VISION, projector_type="pixel_shuffle_mlp", **fields)


def test_full_is_the_grid_where_nothing_stands_before_it(tiny_config):
    siglip = {"model_type": "siglip_vision_model", "image_size": 56}
    config = tiny_config(vision=siglip, projector_type="pixel_shuffle_mlp", vision_feature_select_strategy="full")
    assert config.num_image_tokens == 4


LOAD = """
import sys, torch
from transformers import AutoModelForImageTextToText, AutoProcessor
folder = sys.argv[1]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
inputs = torch.load(folder + "/inputs.pt")
pictures = torch.load(folder + "/pictures.pt", weights_only=False)
for name, tensor in processor.process_images(pictures).items():
    assert torch.equal(tensor, inputs[name]), name
with torch.no_grad():
    torch.save(model(**inputs).logits, folder + "/logits.pt")
"""


@pytest.mark.slow
def test_built_of_a_reference_checkpoint_saved_and_loaded_by_strangers(
    theirs, image_processor, language_checkpoint, pictures, tmp_path, warm_python
):
    """The encoder out of an InternVL checkpoint, through `build_llava`, to a process that has no llavakit."""
    theirs.save_pretrained(tmp_path / "internvl")
    image_processor.save_pretrained(tmp_path / "internvl")
    model, processor = build_llava(
        tmp_path / "internvl",
        language_checkpoint("qwen2", num_key_value_heads=2),
        projector_type="pixel_shuffle_mlp",
        vision_feature_layer=-1,
        image_aspect_ratio="tiles",
        image_layout_options={"max_tiles": 6},
    )
    tower = theirs.model.vision_tower.state_dict()
    assert all(torch.equal(tensor, tower[name]) for name, tensor in model.model.vision_tower.state_dict().items())
    assert (processor.patch_size, processor.image_token_grid, processor.num_image_tokens) == (14, [2, 2], 4)
    folder = tmp_path / "llava"
    save_llava(model, processor, folder)
    inputs = dict(encode(processor, pictures[:2], pictures[2:]))
    torch.save(inputs, folder / "inputs.pt")
    torch.save(pictures, folder / "pictures.pt")
    for name, tensor in processor.process_images(pictures).items():
        assert torch.equal(tensor, AutoProcessor.from_pretrained(folder).process_images(pictures)[name])
    with torch.no_grad():
        expected = model(**inputs).logits
        assert torch.equal(AutoModelForImageTextToText.from_pretrained(folder)(**inputs).logits, expected)
    done = warm_python.run(["-c", WITHOUT_LLAVAKIT + LOAD, folder])
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.equal(torch.load(folder / "logits.pt"), expected)
