"""What vLLM's transformers backend asks of a processor and a model, replayed call by call.

There is no vLLM here: the steps are those of its multimodal mixin for transformers models (processor called with
`return_text_replacement_offsets`, placeholders made by encoding the offsets' texts, tensors sliced by
`num_image_patches` rows an image, encoder and decoder looked up on the meta device).
"""

import copy
import re
from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llavakit import LlavaProcessor
from llavakit.processing.image_geometry import Placement
from llavakit.processing.image_layouts import IMAGE_LAYOUTS
from llavakit.processing.image_plan import ImageLayout, Mosaic

LARGEST = 10_000  # the side of the picture that memory is measured with


@dataclass(frozen=True)
class Twice(ImageLayout):
    """A wide picture as two views, any other as one."""

    def mosaics(self, width, height, view):
        return [Mosaic((1, 2 if width > height else 1), view)]

    def cut(self, image, view, image_processor):
        return [image] * (2 if image.width > image.height else 1)

    def placement(self, width, height, view):
        return Placement(view.width, view.height, view.width / width, view.height / height)


@pytest.fixture
def layouts(monkeypatch):
    monkeypatch.setitem(IMAGE_LAYOUTS, "twice", Twice)


@pytest.fixture
def processor(tiny_tokenizer):
    """Makes a processor of 28 pixels in patches of 14, four tokens a view."""

    def make(layout):
        image_processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
        tokenizer = copy.deepcopy(tiny_tokenizer)
        return LlavaProcessor(image_processor, tokenizer, 14, chat_template="vicuna_v1", image_aspect_ratio=layout)

    return make


def pictures():
    torch.manual_seed(0)
    return [Image.fromarray((torch.rand(h, w, 3) * 255).byte().numpy()) for w, h in [(40, 30), (30, 40), (50, 30)]]


def called(processor, prompt, images, **options):
    """A call as the backend makes it, and what it makes of the result: ids, and the placeholder ids of each image."""
    outputs = processor(
        text=prompt, images=images, return_text_replacement_offsets=True, return_tensors="pt", **options
    )
    offsets = outputs.pop("text_replacement_offsets")
    encode = processor.tokenizer.encode
    targets = [encode(offset["text"], add_special_tokens=False) for offset in offsets[0]]
    placeholders = [encode(offset["replacement"], add_special_tokens=False) for offset in offsets[0]]
    assert all(offset["type"] == "image" for offset in offsets[0])
    return outputs, offsets[0], targets, placeholders


@pytest.mark.parametrize("layout", ["crop", "pad", "twice"])
def test_offsets_encode_to_the_very_ids(layout, layouts, processor):
    processor, images = processor(layout), pictures()
    prompt = "<image> a cat <image> sits <image>"
    outputs, offsets, targets, placeholders = called(processor, prompt, images)
    sizes = [(image.height, image.width) for image in images]
    counted = processor._get_num_multimodal_tokens(image_sizes=sizes)
    image_id = processor.image_token_id
    assert targets == [[image_id]] * 3  # a placeholder of the prompt is one token
    assert placeholders == [[image_id] * count for count in counted["num_image_tokens"]]
    # The text with its replacements put in, by the spans of both texts
    expanded, last = "", 0
    for offset in offsets:
        start, end = offset["span"]
        assert prompt[start:end] == offset["text"] == "<image>"
        expanded += prompt[last:start]
        assert offset["new_span"] == (len(expanded), len(expanded) + len(offset["replacement"]))
        expanded, last = expanded + offset["replacement"], end
    expanded += prompt[last:]
    ids = outputs["input_ids"][0].tolist()
    assert [token for token in ids if token == image_id] == [token for one in placeholders for token in one]
    # The runs of image tokens in the ids are the placeholders, at their places
    runs = [0]
    for before, token in zip([None, *ids], ids, strict=False):
        if token == image_id:
            runs = [*runs, 0] if before != image_id and runs[-1] else runs
            runs[-1] += 1
    assert runs == [len(one) for one in placeholders]
    assert expanded.count("<image>") == sum(runs)


@pytest.mark.parametrize("layout", ["crop", "pad", "twice"])
def test_tensors_are_sliced_by_rows_of_an_image(layout, layouts, processor):
    """Every tensor that goes with the images, cut by `num_image_patches` rows, is what each image gives by itself."""
    processor, images = processor(layout), pictures()
    outputs, *_ = called(processor, "<image><image><image>", images)
    sizes = [(image.height, image.width) for image in images]
    rows = processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_patches"]
    fields = [name for name in outputs if name not in ("input_ids", "attention_mask")]
    assert "pixel_values" in fields
    for name in fields:
        assert len(outputs[name]) == sum(rows)
        for image, piece in zip(images, outputs[name].split(rows), strict=True):
            alone, *_ = called(processor, "<image>", [image])
            assert torch.equal(alone[name], piece)


@pytest.mark.parametrize("layout", ["crop", "pad", "twice"])
def test_features_of_slices_put_together_again_are_those_of_each_image(layout, layouts, processor, tiny_model):
    processor, images = processor(layout), pictures()
    model = tiny_model(image_token_index=processor.image_token_id)
    alone = [called(processor, "<image>", [image])[0] for image in images]
    order = [2, 0, 1]  # a scheduler batches images of several requests
    fields = [name for name in alone[0] if name not in ("input_ids", "attention_mask")]
    batch = {name: torch.cat([alone[index][name] for index in order]) for name in fields}
    sizes = [(image.height, image.width) for image in images]
    tokens = processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"]
    with torch.no_grad():
        features = model.model.get_image_features(batch.pop("pixel_values"), **batch).pooler_output
        for index, feature in zip(order, features, strict=True):
            assert len(feature) == tokens[index]
            fields_of_one = {name: alone[index][name] for name in fields}
            [one] = model.model.get_image_features(**fields_of_one).pooler_output
            torch.testing.assert_close(feature, one)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["crop", "pad", "twice"])
def test_the_largest_picture(layout, layouts, processor):
    """Counted from its size alone; and made, in the dummy run that memory is measured with."""
    processor = processor(layout)
    [tokens] = processor._get_num_multimodal_tokens(image_sizes=([LARGEST, LARGEST],))["num_image_tokens"]
    assert tokens == 4
    outputs, _, _, [placeholder] = called(processor, processor.image_token, [Image.new("RGB", (LARGEST, LARGEST))])
    assert len(placeholder) == tokens == (outputs["input_ids"] == processor.image_token_id).sum()


def test_no_images(processor):
    assert processor("crop")._get_num_multimodal_tokens().num_image_tokens is None


def test_offsets_of_a_batch_and_of_text_alone(processor):
    processor, images = processor("crop"), pictures()
    options = {"return_text_replacement_offsets": True, "padding": True}
    batch = processor(text=["a <image>", "a cat", "<image><image>"], images=images, **options)
    spans = [[offset["span"] for offset in sample] for sample in batch["text_replacement_offsets"]]
    assert spans == [[(2, 9)], [], [(0, 7), (7, 14)]]
    assert "text_replacement_offsets" not in processor(text="<image>", images=images[0])
    with pytest.raises(ValueError, match="takes images and text, no videos"):
        processor(text="a", videos=images)


def test_encoder_and_decoder_are_found_on_the_meta_device(processor, tiny_model, tmp_path):
    processor = processor("crop")
    tiny_model(image_token_index=processor.image_token_id).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.get_encoder(modality="image") is model.vision_tower
    assert type(model.get_encoder(modality="image")) is not type(model)
    assert model.get_decoder() is model.language_model
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert hasattr(loaded, "image_processor") and not hasattr(loaded, "video_processor")
    assert not hasattr(loaded, "feature_extractor") and not hasattr(loaded, "audio_processor")


def test_the_backend_s_attention_takes_the_place_of_the_language_model_s_own(processor, tiny_model, monkeypatch):
    """It is registered by a name, given to the text config alone, and gets its layers' objects through `forward`."""
    processor = processor("crop")
    model = tiny_model(image_token_index=processor.image_token_id).eval()
    calls = []

    def served_attention(module, query, key, value, attention_mask, scaling=None, attention_instances=None, **kwargs):
        calls.append(attention_instances[module.layer_idx])
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        return attended.transpose(1, 2).contiguous(), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "served", served_attention)
    config, layers = copy.deepcopy(model.config), model.config.text_config.num_hidden_layers
    config.get_text_config()._attn_implementation = "served"
    with torch.device("meta"):
        backend = AutoModel.from_config(config)
    backend.load_state_dict(model.model.state_dict(), assign=True)
    for name, buffer in model.model.named_buffers():  # those that no checkpoint holds
        owner, _, last = name.rpartition(".")
        setattr(backend.get_submodule(owner), last, buffer)
    outputs, *_ = called(processor, "<image> a cat <image> sits", pictures()[:2])
    ids = outputs.pop("input_ids")
    outputs.pop("attention_mask")
    with torch.no_grad():
        expected = model.model(input_ids=ids, **outputs).last_hidden_state
        features = backend.eval().get_image_features(outputs.pop("pixel_values"), **outputs, return_dict=True)
        embeddings = backend.get_input_embeddings()(ids)
        embeddings[ids == processor.image_token_id] = torch.cat(features.pooler_output)
        said = backend(
            input_ids=None,
            inputs_embeds=embeddings,
            position_ids=torch.arange(ids.shape[1])[None],
            use_cache=False,
            attention_instances={layer: f"layer {layer}" for layer in range(layers)},
            return_dict=False,
        )[0]
    assert calls == [f"layer {layer}" for layer in range(layers)], (
        "the layers of the language model, in their order, and no layer of the encoder"
    )
    torch.testing.assert_close(said, expected)


def test_layers_that_can_be_shared_out_are_named(tiny_model):
    """The plan that tensor parallelism goes by, from the base model on, as the backend matches it with module names."""
    model = tiny_model().model
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    styles = {
        name: style
        for name in names
        for pattern, style in model.tp_plan.items()
        if re.fullmatch(pattern.replace(".", r"\.").replace("*", r"\d+"), name)
    }
    layers = [name for name in names if name.startswith("language_model.layers.")]
    assert len(layers) == 7 * model.config.text_config.num_hidden_layers and set(layers) <= styles.keys()
    assert {style for name, style in styles.items() if name.endswith(("o_proj", "down_proj"))} == {"rowwise"}
    assert {style for name, style in styles.items() if name.endswith(("q_proj", "gate_proj"))} == {"colwise"}
